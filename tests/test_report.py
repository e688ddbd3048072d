"""The page of all that there is: what stands on it, in words, and that damaged files and hostile names cost nothing."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import CLASSES, ROOT

import recipes
import report
from util.cli import InputError
from util.files import write_arrays

HOSTILE = "<script>alert(1)</script>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SETTINGS = {"model": "cnn", "sha256": "s", "kept_sha256": "k", "val": 0.15, "seed": 0, "reduced": [2]}
RECORD = {
    "settings": SETTINGS,
    "data": {"source": "cifar10.npz", "sha256": "s", "kept_sha256": "k", "train_sha256": "t", "reduced": [2]}
    | {"class_names": list(CLASSES), "keep": [2500], "train_counts": [], "val_counts": []},
    "history": {key: [1.0] * 12 for key in ("loss", "val_loss", "accuracy", "val_accuracy")},
    "best_epoch": 7,
    "checkpoint_sha256": "c",
    "parameters": 2000,
    "trainable_parameters": 1999,
    "seconds": 600.0,
    "precision": "float32",
    "device": "CPU",
}


def write_report(name, figure, title="accuracy", source="cifar10.npz", prefix="", model="cnn", settings=(), **record):
    """A report as evaluate.py writes it, as far as the page reads it."""
    record = {**RECORD, "settings": {**SETTINGS, "model": model, **dict(settings)}, **record}
    report_of = {
        "data": {"source": source, "prefix": prefix, "test_images": 10_000},
        "summary": {title: {"mean": figure, "std": 0.01}, "recall bird": {"mean": 0.5, "std": None}},
        "folds": {"2": {"record": record}, "3": {"record": record}},
        "ensemble": {"accuracy": 0.8123},
    }
    recipes.IMAGES.mkdir(exist_ok=True)
    (recipes.IMAGES / f"{name}_report.json").write_text(json.dumps(report_of))


def pair(run, baseline, mean=0.05, verdict="better", **more):
    test = None if "not tested" in verdict else {"low": mean - 0.01, "high": mean + 0.01, "p_holm": 0.01}
    figures = {"mean": mean, "t_test": test, "verdict": verdict, "folds": [1, 2, 3], "reduced_minus_others": None}
    return {"run": run, "baseline": baseline, "control": True, **figures, **more}


def called(words, encoder, before=None):
    return {"words": words, "encoder": encoder, "learnt_before": before}


RUNS = {
    "frozen": called("fast CNN on frozen layers", "frozen", "images"),
    "supervised": called("fast CNN on layers of another", "tuned", "classes"),
    "scratch": called("fast CNN from scratch", "scratch"),
    "random": called("fast CNN on random layers", "random"),
    "cnn": called("plain CNN", None),
    HOSTILE: called(HOSTILE, None),
}


def write_comparison(*pairs, name="comparison", source="cifar10.npz"):
    data = {"source": source, "prefix": "", "test_images": 10_000}
    recipes.IMAGES.mkdir(exist_ok=True)
    content = {"data": data, "runs": RUNS, "comparisons": pairs}
    (recipes.IMAGES / f"{name}.json").write_text(json.dumps(content))


def write_plot(name):
    (recipes.IMAGES / f"{name}.png").write_bytes(b"a picture")


def write_state(stem, epochs):
    """A state of an unfinished training of so many epochs of 100, each second one validated."""
    history = [
        {"loss": 1.0, "accuracy": 0.1, "seconds": 60.0}
        | ({"val_loss": 0.25, "val_accuracy": 0.75} if epoch % 2 else {})
        for epoch in range(epochs)
    ]
    note = {"settings": {**SETTINGS, "epochs": 100, "monitor": "val_loss"}, "history": history, "finished": False}
    arrays = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8)}
    write_arrays(recipes.CHECKPOINTS / f"{stem}.state", **arrays)


def written():
    """(The page of what the working directory holds, its text)."""
    report.main([])
    page = (recipes.IMAGES / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>", " ", page.replace("<wbr>", ""), flags=re.DOTALL)
    return page, " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_page_has_question_answer_figure_and_tables_in_this_order(workdir):
    classifier = {"model": "autoencoder_cls", "settings": {"encoder": "frozen", "encoder_sha256": "ae"}}
    write_report("autoencoder_cls_noaug", 0.783, **classifier)
    write_report("autoencoder_cls_scratch", 0.846, model="autoencoder_cls", settings={"encoder": "scratch"})
    tuned = {"encoder": "tuned", "encoder_sha256": "fast"}
    write_report("autoencoder_cls_fast_tuned_all", 0.9, model="autoencoder_cls_fast", settings=tuned)
    write_report("cnn_fast", 0.887, model="cnn_fast", checkpoint_sha256="fast")
    write_report("cnn_elu", 0.8, model="cnn_elu")
    write_report("digits_cnn", 0.99, source="digits", prefix="digits")
    target = {"target": "augmented"}
    write_report("autoencoder_noaug", 23.04, "PSNR (dB)", model="autoencoder", settings=target, checkpoint_sha256="ae")
    write_comparison(pair("frozen", "scratch", -0.062, "worse"))
    cnn_fast = [f"cnn_fast_{kind}" for kind in ("fold2_loss", "fold3_loss", "predictions")]
    for plot in ("comparison", "cnn_elu_fold2_psnr", *cnn_fast):
        write_plot(plot)
    (recipes.IMAGES / "cnn_fast_report.txt").write_text("as it was printed")
    page, text = written()
    place = 0
    for words in (
        "Does an autoencoder help",
        "No. In 1 comparison",
        "The fast CNN on frozen layers is 6.2 points less accurate than the fast CNN from scratch",
        "-7.2 to -5.2",
        "Deeper CNN from scratch autoencoder_cls_scratch 0.846 ± 0.010 0.500 0.812 1,999 10 ± 0",
        "frozen layers of an autoencoder trained without augmentation autoencoder_cls_noaug 0.783 ± 0.010",
        "Fast CNN from scratch cnn_fast 0.887",
        "CNN with ELU",
        "digits_cnn 0.990",
        "of a supervised network (all)",
        "23.0 ± 0.0",
        "All comparisons",
        "best epoch 7 of 12",
        "as it was printed",
    ):
        assert words in text[place:]
        place = text.index(words, place)
    assert page.index("fast CNN from scratch") < page.index('alt="comparison"') < page.index("0.846")
    shown = re.findall('alt="(.*?)"', page)  # of each run those of its first fold
    assert shown == ["comparison", "cnn fast fold2 loss", "cnn fast predictions", "cnn elu fold2 psnr"]
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', page)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "is 5.0 points more accurate than"),
        ({"mean": -0.05, "verdict": "worse"}, "is 5.0 points less accurate than"),
        ({"verdict": "no difference shown"}, "is not shown to differ from"),
        ({"verdict": "not tested: fewer than three folds"}, "not tested: fewer than three folds"),
        ({"reduced_minus_others": {"mean": -0.02, "verdict": "worse"}}, "come off 2.0 points worse"),
    ],
)
def test_a_finding_says_what_the_figures_show(changed, words):
    found = report.finding(pair("frozen", "scratch", **changed), RUNS)
    assert (
        found.startswith("The fast CNN on frozen layers is") and words in found and "the fast CNN from scratch" in found
    )


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["better", "better"], "Yes"),
        (["better", "worse"], "In part"),
        (["worse"], "No"),
        (["no difference shown"], "No"),
    ],
)
def test_the_answer_counts_comparisons_of_autoencoders_with_the_network_from_scratch(verdicts, word):
    rows = [pair("frozen", "scratch", verdict=one) for one in verdicts]
    others = [
        pair("frozen", "random", verdict="better"),
        pair("supervised", "cnn", verdict="better"),
        pair("frozen", "cnn", verdict="not tested: fewer than three folds"),
        pair("scratch", "frozen", verdict="better"),
    ]
    assert report.answer(rows + others, RUNS).startswith(f"{word}. In {len(verdicts)} comparison")
    assert report.answer(others, RUNS) == ""


def test_the_reduced_classes_of_a_run_that_learnt_turns_are_those_of_its_data(workdir):
    turned = {**RECORD["data"], "class_names": ["0 degrees", "90 degrees"], "reduced": [9]}
    write_report("cnn_fast_turns", 0.89, model="cnn_fast", settings={"task": "turns"}, data=turned)
    assert "class 9 2500" in written()[1]


def test_an_unfinished_training_shows_how_far_it_is(workdir):
    write_state("cnn_mine_fold2", 5)
    write_state("autoencoder", 0)
    text = written()[1]
    assert re.search(r"cnn_mine 2 5 of 100 loss 0.250, accuracy 0.750 20\d\d-\d\d-\d\d \d\d:\d\d", text)
    assert "autoencoder 0 of 100" in text and "no answer yet" in text


def test_what_is_damaged_is_named_in_one_line_and_costs_nothing_else(workdir):
    write_report("cnn", 0.7)
    write_comparison(pair("frozen", "scratch"))
    write_state("cnn_mine_fold1", 3)
    whole = (recipes.IMAGES / "cnn_report.json").read_bytes()
    damaged = {
        recipes.CHECKPOINTS / "cnn_mine_fold2.state": b"no zip",
        recipes.IMAGES / "cnn_cut_report.json": b'{"folds": ',
        recipes.IMAGES / "cnn_list_report.json": b"[]",
        recipes.IMAGES / "cnn_empty_report.json": whole.replace(b"0.7", b'""'),
        recipes.IMAGES / "comparison_cut.json": b'{"comparisons": [{"control": 1}]}',
    }
    for path, content in damaged.items():
        path.write_bytes(content)
    page, text = written()
    named = re.findall(r"<li><b>(.*?)</b>: (.+?)</li>", page)
    assert sorted(path for path, _ in named) == sorted(map(str, damaged)) and all(reason for _, reason in named)
    assert "Plain CNN cnn 0.700" in text and "cnn_mine 1 3 of 100" in text and "Yes." in text


def test_names_never_become_markup(workdir):
    names = [*CLASSES[:2], HOSTILE, *CLASSES[3:]]
    write_report(
        "cnn", 0.7, f"recall {HOSTILE}", HOSTILE, device=HOSTILE, data={**RECORD["data"], "class_names": names}
    )
    (recipes.IMAGES / "cnn_report.txt").write_text(f"</pre>{HOSTILE}")
    (recipes.IMAGES / '"><b onclick=alert(1)>_report.json').write_text("[]")
    write_comparison(pair(HOSTILE, HOSTILE, verdict=HOSTILE), source=HOSTILE)
    page, text = written()
    assert "<script" not in page and "<b onclick" not in page
    assert text.count(HOSTILE) >= 8


def test_comparisons_and_curves_are_told_apart_by_the_names_of_their_files(workdir):
    recipes.IMAGES.mkdir()
    files = {
        "comparison": [
            "comparison",
            "comparison_curve",
            "curve_comparison",
            "curves_comparison",
            "my_data_comparison_b",
            "report_comparison",
        ],
        "curve": ["curve", "curve_fair", "digits_curve", "report_curve_b"],
        "neither": ["cnn_curve_report", "cnn_comparisons_report", "comparison_fold1_curves"],
    }
    for name in (name for names in files.values() for name in names):
        (recipes.IMAGES / f"{name}.json").touch()
    for what in ("comparison", "curve"):
        assert [path.stem for path in report.written_as(what)] == files[what]


def test_nothing_to_show_is_refused(workdir):
    with pytest.raises(InputError, match="nothing"):
        report.main([])
    assert not recipes.IMAGES.exists()


def test_the_published_figures_have_a_page_without_a_fault(workdir):
    shutil.copytree(ROOT / "imgs", "imgs", ignore=shutil.ignore_patterns("report.html", "digits_*", "*.png"))
    page, text = written()
    assert "Damaged files" not in text and "no answer yet" not in text
    assert page.count("<details>") == len(list(recipes.IMAGES.glob("*_report.json")))


@pytest.mark.system
@pytest.mark.skipif(not BROWSER, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [420, 1400])
def test_a_browser_shows_the_whole_width(workdir, width):
    shutil.copytree(ROOT / "imgs", "imgs", ignore=shutil.ignore_patterns("report.html"))
    write_state("cnn_mine_fold1", 3)
    page, _ = written()
    probe = """<script>parent.postMessage([document.documentElement.scrollWidth, document.images.length,
        [...document.images].every(one => one.naturalWidth),
        [...document.querySelectorAll(".scroll")].some(one => one.scrollWidth > one.clientWidth)], "*")</script>"""
    around = "<script>onmessage = event => document.title = JSON.stringify(event.data)</script><iframe src=page.html "
    (workdir / "page.html").write_text(page.replace("<details>", "<details open>").replace("</body>", probe))
    (workdir / "frame.html").write_text(f"{around} width={width}></iframe>")  # no window is as narrow as a phone
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=20000"]
    options += [f"--user-data-dir={workdir / 'profile'}", "--disable-background-networking"]
    command = [BROWSER, *options, f"file://{workdir / 'frame.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found, images, whole, scrolls = json.loads(html.unescape(re.search("<title>(.*?)</title>", shown)[1]))
    assert found <= width and images > 50 and whole
    assert scrolls == (width < 1400)  # a wide table scrolls inside its own box, and on a desk none has to
