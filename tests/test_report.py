"""The page of all that there is: what stands on it, that it needs nothing else, how it looks in a real browser."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import test_compare
from conftest import CLASSES, ROOT
from PIL import Image
from test_compare import AUTOENCODER, fold_figures, write

import compare
import recipes
import report
from runs import Run
from util import page
from util.cli import InputError
from util.files import commit_arrays

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """A page as [(tag, attributes)], and the text in each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], {}, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in {*self.open}:
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self, tag):
        return [" ".join(text.split()) for text in self.texts.get(tag, [])]


def written():
    """The page of what the working directory holds."""
    report.main([])
    return Page((recipes.IMAGES / "report.html").read_text(encoding="utf-8"))


def write_state(stem, epochs, score="accuracy", finished=False, **settings):
    """A state as resume.KeepState.commit writes it, of that many epochs of 60 seconds."""
    keys = ("loss", "val_loss", score, f"val_{score}")
    history = [
        {**{key: 1 / (epoch + i) for i, key in enumerate(keys)}, "seconds": 60.0} for epoch in range(1, epochs + 1)
    ]
    note = {"settings": {"model": "cnn", "epochs": 100, "monitor": "val_loss", **settings}, "precision": "float32"}
    note |= {"machine": "a machine", "history": history, "finished": finished, "weights": 1}
    arrays = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8), "weights0": np.zeros(3)}
    commit_arrays(recipes.CHECKPOINTS / f"{stem}.state", **arrays)


@pytest.fixture(scope="module", autouse=True)
def counts():
    """Reports that say how many images of each reduced class were kept, of which LABELLED may show fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(test_compare.SPLITS, "keep", [2500] * 3)
        yield


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with evaluated runs and plots, a comparison of them, and their autoencoder."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("cnn", {1: 0.70, 2: 0.71, 3: 0.72})
        write("autoencoder_cls_scratch", {1: 0.74, 2: 0.75, 3: 0.73}, "scratch")
        write("autoencoder_cls_noaug", {1: 0.80, 2: 0.805, 3: 0.79}, "frozen")
        of = {"model": "autoencoder", "seed": 0, "val": 0.15, "sha256": "s", "kept_sha256": "k", "reduced": [2, 4, 9]}
        record = fold_figures(1, of, 0.5)["record"] | {"checkpoint_sha256": AUTOENCODER}
        record["history"] |= {"psnr": [20.0] * 12, "val_psnr": [20.0] * 12}
        summary = {"PSNR (dB)": {"mean": 23.04, "std": 1}, "SSIM": {"mean": 0.769, "std": 0.01}}
        content = {"run": "autoencoder_noaug", "data": {"source": "cifar10.npz"}, "summary": summary}
        report.report_of("autoencoder_noaug").write_text(json.dumps({**content, "folds": {"1": {"record": record}}}))
        compare.main([])
        for name in ("cnn_fold1_loss", "cnn_fold2_heatmap", "cnn_predictions", "cnn_elu_fold1_loss"):
            Image.effect_noise((84, 48), 30).convert("RGBA").save(recipes.IMAGES / f"{name}.png")
        Image.new("L", (2200, 10)).save(recipes.IMAGES / "autoencoder_noaug_psnr.png")
        (recipes.IMAGES / "cnn_report.txt").write_text("Kfold Iteration:1\nas it was printed\n")
    return folder


@pytest.fixture
def study(workdir, evaluated):
    """A working directory of the test's own with what `evaluated` has."""
    shutil.copytree(evaluated, workdir, dirs_exist_ok=True)
    return workdir


# --- What stands on it ----------------------------------------------------------------------------------------------


def test_the_order_is_answer_runs_trainings_comparisons_each_run(study):
    write_state("cnn_mine_fold1", 3)
    shown = written()
    assert shown.words("h2") == ["Evaluated runs", "Unfinished trainings", "Comparisons", "Each run"]
    (question,) = shown.words("h1")
    assert question.startswith("Does an autoencoder help")
    text = shown.words("main")[0]
    answer = "autoencoder_cls_noaug is better than autoencoder_cls_scratch (+5.8 points"
    assert text.index(question) < text.index(answer) < text.index("Evaluated runs")


