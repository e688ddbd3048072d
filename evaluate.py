"""Evaluate a model's finished trainings on the test set; this script alone reads it.

Writes imgs/<run>_report.txt and .json over every finished fold, and the run's plots; test-set probabilities go beside
the checkpoints. Trains nothing.
"""

import dataclasses
import json
from typing import Literal

import numpy as np

from common import METRICS, QUALITY, TURNS, VIEWS, Augmentation, augment, count_trainable, titled, turn_in_order, views
from data import IMAGE_SHAPE, load_data
from recipes import IMAGES, ModelChoice, chosen_name, phases, require_choice, run_name, views_setting
from runs import finished_trainings, learnt, no_training, require_classes, require_one_study, require_same_classes
from util import cli, plots
from util.backend import Later, keras, ops
from util.cli import InputError, RunFailed
from util.files import file_sha256, require_writable, write_arrays, write_json, write_text
from util.hardware import set_up_device
from util.options import parse, setting
from util.plots import show, spread

metrics = Later("sklearn.metrics")


class Options(ModelChoice):
    batch_size: int = setting(500, "images a batch, of an evaluation", knob="BATCH", ge=1, le=2**16)
    views: Literal[VIEWS] = views_setting()


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    # CIFAR-10 is not downloaded before there is something to evaluate.
    train = load_data(options.data) if options.data else None
    name = chosen_name(options, train.prefix if train else "")
    trainings = finished_trainings(name)
    if not trainings:
        raise no_training(name, options)
    train = train or load_data()
    test = load_data(options.data, "test")
    print(f"{name}: {len(trainings)} finished training{'s'[: len(trainings) > 1]}, {len(test.images):,} test images")
    records = {run: run.read_record() for run in trainings}
    require_same_pictures(records, train)
    require_one_study(records)
    if len({record.get("code_sha256") for record in records.values()}) > 1:
        print("note: these folds are of different versions of the code; where that matters, FORCE=1 trains them anew")
    record = records[trainings[0]]
    require_classes(options.views, name, record)
    set_up_device()
    if options.model == "autoencoder":
        evaluate_autoencoder(name, records, test, options)
    elif learnt(record) == "classes":
        evaluate_classifier(name, records, test, options)
        plot_images(options, train, record)
    else:
        images, quarters = turn_in_order(test.images)
        turned = dataclasses.replace(test, images=images, labels=quarters, class_names=TURNS)
        evaluate_classifier(name, records, turned, options)
    print(f"{IMAGES / name}_report.txt, .json and the plots {IMAGES / name}_*.png are written")


def require_same_pictures(records, train):
    """Raise InputError where a training is of other pictures or classes than `train`."""
    remedy = "give the DATA of its training"
    for run, record in records.items():
        data = record["data"]
        if data["sha256"] != train.sha256:
            raise InputError(
                f"{run.checkpoint} was trained on other pictures ({data['source']}) than DATA gives now: {remedy}"
            )
        if record["settings"]["task"] == "classes":
            require_same_classes(run.checkpoint, data["class_names"], "DATA now", train.class_names, remedy)


# --- Classifiers ----------------------------------------------------------------------------------------------------


