"""Evaluate a model's finished trainings on the test set; this script alone reads it.

Writes imgs/<run>_report.txt and .json over every finished fold, and the run's plots; test-set probabilities go beside
the checkpoints. Trains nothing.
"""

from util import cli  # isort: split

import dataclasses
import json
from pathlib import Path

import numpy as np

from common import METRICS, QUALITY, TURNS, Augmentation, augment, count_trainable, titled, turn_in_order
from data import IMAGE_SHAPE, load_data
from recipes import IMAGES, FilePath, ModelChoice, chosen_name, phases, require_choice, run_name
from runs import Run, finished_trainings, no_training, require_one_study, require_same_classes
from util import plots
from util.backend import Later, keras, ops
from util.cli import InputError, RunFailed
from util.files import file_sha256, require_writable, write_arrays, write_json, write_text
from util.hardware import set_up_device
from util.options import parse, setting
from util.plots import show, spread

metrics = Later("sklearn.metrics")


class Options(ModelChoice):
    batch_size: int = setting(500, "images a batch, of an evaluation", knob="BATCH", ge=1, le=2**16)
    model_path: FilePath | None = setting(None, "evaluate this .keras file instead of the run's own")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    chosen = options.noaug or options.target != "augmented"
    if options.model_path and (chosen or options.name or options.encoder != "frozen" or options.arch):
        raise InputError(
            "--model-path names the file, so --arch, --noaug, --target, --encoder and --name have nothing to choose"
        )
    if options.model_path:
        trainings, name = [Run.at(options.model_path)], Path(options.model_path).stem
        train = load_data(options.data)
    else:  # CIFAR-10 is not downloaded before there is something to evaluate
        train = load_data(options.data) if options.data else None
        name = chosen_name(options, train.prefix if train else "")
        trainings = finished_trainings(name)
        if not trainings:
            raise no_training(name, options)
        train = train or load_data()
    test = load_data(options.data, "test")
    print(f"{name}: {len(trainings)} finished training{'s'[: len(trainings) > 1]}, {len(test.images):,} test images")
    records = {
        run: None if options.model_path and not run.path(".json").exists() else run.read_record() for run in trainings
    }
    require_same_pictures(records, train)
    require_one_study(records)
    if len({record.get("code_sha256") for record in records.values() if record}) > 1:
        print("note: these folds are of different versions of the code; where that matters, FORCE=1 trains them anew")
    set_up_device()
    evaluate = evaluate_autoencoder if options.model == "autoencoder" else evaluate_classifier
    record = records[trainings[0]]
    turned = record and record["settings"]["task"] == "turns"
    if turned:
        images, quarters = turn_in_order(test.images)
        test = dataclasses.replace(test, images=images, labels=quarters, class_names=TURNS)
    evaluate(name, records, test, options.batch_size)
    if not options.model_path and options.model != "autoencoder" and not turned:  # whose pictures are others
        plot_images(options, train, records[trainings[0]])
    print(f"{IMAGES / name}_report.txt, .json and the plots {IMAGES / name}_*.png are written")


def require_same_pictures(records, train):
    """Raise InputError where a training is of other pictures or classes than `train`."""
    for run, record in records.items():
        if record and record["data"]["sha256"] != train.sha256:
            raise InputError(
                f"{run.checkpoint} was trained on other pictures ({record['data']['source']}) than DATA gives now: "
                "give the DATA of its training"
            )
        if record and record["settings"]["task"] == "classes":
            found, remedy = record["data"]["class_names"], "give the DATA of its training"
            require_same_classes(run.checkpoint, found, "DATA now", train.class_names, remedy)


# --- Classifiers ----------------------------------------------------------------------------------------------------