def test_every_run_is_in_the_table_with_its_figures(study):
    shown = written()
    rows = [row.split() for row in shown.words("tr")]
    row = next(row for row in rows if row[0] == "cnn")
    assert row[1:5] == ["3", "0.710", "±", "0.010"]
    assert "2,170,378 (2,170,122)" in " ".join(row)
    assert row[-1] == "0.812"  # the ensemble's
    head = shown.words("tr")[0]
    for title in ("accuracy", "macro F1", "recall bird", "recall deer", "recall truck", "calibration error", "epochs"):
        assert title in head
    assert next(row for row in rows if row[0] == "autoencoder_noaug")[1:7] == [
        "23.0",
        "±",
        "1.0",
        "0.769",
        "±",
        "0.010",
    ]
    links = [attributes["href"] for attributes in shown.all("a")]
    targets = {attributes["id"] for attributes in shown.all("div") if "id" in attributes}
    assert links == [f"#{name}" for name in ("autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn")] + [
        "#autoencoder_noaug"
    ]
    assert {link[1:] for link in links} == targets


def test_a_comparison_is_there_with_its_intervals_and_its_plot(study):
    shown = written()
    found = json.loads((recipes.IMAGES / "comparison.json").read_text())
    rows = shown.words("tr")
    for one in found["comparisons"]:
        (row,) = [row for row in rows if row.startswith(f"{one['run']} - {one['baseline']}")]
        assert compare.between(one["t_test"]) in row
        assert compare.between(one["bootstrap"]) in row
    assert {"comparison", "recalls"} < {attributes["alt"] for attributes in shown.all("img")}
    assert " ".join(found["text"].split("\n\n")[2].split()) in shown.words("main")[0]


def test_a_run_has_its_own_plots_texts_and_how_it_was_trained(study):
    shown = written()
    (cnn,) = [text for text in shown.words("details") if text.startswith("cnn ")]
    (differing,) = re.findall("differs from its recipe (.*?) best epoch", cnn)
    assert "EPOCHS 12 instead of 30" in differing and "statistics moving instead of settled" in differing
    assert "bird (2,500 images), deer (2,500 images), truck (2,500 images)" in cnn
    assert "best epoch 7 of 12" in cnn
    assert "device CPU" in cnn
    assert "as it was printed" in cnn
    # Those of cnn_elu, which has no report, are not the CNN's.
    names = {attributes["alt"]: attributes for attributes in shown.all("img")}
    assert names["autoencoder noaug psnr"]["width"] == str(page.WIDEST)
    assert {"cnn fold1 loss", "cnn fold2 heatmap", "cnn predictions", "autoencoder noaug psnr"} < {*names}
    assert "cnn elu fold1 loss" not in names


def test_runs_on_other_test_pictures_have_a_table_of_their_own(study):
    write("cnn_other", {1: 0.5}, test_sha256="another")
    shown = written()
    assert len([row for row in shown.words("tr") if row.startswith("run folds")]) == 2


def test_without_a_control_there_is_no_answer_yet(study):
    (recipes.IMAGES / "comparison.json").unlink()
    text = written().words("main")[0]
    assert "No answer yet: that takes make ae_cls NOAUG=1" in text
    assert "Comparisons" not in text


def test_a_comparison_of_something_else_beside_it_is_no_missing_answer_and_curves_are_shown(study):
    found = json.loads((recipes.IMAGES / "comparison.json").read_text())
    found["comparisons"] = [row for row in found["comparisons"] if not row["control"]]
    (recipes.IMAGES / "comparison_halved.json").write_text(json.dumps(found))
    for name in ("curve.png", "cnn_curve_predictions.png"):  # the latter of a run, NAME=curve
        shutil.copy(recipes.IMAGES / "comparison.png", recipes.IMAGES / name)
    (recipes.IMAGES / "curve.json").write_text("{}")
    shown = written()
    assert "No answer yet" not in shown.words("main")[0]
    assert [title for title in shown.words("h3") if title.startswith("comparison_halved: ")]
    shown = {attributes["alt"] for attributes in shown.all("img")}
    assert "curve" in shown and "cnn curve predictions" not in shown


def test_comparisons_are_told_from_runs_and_the_newest_comes_first(study):
    whole = (recipes.IMAGES / "comparison.json").read_text()
    for name, age in (
        ("digits_comparison", 100),
        ("comparison_mine", 0),
        ("cnn_comparison_report", 0),
        ("my comparison", 0),
    ):
        path = recipes.IMAGES / f"{name}.json"
        path.write_text(whole)
        os.utime(path, (time.time() - age,) * 2)
    os.utime(recipes.IMAGES / "comparison.json", (time.time() - 50,) * 2)
    found = [path.stem for path in report.files_of("comparison")]
    assert found == ["comparison_mine", "comparison", "digits_comparison"]