def evaluate_classifier(name, records, test, options):
    """Report, confusion matrices, curves and example predictions of every fold; mean and spread over folds."""
    predicted = predict(records, test, "one", options.batch_size)
    folds = {
        run.fold or 1: {**classifier_figures(test, probabilities), "record": records[run]}
        for run, probabilities in predicted.items()
    }
    text = [
        f"Kfold Iteration:{run.fold or 1}\n{classification_report(test, probabilities)}"
        for run, probabilities in predicted.items()
    ]
    first, record = next(iter(records.items()))
    reduced = record["data"]["reduced"] if test.class_names != TURNS else []
    rows = [titled(fold, [test.class_names[number] for number in reduced]) for fold in folds.values()]
    summary = {title: spread([row[title] for row in rows]) for title in rows[0]}
    over = f"mean ± standard deviation over {len(folds)} folds" if len(folds) > 1 else "one fold"
    text.append(f"{name}: {over}, {len(test.images):,} test images of {test.source}")
    text += [f"{title:<20} {show(value, 4)}" for title, value in summary.items()]
    more = {"labels": words(test.labels)}
    if len(folds) > 1:
        more["ensemble"] = classifier_figures(test, mean(predicted.values()))
        text.append(
            f"ensemble of the {len(folds)} folds (mean probability): accuracy {more['ensemble']['accuracy']:.4f}, "
            f"macro F1 {more['ensemble']['macro_f1']:.4f}"
        )
    if options.views != "one":
        seen = predict(records, test, options.views, options.batch_size)
        text.append(add_views(test, options.views, seen, folds, more.get("ensemble")))
    write_report(name, test, "\n".join(text), folds, summary, **more)

    for run, probabilities in predicted.items():
        fold = folds[run.fold or 1]
        title = f"{run.title}: accuracy {fold['accuracy']:.3f}"
        plots.plot_confusion(IMAGES / f"{run.stem}_heatmap.png", title, fold["confusion"], test.class_names)
        plot_curves(run, records[run], {"accuracy": "accuracy", "loss": "loss (cross-entropy)"})
        keep_predictions(run, test, probabilities)
    title = f"{first.title}: predicted class and its probability, on test images"
    shown = test.images, test.labels, predicted[first], test.class_names
    plots.plot_predictions(IMAGES / f"{name}_predictions.png", title, *shown)
    write_architecture(name, first.load_model())


def predict(records, test, kind, batch_size):
    """{training: probabilities (n, classes)} of the test pictures, each the mean over these views of a picture."""
    predicted = {}
    for run in records:
        model = run.load_model(IMAGE_SHAPE, (len(test.class_names),))
        predicted[run] = mean([run.predict(model, images, batch_size) for images in views(test.images, kind)])
        if not np.allclose(predicted[run].sum(axis=1), 1, atol=1e-3) or predicted[run].min() < 0:
            raise InputError(f"{run.checkpoint} does not give probabilities; evaluate a model that ends in a softmax")
    return predicted


def mean(arrays):
    return np.mean(list(arrays), axis=0)


def add_views(test, kind, seen, folds, ensemble):
    """Put the figures by these views of each picture beside those of the `folds` and of their `ensemble`, if any.

    `seen` is what `predict` gives; returns a line of the report.
    """
    for fold, probabilities in zip(folds.values(), seen.values(), strict=True):
        fold["views"] = {kind: classifier_figures(test, probabilities)}
    accuracies = spread([fold["views"][kind]["accuracy"] for fold in folds.values()])
    line = f"with VIEWS={kind} (mean probability of a picture's views): accuracy {show(accuracies, 4)}"
    if ensemble:
        ensemble["views"] = {kind: classifier_figures(test, mean(seen.values()))}
        line += f", ensemble {ensemble['views'][kind]['accuracy']:.4f}"
    return line


def keep_predictions(run, test, probabilities):
    """Write the test set's probabilities beside the checkpoint; where that may only be read, say so."""
    try:
        require_writable(run.folder)
    except RunFailed:
        print(f"note: {run.folder} may only be read, so {run.stem}_predictions.npz is not kept there")
        return
    hashes = {"test_sha256": test.sha256, "checkpoint_sha256": file_sha256(run.checkpoint)}
    write_arrays(run.path("_predictions.npz"), probabilities=probabilities, labels=test.labels, **hashes)


def classifier_figures(test, probabilities):
    """METRICS of a classifier on the test set, its confusion matrix, and the class that it gives each picture."""
    figures, predicted = {}, probabilities.argmax(axis=1)
    for key, metric in METRICS.items():
        found = metric.of(test.labels, probabilities)  # JSON has no float32
        figures[key] = dict(zip(test.class_names, map(float, found), strict=True)) if metric.per_class else float(found)
    classes = np.arange(len(test.class_names))
    figures["confusion"] = metrics.confusion_matrix(test.labels, predicted, labels=classes).tolist()
    figures["predicted"] = words(predicted)
    return figures