def evaluate_classifier(name, records, test, batch_size):
    """Report, confusion matrices, curves and example predictions of every fold; mean and spread over folds."""
    absent = np.setdiff1d(np.arange(len(test.class_names)), test.labels)
    if len(absent):
        raise InputError(
            f"no test picture of {test.source} is of class {absent[0]} ({test.class_names[absent[0]]}), "
            "so its recall is unknown: give a DATA that has some"
        )
    folds, text, every, models = {}, [], [], []
    for run, record in records.items():
        model = run.load_model(IMAGE_SHAPE, (len(test.class_names),))
        probabilities = run.predict(model, test.images, batch_size)
        # Each probability is rounded: in float16 or bfloat16 their sum may be off by half a percent.
        rounding = 1e-3 if str(model.outputs[0].dtype) == "float32" else 2e-2
        if not np.allclose(probabilities.sum(axis=1), 1, atol=rounding) or probabilities.min() < 0:
            raise InputError(f"{run.checkpoint} does not give probabilities; evaluate a model that ends in a softmax")
        fold, report = classifier_figures(test, probabilities)
        folds[run.fold or 1] = {**fold, "record": record}
        every.append(probabilities)
        text.append(f"Kfold Iteration:{run.fold or 1}\n{report}")
        models.append(model)

    record = next(iter(records.values()))
    reduced = record["data"]["reduced"] if record and test.class_names != TURNS else []
    reduced = [test.class_names[number] for number in reduced]
    rows = [titled(fold, reduced) for fold in folds.values()]
    summary = {title: spread([row[title] for row in rows]) for title in rows[0]}
    over = f"mean ± standard deviation over {len(folds)} folds" if len(folds) > 1 else "one fold"
    text.append(
        f"{name}: {over}, {len(test.images):,} test images of {test.source}\n"
        + "\n".join(f"{title:<20} {show(value, 4)}" for title, value in summary.items())
    )
    more = {"labels": words(test.labels)}
    if len(folds) > 1:
        more["ensemble"], _ = classifier_figures(test, np.mean(every, axis=0))
        text.append(
            f"ensemble of the {len(folds)} folds (mean probability): accuracy {more['ensemble']['accuracy']:.4f}, "
            f"macro F1 {more['ensemble']['macro_f1']:.4f}"
        )
    write_report(name, test, "\n".join(text), folds, summary, **more)

    first = next(iter(records))
    for (run, record), fold, probabilities in zip(records.items(), folds.values(), every, strict=True):
        title = f"{run.title}: accuracy {fold['accuracy']:.3f}"
        plots.plot_confusion(IMAGES / f"{run.stem}_heatmap.png", title, fold["confusion"], test.class_names)
        plot_curves(run, record, {"accuracy": "accuracy", "loss": "loss (cross-entropy)"})
        keep_predictions(run, test, probabilities)
    title = f"{first.title}: predicted class and its probability, on test images"
    shown = test.images, test.labels, every[0], test.class_names
    plots.plot_predictions(IMAGES / f"{name}_predictions.png", title, *shown)
    write_architecture(name, models[0])


def keep_predictions(run, test, probabilities):
    """Write the test set's probabilities beside the checkpoint; where that may only be read, say so."""
    try:
        require_writable(run.folder)
    except RunFailed:
        print(f"note: {run.folder} may only be read, so {run.stem}_predictions.npz is not kept there")
        return
    write_arrays(
        run.path("_predictions.npz"),
        probabilities=probabilities,
        labels=test.labels,
        test_sha256=test.sha256,
        checkpoint_sha256=file_sha256(run.checkpoint),
    )


def classifier_figures(test, probabilities):
    """(METRICS of a classifier on the test set and the class that it gives each picture; scikit-learn's report)."""
    classes, predicted = np.arange(len(test.class_names)), probabilities.argmax(axis=1)
    figures = {}
    for key, metric in METRICS.items():
        found = metric.of(test.labels, probabilities)  # JSON has no float32
        figures[key] = dict(zip(test.class_names, map(float, found), strict=True)) if metric.per_class else float(found)
    figures["confusion"] = metrics.confusion_matrix(test.labels, predicted, labels=classes).tolist()
    figures["predicted"] = words(predicted)
    asked = {"labels": classes, "target_names": test.class_names, "zero_division": 0}
    return figures, metrics.classification_report(test.labels, predicted, **asked)


def words(numbers):
    """Class numbers as one line of a report's JSON."""
    return " ".join(map(str, numbers))


# --- The autoencoder ------------------------------------------------------------------------------------------------