# --- Trainings under way --------------------------------------------------------------------------------------------


def test_a_stopped_training_shows_how_far_it_is(workdir):
    write_state("cnn_mine_fold2", 5)
    shown = written()
    (text,) = shown.words("section")
    assert text.startswith("cnn_mine fold 2 stopped: the same command goes on")
    assert "epoch 5 of at most 100, best so far 5; at most 1.6 h to go" in text
    assert "accuracy: training 0.143, validation 0.125" in text
    assert shown.all("progress") == [{"value": "5", "max": "100"}]
    assert len(shown.all("svg")) == 2
    assert [len(line["points"].split()) for line in shown.all("polyline")] == [5] * 4


def test_a_running_one_says_so_and_so_does_one_in_its_first_epoch(workdir):
    write_state("cnn_fold1", 1)
    recipes.CHECKPOINTS.joinpath(".cnn_fold3.lock").touch()  # what a finished training leaves
    with Run("cnn", 1).lock(), Run("cnn", 2).lock():
        first, second = written().words("section")
        before = Run("cnn", 1).lock_file.read_text()
    assert first.startswith(f"cnn fold 1 running, process {os.getpid()} on ")
    assert "epoch 1 of at most 100" in first
    assert second.startswith("cnn fold 2 running")
    assert second.endswith("in its first epoch")
    assert before == Run("cnn", 1).lock_file.read_text()
    assert len(written().words("section")) == 1


@pytest.mark.parametrize(
    ("epochs", "more", "said"),
    [
        (0, {}, "epoch 0 of at most 100; as of"),  # begun anew with FORCE=1
        (3, {"finished": True}, "all epochs are done: the same command writes the model epoch 3 of at most 100"),
        (3, {"score": "psnr", "model": "autoencoder"}, "psnr: training"),
        (3, {"model": "of another version"}, "epoch 3 of at most 100"),
    ],
)
def test_states_of_every_kind(workdir, epochs, more, said):
    write_state("a_run", epochs, **more)
    assert said in written().words("section")[0]


def test_figures_that_are_not_finite_leave_a_gap():
    found = page.curves({"training": [2.0, float("nan"), float("inf"), 1.0], "validation": [1.0] * 4})
    assert found["points"]["training"] == [(0, 0), (page.WIDTH, page.HEIGHT)]
    assert (found["ends"], found["latest"]) == (["1", "2"], {"training": "1", "validation": "1"})
    nothing = page.curves({"training": [float("nan")]})
    assert nothing["points"] == {"training": []}


# --- What others wrote ----------------------------------------------------------------------------------------------


def test_names_never_become_markup(study, monkeypatch):
    monkeypatch.setattr(test_compare, "CLASSES", (*CLASSES[:2], HOSTILE, *CLASSES[3:]))
    monkeypatch.setitem(test_compare.SPLITS, "class_names", [*CLASSES[:2], HOSTILE, *CLASSES[3:]])
    write("cnn_class", {1: 0.5}, test_sha256=HOSTILE)
    (recipes.IMAGES / "cnn_class_report.txt").write_text(f"</pre>{HOSTILE}")
    shutil.copy(recipes.IMAGES / "cnn_class_report.txt", recipes.IMAGES / "cnn_class_architecture.txt")
    (recipes.IMAGES / '"><b onclick=alert(1)>_report.json').write_text("[]")
    edited = json.loads(report.report_of("cnn").read_text())
    edited["folds"]["1"]["record"] |= {"device": HOSTILE, "versions": {HOSTILE: '"><img src=http://there>'}}
    edited["data"]["source"] = f"{HOSTILE}\ud800"
    report.report_of("cnn").write_text(json.dumps(edited))
    found = json.loads((recipes.IMAGES / "comparison.json").read_text())
    found["data"]["source"] = found["comparisons"][0]["run"] = found["text"] = HOSTILE
    (recipes.IMAGES / "comparison.json").write_text(json.dumps(found))
    shown = written()
    assert len(shown.all("script")) == 1
    assert not shown.all("b onclick=alert(1)")
    assert not [key for _, attributes in shown.tags for key in attributes if key.startswith("on")]
    assert shown.words("main")[0].count(HOSTILE) >= 8
    assert f"recall {HOSTILE}" in shown.words("th")


