"""curve.py: accuracy against the share of labels."""

import json

import numpy as np
import pytest
from test_compare import write

import compare
import curve
import recipes
from util.cli import InputError

SHARES = {0.25: "quarter", 0.5: "half", 1.0: ""}


def report(share, right, encoder, name="", **more):
    """The report of a run of the fast network with this share of labels."""
    model = "autoencoder_cls_fast" if encoder else "cnn_fast"
    parts = [model, *([encoder] if encoder not in (None, "frozen") else []), SHARES.get(share, "other"), name]
    path = write("_".join(filter(None, parts)), dict(enumerate(right, 1)), encoder, model=model, labelled=share, **more)
    content = json.loads(path.read_text())
    for number, fold in content["folds"].items():
        fold["record"]["data"] |= {"train_counts": [round(100 * share)] * 10, "train_sha256": f"{share} {number}"}
    path.write_text(json.dumps(content))


def drawn(*words):
    curve.main(words)
    return json.loads((recipes.IMAGES / "curve.json").read_text())["points"]


@pytest.fixture
def study(workdir):
    for place, share in enumerate(SHARES):
        right = 0.6 + 0.1 * place
        report(share, [right, right + 0.01, right + 0.02], None)
        report(share, [right + 0.03, right + 0.05, right + 0.04], "tuned")
    report(0.25, [0.5, 0.5, 0.53], "frozen")
    return workdir


def test_points_are_those_of_the_reports_against_the_network_alone(study, capsys):
    points = drawn()
    assert [(point["images"], point["encoder"]) for point in points] == [
        (250, "frozen"),
        (250, "scratch"),
        (250, "tuned"),
        (500, "scratch"),
        (500, "tuned"),
        (1000, "scratch"),
        (1000, "tuned"),
    ]
    by_place = {(point["images"], point["encoder"]): point for point in points}
    assert by_place[500, "tuned"]["accuracy"]["mean"] == pytest.approx(0.74)
    for images in (250, 500, 1000):
        found = by_place[images, "tuned"]["difference"]
        assert np.allclose(found["differences"], [0.03, 0.04, 0.02])
        low, high, _ = compare.corrected_t_test(np.array(found["differences"]), 0.15)
        assert (found["t_test"]["low"], found["t_test"]["high"]) == pytest.approx((low, high))
        assert "difference" not in by_place[images, "scratch"]
    text = (recipes.IMAGES / "curve.txt").read_text()
    assert text in capsys.readouterr().out
    (row,) = (line for line in text.splitlines() if "| 500 " in line and "| tuned " in line)
    assert "| 0.740 ± 0.010 |" in row and "| +3.0 " in row
    assert (recipes.IMAGES / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_other_pictures_are_left_out_and_of_two_runs_the_one_with_more_folds_counts(study, capsys):
    report(0.5, [0.9, 0.9, 0.9], "frozen", "other", kept_sha256="x")
    report(1.0, [0.9, 0.9], "tuned", "short")
    points = {(point["images"], point["encoder"]): point for point in drawn()}
    assert (500, "frozen") not in points
    assert points[1000, "tuned"]["run"] == "autoencoder_cls_fast_tuned"
    said = "one point: autoencoder_cls_fast_half_other, autoencoder_cls_fast_tuned_short."
    assert f"Not drawn, as trained otherwise or a second time for {said}" in capsys.readouterr().out


def test_runs_trained_otherwise_are_no_points(study):
    report(1.0, [0.9, 0.9, 0.9, 0.9], None, "balanced", balanced=True, logit_adjustment=0.0)
    report(0.25, [0.9, 0.9, 0.9, 0.9], None, "longer", epochs=60, batch_size=125, learning_rate=0.1)
    points = {(point["images"], point["encoder"]): point["run"] for point in drawn()}
    assert points[1000, "scratch"] == "cnn_fast"
    assert points[250, "scratch"] == "cnn_fast_quarter_longer"  # it has more folds


def test_more_folds_go_before_a_later_trial_and_what_differs_is_said(study, capsys):
    report(1.0, [0.9, 0.9], "tuned", "try", epochs=1)
    recipes.CHECKPOINTS.mkdir(exist_ok=True)
    (recipes.CHECKPOINTS / "autoencoder_cls_fast_tuned_try_fold1.keras").touch()
    report(0.25, [0.5, 0.5, 0.53, 0.5], "frozen", "longer", epochs=60)
    assert "autoencoder_cls_fast_tuned_try" not in {point["run"] for point in drawn()}
    assert "| EPOCHS 60 and 12" in capsys.readouterr().out


def test_a_group_of_several_shares_goes_before_one_trained_here_later(study):
    report(1.0, [0.9, 0.9, 0.9], None, "balanced", balanced=True)
    recipes.CHECKPOINTS.mkdir(exist_ok=True)
    (recipes.CHECKPOINTS / "cnn_fast_balanced_fold1.keras").touch()
    assert "cnn_fast_balanced" not in {point["run"] for point in drawn()}


def test_one_share_is_no_curve(workdir):
    report(0.5, [0.7, 0.7, 0.71], None)
    with pytest.raises(InputError, match="a curve takes reports of two shares of labels and more, in imgs: run `make"):
        curve.main([])


def test_a_network_without_classifiers_on_an_autoencoder_is_refused(study):
    with pytest.raises(InputError, match="ARCH=elu is no network of autoencoder_cls"):
        curve.main(["ARCH=elu"])