def classification_report(test, probabilities):
    asked = {"labels": np.arange(len(test.class_names)), "target_names": test.class_names, "zero_division": 0}
    return metrics.classification_report(test.labels, probabilities.argmax(axis=1), **asked)


def words(numbers):
    """Class numbers as one line of a report's JSON."""
    return " ".join(map(str, numbers))


# --- The autoencoder ------------------------------------------------------------------------------------------------


def evaluate_autoencoder(name, records, test, options):
    """QUALITY over all test images, curves, and originals over their reconstructions."""
    (run, record), *_ = records.items()
    model = run.load_model(IMAGE_SHAPE, IMAGE_SHAPE)
    copies = run.predict(model, test.images, options.batch_size)
    originals = test.images.astype(np.float32) / 255
    quality = {title: of(originals, copies) for title, of in QUALITY.items()}
    summary = {title: spread(values) for title, values in quality.items()}
    text = f"{name}: mean ± standard deviation over the {len(originals):,} test images of {test.source}\n" + "\n".join(
        f"{title:<40} {show(value, 3)}" for title, value in summary.items()
    )
    write_report(name, test, text, {1: {"record": record}}, summary)
    loss = record["settings"]["loss"].replace("_", " ")
    plot_curves(run, record, {"loss": f"loss ({loss})", "psnr": "PSNR (dB)"})
    title = f"{name}: test images over their reconstructions, from the worst PSNR to the best"
    path = IMAGES / f"{name}_reconstructions.png"
    plots.plot_reconstructions(path, title, originals, copies, quality["PSNR (dB)"], quality["SSIM"])
    write_architecture(name, model)


# --- Reports --------------------------------------------------------------------------------------------------------


def plot_curves(run, record, labels):
    """Learning curves of a run: {figure of its history: label}."""
    settings = record["settings"]
    augmented = settings.get("augment", True) and any(settings["augmentation"].values())
    epochs = settings["epochs"]
    low_resolution, last = phases(epochs, settings["low_resolution"], settings["unaugmented"])
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
    before = checkpoints_of(path) - {fold["record"]["checkpoint_sha256"] for fold in folds.values()}
    data = {"source": test.source, "prefix": test.prefix, "test_images": len(test.images), "test_sha256": test.sha256}
    write_text(path.with_suffix(".txt"), f"{text}\n")
    write_json(path, {"run": name, "data": data, "summary": summary, "folds": folds, **more})
    if before:
        print(f"note: the reports and plots of {name} in {IMAGES} were of other trainings; they are replaced")
    print(text)


def checkpoints_of(report):
    """Hashes of the checkpoints that a report, if there is a readable one, was made of."""
    try:
        folds = json.loads(report.read_text(encoding="utf-8"))["folds"].values()
        return {fold["record"]["checkpoint_sha256"] for fold in folds}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def write_architecture(name, model):
    """The layers of a network as a table."""
    lines = [f"{'layer':<18}{'kind':<24}{'output':<18}{'parameters':>12}"]
    for layer in model.layers:
        output = getattr(layer, "output", None)  # several of a layer with states, none of one that is used twice
        shape = output.shape[1:] if hasattr(output, "shape") else ()
        frozen, kind = bool(layer.weights) and not layer.trainable, type(layer).__name__
        said = f"{layer.name:<18}{kind:<24}{' x '.join(map(str, shape)):<18}{layer.count_params():>12,}"
        lines.append(f"{said}{'  frozen' if frozen else ''}")
    total = f"{model.count_params():,} parameters, {count_trainable(model):,} trainable"
    write_text(IMAGES / f"{name}_architecture.txt", "\n".join([*lines, "", total, ""]))


if __name__ == "__main__":
    cli.run(main)
