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
FROZEN, TUNED = "frozen from autoencoder_fast", "tuned from autoencoder_fast"


def report(share, right, encoder, name="", **more):
    """The report of a run of the fast network with this share of labels."""
    model = "autoencoder_cls_fast" if encoder else "cnn_fast"
    parts = [model, *([encoder] if encoder not in (None, "frozen") else []), SHARES.get(share, "other"), name]
    more.setdefault("record", {"encoder_from": "autoencoder_fast"} if encoder else {})
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
        (250, FROZEN),
        (250, "scratch"),
        (250, TUNED),
        (500, "scratch"),
        (500, TUNED),
        (1000, "scratch"),
        (1000, TUNED),
    ]
    by_place = {(point["images"], point["encoder"]): point for point in points}
    assert by_place[500, TUNED]["accuracy"]["mean"] == pytest.approx(0.74)
    for images in (250, 500, 1000):
        found = by_place[images, TUNED]["difference"]
        assert np.allclose(found["differences"], [0.03, 0.04, 0.02])
        low, high, _ = compare.corrected_t_test(np.array(found["differences"]), 0.15)
        assert (found["t_test"]["low"], found["t_test"]["high"]) == pytest.approx((low, high))
        assert "difference" not in by_place[images, "scratch"]
    text = (recipes.IMAGES / "curve.txt").read_text()
    assert text in capsys.readouterr().out
    (row,) = (line for line in text.splitlines() if "| 500 " in line and f"| {TUNED} " in line)
    assert "| 0.740 ± 0.010 |" in row and "| +3.0 " in row
    assert (recipes.IMAGES / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("share", "right", "encoder", "more"),
    [
        (0.5, [0.9] * 3, "frozen", {"kept_sha256": "x"}),  # other pictures
        (1.0, [0.9] * 4, None, {"balanced": True}),  # trained otherwise, though here and last
        (1.0, [0.9] * 2, "tuned", {"epochs": 1}),  # fewer folds
    ],
)
def test_runs_of_other_pictures_trained_otherwise_or_of_fewer_folds_are_no_points(study, share, right, encoder, more):
    report(share, right, encoder, "other", **more)
    before, *_ = (path for path in recipes.IMAGES.glob("*other*.json"))
    recipes.CHECKPOINTS.mkdir()
    (recipes.CHECKPOINTS / before.name.replace("report.json", "fold1.keras")).touch()
    assert not any("other" in point["run"] for point in drawn())
    assert "other" in (recipes.IMAGES / "curve.txt").read_text()  # said to be left out


def test_other_lengths_and_rates_are_points_and_said(study):
    report(0.25, [0.9] * 4, "frozen", "longer", epochs=60, batch_size=125, learning_rate=0.1, muon_rate_factor=0.02)
    (found,) = (point for point in drawn() if point["images"] == 250 and point["encoder"] == FROZEN)
    assert found["run"] == "autoencoder_cls_fast_quarter_longer"
    assert "EPOCHS 60 and 12" in (recipes.IMAGES / "curve.txt").read_text()


def test_an_encoder_that_is_no_autoencoders_has_a_curve_of_its_own(study):
    for name, source in (("turns", "cnn_fast_turns_fold1"), ("more", "autoencoder_fast_more")):
        report(0.25, [0.9] * 4, "tuned", name, record={"encoder_from": source})
    found = {point["encoder"]: point["run"] for point in drawn() if point["images"] == 250}
    assert found[TUNED] == "autoencoder_cls_fast_tuned_quarter"
    assert found["tuned from cnn_fast_turns"] == "autoencoder_cls_fast_tuned_quarter_turns"
    assert found["tuned from autoencoder_fast_more"] == "autoencoder_cls_fast_tuned_quarter_more"


@pytest.mark.parametrize("words", [["--arch=elu"], []])
def test_one_share_or_a_network_without_encoders_is_no_curve(workdir, words):
    report(0.5, [0.7, 0.7, 0.71], None)
    with pytest.raises(InputError):
        curve.main(words)


def test_named_runs_are_drawn_and_no_others(study):
    report(0.5, [0.5, 0.5, 0.53], "frozen", "longer", validate_every=17)
    names = ["cnn_fast_quarter", "cnn_fast_half", "autoencoder_cls_fast_half_longer"]
    assert [point["run"] for point in drawn(f"--runs={' '.join(names)}")] == [names[0], names[2], names[1]]
    with pytest.raises(InputError, match="mistyped"):
        drawn("--runs=cnn_fast_quarter mistyped")
    with pytest.raises(InputError, match=r"cnn_fast_quarter.*ARCH=cae"):
        drawn("--arch=cae", f"--runs={' '.join(names)}")