def evaluate_autoencoder(name, records, test, batch_size):
    """QUALITY over all test images, curves, and originals over their reconstructions."""
    (run, record), *_ = records.items()
    model = run.load_model(IMAGE_SHAPE, IMAGE_SHAPE)
    copies = run.predict(model, test.images, batch_size)
    originals = test.images.astype(np.float32) / 255
    parts = np.array_split(np.arange(len(originals)), -(-len(originals) // 500))  # some hundred megabytes each
    quality = {
        title: np.concatenate([of(originals[part], copies[part]) for part in parts]) for title, of in QUALITY.items()
    }
    summary = {title: spread(values) for title, values in quality.items()}
    text = f"{name}: mean ± standard deviation over the {len(originals):,} test images of {test.source}\n" + "\n".join(
        f"{title:<40} {show(value, 3)}" for title, value in summary.items()
    )
    write_report(name, test, text, {1: {"record": record}}, summary)
    loss = record["settings"]["loss"].replace("_", " ") if record else ""
    plot_curves(run, record, {"loss": f"loss ({loss})", "psnr": "PSNR (dB)"})
    title = f"{name}: test images over their reconstructions, from the worst PSNR to the best"
    path = IMAGES / f"{name}_reconstructions.png"
    plots.plot_reconstructions(path, title, originals, copies, quality["PSNR (dB)"], quality["SSIM"])
    write_architecture(name, model)


# --- Reports --------------------------------------------------------------------------------------------------------


def plot_curves(run, record, labels):
    """Learning curves of a run with a record: {figure of its history: label}."""
    if not record:
        return
    settings = record["settings"]
    augmented = settings.get("augment", True) and any(settings.get("augmentation", {}).values())
    epochs = settings.get("epochs", 0)
    low_resolution, last = phases(epochs, settings.get("low_resolution", 0), settings.get("unaugmented", 0))
    said = [f"low_resolution to epoch {low_resolution}"] if low_resolution else []
    if augmented:
        said.append(f"augmented to epoch {last}" if last < epochs else "augmented")
    note = f" ({', '.join(said)})" if said else ""
    for key, label in labels.items():
        path = IMAGES / f"{run.stem}_{key}.png"
        plots.plot_curve(path, run.title, record["history"], key, label, record["best_epoch"], note)


def plot_images(options, train, record):
    """How many images of each class a fold has, and samples of them."""

    def path(plot):  # an ARCH may have its own images
        part = f"{plot}_{options.arch}" if options.arch else plot
        return IMAGES / f"{run_name(part, train.prefix, name=options.name)}.png"

    data, title = record["data"], f"Images of each class in a fold ({record['data']['source']})"
    plots.plot_distribution(path("distribution"), title, data["train_counts"], data["val_counts"], data["class_names"])
    plot_samples(path("samples"), train, Augmentation(**record["settings"]["augmentation"]))


def plot_samples(path, train, augmentation):
    """The first training pictures of up to twelve classes, and below each what augmentation makes of it, if any."""
    each = max(1, 10 // len(train.class_names))
    classes = range(len(train.class_names[:12]))
    chosen = np.concatenate([np.flatnonzero(train.labels == number)[:each] for number in classes])
    names = [train.class_names[number] for number in train.labels[chosen]]
    rows, generator, more = [train.images[chosen]], keras.random.SeedGenerator(0), ""
    if augmentation != Augmentation():
        more = ", and below each what augmentation may make of it"
        mirrored = rows[0][:, :, ::-1] if augmentation.flip == "alternating" else rows[0]
        seen = mirrored, rows[0], mirrored
        rows += [ops.convert_to_numpy(augment(images, generator, augmentation)) for images in seen]
    plots.plot_samples(path, f"Training pictures of {train.source}{more}", rows, names)


def write_report(name, test, text, folds, summary, **more):
    """Print the report and write it, and its figures as JSON with the record of each training."""
    path = IMAGES / f"{name}_report.json"
    before = checkpoints_of(path) - {fold["record"]["checkpoint_sha256"] for fold in folds.values() if fold["record"]}
    if before:
        print(f"note: the reports and plots of {name} in {IMAGES} were of other trainings; they are replaced")
    data = {"source": test.source, "prefix": test.prefix, "test_images": len(test.images), "test_sha256": test.sha256}
    write_text(path.with_suffix(".txt"), f"{text}\n")
    write_json(path, {"run": name, "data": data, "summary": summary, "folds": folds, **more})
    print(text)


def checkpoints_of(report):
    """Hashes of the checkpoints that a report, if there is a readable one, was made of."""
    try:
        folds = json.loads(report.read_text(encoding="utf-8"))["folds"].values()
        return {fold["record"]["checkpoint_sha256"] for fold in folds if fold["record"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def write_architecture(name, model):
    """The layers of a network as a table and as a drawing."""
    lines, boxes = [f"{'layer':<18}{'kind':<24}{'output':<18}{'parameters':>12}"], []
    for layer in model.layers:
        output = getattr(layer, "output", None)  # several of a layer with states, none of one that is used twice
        shape = output.shape[1:] if hasattr(output, "shape") else ()
        frozen, kind = bool(layer.weights) and not layer.trainable, type(layer).__name__
        said = f"{layer.name:<18}{kind:<24}{' x '.join(map(str, shape)):<18}{layer.count_params():>12,}"
        lines.append(f"{said}{'  frozen' if frozen else ''}")
        boxes.append((kind, shape, frozen))
    total = f"{model.count_params():,} parameters, {count_trainable(model):,} trainable"
    write_text(IMAGES / f"{name}_architecture.txt", "\n".join([*lines, "", total, ""]))
    plots.plot_architecture(IMAGES / f"{name}_architecture.png", f"{name}: {total}", boxes)


if __name__ == "__main__":
    cli.run(main)