def test_what_is_damaged_is_named_in_one_line_and_costs_nothing_else(study):
    write_state("cnn_mine_fold1", 3)
    write_state("cnn_mine_fold2", 3)
    damaged = {
        recipes.CHECKPOINTS / "cnn_mine_fold1.state": b"no zip",
        recipes.IMAGES / "cnn_cut_report.json": b'{"folds": ',
        recipes.IMAGES / "cnn_list_report.json": b"[]",
        recipes.IMAGES / "comparison_cut.json": b'{"comparisons": [{"control": 1}]}',
        recipes.IMAGES / "cnn_fold1_loss.png": b"\x89PNG",
        recipes.IMAGES / "cnn_report.txt": b"\xff",
    }
    for path, content in damaged.items():
        path.write_bytes(content)
    shown = written()
    left_out = shown.words("li")
    assert len(left_out) == len(damaged)
    for path in damaged:
        assert [line for line in left_out if str(path) in line], path
    assert "Expecting value: line 1 column 11" in next(line for line in left_out if line.startswith("cnn_cut"))
    assert shown.words("section")[0].startswith("cnn_mine fold 2")
    assert len(shown.words("details")) == 4


def test_a_record_of_a_network_that_is_gone_costs_its_section_alone(study):
    edited = report.report_of("cnn").read_text().replace('"model": "cnn"', '"model": "cnn_gone"')
    report.report_of("cnn").write_text(edited)
    shown = written()
    assert [text.split()[0] for text in shown.words("details")] == [
        "autoencoder_cls_noaug",
        "autoencoder_cls_scratch",
        "autoencoder_noaug",
    ]
    assert [line for line in shown.words("li") if line.startswith("cnn_report.json")]


def test_nothing_to_show_is_one_sentence(workdir):
    with pytest.raises(InputError, match=r"^imgs and checkpoints hold nothing to show yet: run `make cnn`, or `make d"):
        report.main([])
    assert not recipes.IMAGES.exists()


