"""README and docs/: links, files, commands and code in them are real; test_tables.py has their generated tables."""

import ast
import functools
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import textwrap

import numpy as np
import pytest
from conftest import ROOT

import compare
import recipes
from docs import results, tables

TEXTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
EACH = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def blocks(text, language=r"\w*"):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def outside_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", outside_blocks(text))


def anchors(text):
    """Its headings, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", outside_blocks(text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@functools.cache
def tracked():
    """Files that a reader of the repository gets, and their folders; None without git."""
    listed = (
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    )
    if not listed or listed.returncode:
        return None
    files = [ROOT / line for line in listed.stdout.splitlines()]
    return {*files, *(folder for file in files for folder in file.parents)}


@EACH
def test_every_link_leads_somewhere(path):
    inside = [link for link in links(TEXTS[path]) if not link.startswith("https://")]
    for link in inside:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists() and target in (tracked() or {target}), link
        assert not anchor or anchors(TEXTS[target]).count(anchor) == 1, link


def test_every_document_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(TEXTS[ROOT / "README.md"])}
    assert TEXTS.keys() - {ROOT / "README.md"} <= linked


@EACH
def test_files_that_are_named_exist(path):
    for name in re.findall(
        r"`((?:(?:docs|imgs|tests|util)/)?[\w/]+\.(?:py|sh|json|txt|md))`", outside_blocks(TEXTS[path])
    ):
        if "/" in name or name.endswith(".py"):
            assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name


def commands(text):
    """The words of every command of make in blocks and in `code`."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    lines += [" ".join(line.split()) for line in re.findall(r"`(make [^`]+)`", outside_blocks(text))]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("make ")]


@EACH
def test_every_command_names_targets_and_knobs_that_exist(path):
    targets = set(re.findall(r"^([\w./-]+(?: [\w./-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {target for line in targets for target in line.split()}
    knobs = set(re.findall(r"^\| `([A-Z_]+)` \|", TEXTS[ROOT / "docs/using.md"], re.MULTILINE))
    archs = {arch for archs in recipes.ARCHS.values() for arch in archs} | {"small"}  # the one of docs/code.md
    for command in commands(TEXTS[path]):
        given = dict(word.split("=", 1) for word in command[1:] if re.match("[A-Z_]+=", word))
        named = {word for word in command[1:] if not re.match("-|[A-Z_]+=", word)}
        assert named <= targets and given.keys() <= knobs, command
        assert given.get("ARCH", "fast") in archs, command


@EACH
def test_python_and_json_can_be_read(path):
    for block in blocks(TEXTS[path], "python"):
        row = re.match(r'\s+"\w+": ', block)  # of a dictionary
        ast.parse(f"{{{block}}}" if row else textwrap.dedent(block))
    for block in blocks(TEXTS[path], "json"):
        json.loads(block)


# --- Tables of figures ----------------------------------------------------------------------------------------------


def test_every_table_has_its_place_and_every_place_its_table():
    places = [place for text in TEXTS.values() for place in re.findall(r"<!-- (?!/)(.+) -->\n", text)]
    assert sorted(places) == sorted(tables.TABLES)


def record_of(path):
    return results.Run(path).record


def test_trainings_of_both_precisions_differ_in_nothing_else():
    for seed in range(3):
        pair = [record_of(f"precision/cnn_{kind}-seed{seed}") for kind in ("float32", "bfloat16")]
        assert [record["settings"].pop("precision") for record in pair] == ["float32", "mixed_bfloat16"]
        assert pair[0]["settings"] == pair[1]["settings"] and pair[0]["commit"] == pair[1]["commit"]


def test_trainings_with_few_labels_have_the_length_that_was_chosen():
    few = [point for point in results.published("curve_fair")["points"] if point["labelled"] < 1]
    for point in few:
        settings = record_of(f"fair/{point['run']}")["settings"]
        chosen = recipes.share_of_length(point["labelled"], 1000, 18)
        assert (settings["batch_size"], settings["epochs"]) == chosen
    assert few


def test_the_commands_of_the_fair_test_train_what_is_published(tmp_path, monkeypatch, arguments):
    """What each would call is resolved as the scripts do it: its settings are those of the records."""
    (program := tmp_path / "make").write_text(f'#!/bin/sh\nexec {shutil.which("make")} -C {ROOT} -n "$@"\n')
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "echo"}
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(["bash", ROOT / "docs/fair.sh"], env=environment, capture_output=True, text=True, check=True)
    calls = re.findall(r"train_(cnn|ae_classifier)\.py (.*--fold.*)", done.stdout)
    tries, found = {one["run"]: one for one in results.published("fair/tries")}, {}
    for script, line in calls:
        words = shlex.split(line)
        source = words[words.index("--from") + 1] if "--from" in words else None
        given = dict(zip(words[::2], words[1::2], strict=True))
        fold, name = given.pop("--fold"), given.get("--name")
        given.pop("--from", None)
        encoder = None if script == "cnn" else given.get("--encoder", "frozen")
        row = "cnn_fast" if script == "cnn" else "autoencoder_cls_fast"
        chosen = {"encoder": encoder} if encoder else {}
        run = recipes.run_name(row, name=name, **chosen)
        settings = recipes.resolve(row, *arguments(*itertools.chain(*given.items())), **chosen).settings.model_dump()
        found.setdefault(run, (settings, source, []))[2].append(fold)
    assert tries.keys() - found.keys() == {"cnn_fast_scratch", "autoencoder_cls_fast_tuned_all-autoencoder-r1"}
    for run, (settings, source, folds) in found.items():
        path = next((path for path in (f"fair/{run}", run) if (ROOT / f"imgs/{path}_report.json").exists()), None)
        assert path or folds == ["1"]
        if path:
            report = results.Run(path)
            there = report.record["settings"]
            known = {key: value for key, value in settings.items() if key in there and key not in LATE}
            assert known == {key: there[key] for key in known} and folds == report.numbers, run
            assert (report.record.get("encoder_from") or "").startswith(source or ""), run
        if run in tries:
            rates = settings["learning_rate"], settings["labelled"]
            assert rates == (tries[run]["learning_rate"], tries[run]["labelled"]), run
            assert settings.get("encoder_rate_factor", 1) == (tries[run]["encoder_rate_factor"] or 1), run


LATE = {"sha256", "kept_sha256", "train_sha256", "encoder_sha256", "reduced", "keep", "model", "encoder", "precision"}


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_the_fair_test_takes_any_sources_and_rates(monkeypatch):
    """Three arms, each tried at other rates; two sources are tried frozen or fine-tuned only, the others not at all."""
    tries = [
        {
            "labelled": results.FEW,
            "from": source,
            "encoder": encoder,
            "learning_rate": rate,
            "encoder_rate_factor": factor,
            "frozen_share": 0.3 * (run == "masked-later"),
            "val_accuracy": accuracy,
            "chosen": run in ("plain", "masked-fast", "turns"),
        }
        | {"run": run}
        for source, encoder, rate, factor, accuracy, run in (
            (None, "scratch", 3.0, None, 0.6, "plain"),
            ("autoencoder_fast_masked", "tuned", 1.0, 0.01, 0.65, "masked-slow"),
            ("autoencoder_fast_masked", "tuned", 3.0, 0.1, 0.7, "masked-fast"),
            ("autoencoder_fast_masked", "tuned", 1.0, 0.1, 0.71, "masked-later"),
            ("cnn_fast_turns", "frozen", 0.1, None, 0.5, "turns"),
        )
    ]
    row = {"baseline": "plain", "mean": 0.02, "t_test": {"low": -0.01, "high": 0.05}}
    report = {
        "summary": {"accuracy": {"mean": 0.61, "std": 0.01}},
        "folds": {number: {"record": {}} for number in "123"},
    }
    published = {
        "fair/tries": tries,
        "comparison_fair": {"comparisons": [{**row, "run": run} for run in ("masked-fast", "turns")]},
        **{f"fair/{run}_report": report for run in ("plain", "masked-fast", "turns")},
    }
    monkeypatch.setattr(results, "published", published.get)

    difference = "+2.0 (-1.0 to +5.0)"
    (titles, _, *rows), scores = cells(results.fair()), [".610 ± .010", "3"]
    assert titles[2:6] == ["x 3", "x .3", "x .1", "x .01"]  # fine-tuned layers' own rate, not their factor
    assert [row[1:] for row in rows] == [
        ["", "**.6000**", "", "", "", *scores, ""],
        ["frozen", "", "", "**.5000**", "", *scores, difference],
        ["fine-tuned, other layers x 3", "", "**.7000**", "", "", *scores, difference],
        ["fine-tuned, other layers x 1", "", "", "", ".6500", "", "", ""],
        ["fine-tuned, frozen for the first 30 % of the steps, other layers x 1", "", "", ".7100", "", "", "", ""],
    ]


def test_the_answer_has_each_number_of_labels_and_the_tries_their_best(monkeypatch):
    def point(labelled, encoder, difference=None):
        found = {"labelled": labelled, "images": round(1000 * labelled), "encoder": encoder}
        found["accuracy"] = {"mean": 0.6, "std": None}
        return found | ({"difference": {"mean": difference, "t_test": None}} if difference else {})

    points = [point(0.1, "frozen from cnn_fast_turns", 0.02), point(1.0, "scratch"), point(0.1, "scratch")]
    points += [point(1.0, "frozen from autoencoder_fast", -0.1), point(0.1, "tuned from cnn_fast_turns", 0.01)]
    kinds = {"from": "cnn_fast_turns", "encoder": "tuned", "learning_rate": 1.0, "frozen_share": 0}
    tries = [
        {"labelled": 0.1, "encoder_rate_factor": 0.1, "val_accuracy": 0.3, **kinds},
        {"labelled": 0.1, "encoder_rate_factor": 0.01, "val_accuracy": 0.4, **kinds},
        {"labelled": 0.1, "encoder_rate_factor": 0.1, "val_accuracy": 0.5, **kinds, "learning_rate": 3.0},
        {"labelled": results.FEW, "encoder_rate_factor": 1.0, "val_accuracy": 0.9, **kinds},
    ]
    tries[2]["chosen"] = True
    monkeypatch.setattr(results, "published", {"curve_fair": {"points": points}, "fair/tries": tries}.get)
    titles, _, *rows = cells(results.answer_few())
    assert titles[2:] == ["100 labelled images", "1,000 labelled images"]
    assert rows == [
        [results.SOURCES[None], "", ".600", ".600"],
        [results.SOURCES["cnn_fast_turns"], "frozen", "+2.0", ""],
        ["", "fine-tuned", "+1.0", ""],
        [results.SOURCES["autoencoder_fast"], "frozen", "", "-10.0"],
    ]
    titles, _, *rows = cells(results.other_shares())
    assert titles[3:] == ["x .3", "x .1", "x .01"]
    assert rows == [
        ["100", results.SOURCES["cnn_fast_turns"], "fine-tuned, other layers x 1", "", ".3000", ".4000"],
        ["100", results.SOURCES["cnn_fast_turns"], "fine-tuned, other layers x 3", "**.5000**", "", ""],
    ]


def test_the_chosen_try_of_each_arm_is_the_best_without_a_frozen_start():
    arms = {}
    for one in results.published("fair/tries"):
        arms.setdefault((one["labelled"], one["from"], one["encoder"]), []).append(one)
    for tries in arms.values():
        (chosen,) = [one for one in tries if one.get("chosen")]
        assert chosen == max((one for one in tries if not one["frozen_share"]), key=lambda one: one["val_accuracy"])


def test_the_recall_of_halved_and_other_classes_changes_as_the_curve_says():
    shown = []
    for row in cells(results.few_recalls())[2:]:
        halved, others, difference = (float(cell.split()[0]) for cell in row[3:6])
        assert halved - others == pytest.approx(difference, abs=0.11)  # that of the curve, from confusion matrices
        shown.append((row[0], row[1]))
    few = [point for point in results.published("curve_fair")["points"] if "difference" in point]
    assert len(shown) == sum(results.arm_of(point)[0] != "cnn_fast" for point in few) > 10


def test_what_halving_changes_is_the_difference_of_two_gains():
    """Recomputed from the reports' figures alone."""

    def gains(names, end, measure, folds):
        reports = (results.published(f"fair/{name}{end}_report")["folds"] for name in names)
        return np.subtract(*([measure(report[fold]) for fold in folds] for report in reports))

    def contrast(fold):
        halved = [fold["recall"][name] for name in ("bird", "deer", "truck")]
        return np.mean(halved) - (sum(fold["recall"].values()) - sum(halved)) / 7

    arms = {(results.SOURCES[arm.source], results.THEN[arm.encoder]): arm for arm in results.arms()}
    scratch = arms[results.SOURCES[None], ""]
    rows = cells(results.halving())[2:]
    assert len(rows) >= 4
    for source, then, what, count, *found in rows:
        names = arms[source, then].run.name, scratch.run.name
        measure = contrast if "recall" in what else lambda fold: fold["accuracy"]
        halved, whole = (gains(names, end, measure, "12345"[: int(count)]) for end in ("", "-none"))
        low, high, _ = compare.corrected_t_test(halved - whole, 0.15)
        expected = [halved.mean(), whole.mean(), (halved - whole).mean(), low, high]
        shown = [float(cell.split()[0]) for cell in found]
        shown += [float(end) for end in re.search(r"\((\S+) to (\S+)\)", found[-1]).groups()]
        assert shown == pytest.approx([100 * value for value in expected], abs=0.051)