# --- The published figures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(Path of the page of the tracked figures and of an unfinished training, seconds that it took)."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(ROOT / "imgs", folder / "imgs", ignore=shutil.ignore_patterns("report.html", "digits_*"))
    before = os.getcwd()
    os.chdir(folder)
    try:
        write_state("cnn_mine_fold1", 30)
    finally:
        os.chdir(before)
    began = os.times()
    command = [sys.executable, "-X", "importtime", ROOT / "report.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    taken = os.times()
    assert result.stdout.startswith("imgs/report.html is written")
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert not loaded & {"keras", "tensorflow", "jax", "matplotlib", "scipy", "sklearn", "training"}
    seconds = taken.children_user + taken.children_system - began.children_user - began.children_system
    return folder / "imgs/report.html", seconds


def test_the_page_of_the_published_figures_is_small_quick_and_whole(published):
    path, seconds = published
    assert path.stat().st_size < 4e5 * len(list(path.parent.glob("*_report.json")))
    assert seconds < 6  # of the processor; about two on an idle machine
    shown = Page(path.read_text(encoding="utf-8"))
    assert not shown.words("li")
    runs = [attributes["href"][1:] for attributes in shown.all("a")]
    assert len(runs) == len(shown.all("details")) == len(list(path.parent.glob("*_report.json")))
    of_archs = ("distribution_", "samples_")  # those of an ARCH's own images
    drawn = [path.stem for path in path.parent.glob("*.png") if not path.stem.startswith(of_archs)]
    named = {stem.replace("_", " ") for stem in drawn}
    assert {attributes["alt"] for attributes in shown.all("img")} == named


def test_it_refers_to_nothing_outside(published):
    shown = Page(published[0].read_text(encoding="utf-8"))
    for tag, attributes in shown.tags:
        for key in {"src", "href", "srcset", "data", "action", "poster"} & attributes.keys():
            assert re.match(r"#|data:image/png;base64,|data:,$", attributes[key]), (tag, key)
    assert not re.search(r"url\(|@import|https?:", "".join(shown.texts["style"] + shown.texts["script"]))
    policy = next(attributes["content"] for attributes in shown.all("meta") if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")


# --- A real browser -------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(not BROWSER, reason="there is no Chromium here")
# Clicks as a reader would; what is found goes into the page around, whose own width a window cannot be less than 500.
PROBE = """<script>
const head = title => [...document.querySelectorAll("thead th")].find(one => one.textContent === title);
const column = title => [...head(title).closest("table").tBodies[0].rows].map(
  row => row.cells[head(title).cellIndex].textContent.trim());
const found = {width: innerWidth, page: document.documentElement.scrollWidth, sorted: {}};
for (const title of ["accuracy", "run", "parameters (trainable)"]) {
  head(title).querySelector("button").click();
  found.sorted[title] = [column(title), head(title).ariaSort];
  head(title).querySelector("button").click();
  found.sorted[title].push(column(title), head(title).ariaSort);
}
document.querySelectorAll("details").forEach(one => one.open = true);
found.open = document.documentElement.scrollWidth;
found.broken = [...document.images].filter(one => !one.naturalWidth).length;
found.tables = [...document.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth).length;
found.names = Math.max(...[...document.querySelectorAll("th:first-child")].map(one => one.offsetWidth));
found.requests = performance.getEntriesByType("resource").map(one => one.name);
parent.postMessage(found, "*");
</script>"""
AROUND = """<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: {height}px }}</style>
<iframe src="page.html"></iframe>
<pre id="found"></pre>
<script>onmessage = event => document.getElementById("found").textContent = JSON.stringify(event.data)</script>"""


def browse(folder, text, width, *options, height=1200):
    """(What PROBE found, what the console said) of a page's text at a width; `options` are the browser's."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    (folder / "around.html").write_text(AROUND.format(width=width, height=height), encoding="utf-8")
    quiet = ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--no-first-run")
    alone = (
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
    )
    command = [BROWSER, *quiet, *alone, f"--window-size={max(width, 500)},{height}", *options]
    url = f"file://{folder / 'around.html'}"
    result = subprocess.run([*command, url], capture_output=True, text=True, timeout=90)
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", result.stderr)
    found = re.search(r'<pre id="found">(.*?)</pre>', result.stdout, re.DOTALL)
    return found and json.loads(html.unescape(found[1])), console


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_an_error_or_a_request(published, tmp_path, width):
    shown = published[0].read_text(encoding="utf-8")
    dump = ("--dump-dom", "--virtual-time-budget=20000")
    found, console = browse(tmp_path, shown.replace("</body>", f"{PROBE}</body>"), width, *dump)
    assert console == []
    assert found["requests"] == []
    assert found["width"] == width
    assert found["page"] <= width
    assert found["open"] <= width
    assert found["tables"] > 0 or width > 1000  # wide tables scroll within themselves
    assert found["names"] < width / 2  # the column that stays in place leaves room for what scrolls
    assert found["broken"] == 0


@needs_browser
def test_a_click_sorts_a_table_and_another_turns_it_round(published, tmp_path):
    shown = published[0].read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    found, _ = browse(tmp_path, shown, 1400, "--dump-dom", "--virtual-time-budget=20000")
    for title, (first, way, second, back) in found["sorted"].items():
        numeric = title != "run"
        key = (lambda cell: float(cell.split()[0].replace(",", ""))) if numeric else str
        assert (way, back) == (("descending", "ascending") if numeric else ("ascending", "descending"))
        assert len(first) > 5
        assert list(map(key, first)) == sorted(map(key, first), reverse=numeric)
        assert list(map(key, second)) == sorted(map(key, second), reverse=not numeric)


@needs_browser
def test_the_browser_would_tell_of_a_request_and_of_an_error(published, tmp_path):
    """The two tests above could fail; and the page's policy keeps even hostile markup from the network."""
    shown = published[0].read_text(encoding="utf-8")
    hostile = f'<img src="http://127.0.0.1:9/x.png">{PROBE}<script>nothing.there()</script></body>'
    _, console = browse(tmp_path, shown.replace("</body>", hostile), 1400, "--dump-dom", "--virtual-time-budget=20000")
    assert [line for line in console if "violates" in line and "127.0.0.1:9" in line]
    assert [line for line in console if "nothing is not defined" in line]


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_painted_in_both_schemes(published, tmp_path, width, scheme):
    picture = tmp_path / "page.png"
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    browse(tmp_path, published[0].read_text(encoding="utf-8"), width, f"--screenshot={picture}", *dark)
    pixels = np.asarray(Image.open(picture).convert("L"))[:, :width]
    assert (np.median(pixels) < 60) == (scheme == "dark")
    assert pixels.std() > 10  # something is on it
