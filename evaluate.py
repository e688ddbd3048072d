"""Evaluate a model's finished trainings on the test set; this script alone reads it.

Writes imgs/<run>_report.txt and .json over every finished fold, and the run's plots; test-set probabilities go beside
the checkpoints. Trains nothing.
"""

import json
import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np

import options
from files import commit_arrays, commit_json, commit_text, file_sha256
from options import IMAGES, InputError
from reporting import BLUE, ORANGE, new_figure, save, show, spread
from settings import completed, differing_settings


def main(argv=None):
    args = options.parse(
        __doc__, ["model", "arch", "data", "noaug", "target", "encoder", "name", "batch-size", "model-path"], argv
    )
    chosen = args.noaug or args.target != "augmented"
    if chosen and args.model == "cnn":
        raise InputError("--noaug and --target choose an autoencoder, and a cnn has none; leave them out")
    if args.encoder != "frozen" and not args.model.endswith("cls"):
        raise InputError(f"--encoder chooses among classifiers on an autoencoder, {args.model} is none; leave it out")
    if args.model_path and (chosen or args.name or args.encoder != "frozen" or args.arch):
        raise InputError(
            "--model-path names the file, so --arch, --noaug, --target, --encoder and --name have nothing to choose"
        )
    model_name = options.model_name(args.model, args.arch)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    if args.model_path:
        trainings, name = [common.Run.at(args.model_path)], Path(args.model_path).stem
        train = common.load_data(args.data)
    else:  # CIFAR-10 is not downloaded before there is something to evaluate
        train = common.load_data(args.data) if args.data else None
        name = options.run_name(
            model_name, train.prefix if train else "", args.noaug, args.target, args.name, args.encoder
        )
        trainings = finished_trainings(name, args)
        train = train or common.load_data()
    test = common.load_data(args.data, "test")
    print(f"{name}: {len(trainings)} finished training{'s'[: len(trainings) > 1]}, {len(test.images):,} test images")
    records = {
        run: None if args.model_path and not run.path(".json").exists() else run.read_record() for run in trainings
    }
    require_one_study(records, train)
    common.set_up_device()
    evaluate = evaluate_autoencoder if args.model == "autoencoder" else evaluate_classifier
    evaluate(name, records, test, args.batch_size or 500)
    if not args.model_path:
        part = f"distribution_{args.arch}" if args.arch else "distribution"  # an ARCH may have images of its own
        plot_distribution(records[trainings[0]]["data"], options.run_name(part, test.prefix, name=args.name))


def finished_trainings(name, args):
    """The finished trainings of a run, all folds. Raises InputError, with the command to run, where there is none."""
    import common

    runs = [common.Run(*options.name_and_fold(path.stem)) for path in options.CHECKPOINTS.glob("*.keras")]
    trainings = sorted((run for run in runs if run.name == name), key=lambda run: run.fold or 0)
    if not trainings:
        command = options.make_command(args.model.replace("autoencoder", "ae"), args)
        raise InputError(f"there is no finished training of {name} in {options.CHECKPOINTS}: run `{command}`")
    return trainings


def require_one_study(records, train):
    """Raise InputError where trainings are of other pictures than `train`, or differ in more than their fold."""
    known = {run: record for run, record in records.items() if record}
    for run, record in known.items():
        if record["data"]["sha256"] != train.sha256:
            raise InputError(
                f"{run.checkpoint} was trained on other pictures ({record['data']['source']}) than DATA gives now: "
                "give the DATA of its training"
            )
        first, same = next(iter(known.items()))
        settings = [{k: v for k, v in r["settings"].items() if k != "train_sha256"} for r in (same, record)]
        differing = differing_settings(*settings, "{} {} and {}")
        if differing:
            raise InputError(
                f"{first.checkpoint} and {run.checkpoint} are no folds of one study ({differing}): "
                "train one of them anew with FORCE=1, or under a NAME of its own"
            )


def predict(run, images, batch_size, shape):
    """The finished model and its output, (n, *shape) float32. Raises InputError where it gives another shape."""
    model = run.load_model()
    shapes = (model.input_shape, model.output_shape)
    if shapes != ((None, *images.shape[1:]), (None, *shape)):
        raise InputError(
            f"{run.checkpoint} maps {shapes[0][1:]} to {shapes[1][1:]}, not {images.shape[1:]} to {shape}: "
            "choose the MODEL that it is"
        )
    outputs = model.predict(images, batch_size=batch_size, verbose=0)
    if not np.isfinite(outputs).all():
        raise InputError(f"{run.checkpoint} gives numbers that are not finite: train it again, or give another file")
    return model, outputs


# --- Classifiers ----------------------------------------------------------------------------------------------------


def evaluate_classifier(name, records, test, batch_size):
    """Report, confusion matrices, curves and example predictions of every fold; mean and spread over folds."""
    absent = np.setdiff1d(np.arange(len(test.class_names)), test.labels)
    if len(absent):
        raise InputError(
            f"no test picture of {test.source} is of class {absent[0]} ({test.class_names[absent[0]]}), "
            "so its recall is unknown: give a DATA that has some"
        )
    folds, text, every = {}, [], []
    for run, record in records.items():
        model, probabilities = predict(run, test.images, batch_size, (len(test.class_names),))
        if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3) or probabilities.min() < 0:
            raise InputError(f"{run.checkpoint} does not give probabilities; evaluate a model that ends in a softmax")
        fold, report = classifier_figures(test, probabilities)
        folds[run.fold or 1] = {**fold, "record": record}
        every.append(probabilities)
        text.append(f"Kfold Iteration:{run.fold or 1}\n{report}")
        commit_arrays(
            run.path("_predictions.npz"),
            probabilities=probabilities,
            labels=test.labels,
            test_sha256=test.sha256,
            checkpoint_sha256=file_sha256(run.checkpoint),
        )
        plot_confusion(run, fold, test.class_names)
        if record:
            plot_curve(run, record, "accuracy", "accuracy")
            plot_curve(run, record, "loss", "loss (cross-entropy)")
        if len(folds) == 1:
            plot_predictions(name, run.title, test, probabilities)
            write_architecture(name, model)

    record = next(iter(records.values()))
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "calibration_error": "calibration error"}
    rows = {title: [fold[key] for fold in folds.values()] for key, title in names.items()}
    for number in record["data"]["reduced"] if record else []:
        reduced = test.class_names[number]
        rows[f"recall {reduced}"] = [fold["recall"][reduced] for fold in folds.values()]
    summary = {title: spread(values) for title, values in rows.items()}
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


def classifier_figures(test, probabilities):
    """(Figures of a classifier on the test set and the class that it gives each picture; scikit-learn's report)."""
    from sklearn import metrics

    classes = np.arange(len(test.class_names))
    predicted, exact = probabilities.argmax(axis=1), probabilities.astype(np.float64)
    asked = {"labels": classes, "zero_division": 0}
    recall = metrics.recall_score(test.labels, predicted, average=None, **asked)
    figures = {
        "accuracy": metrics.accuracy_score(test.labels, predicted),
        "loss": metrics.log_loss(test.labels, exact / exact.sum(axis=1, keepdims=True), labels=classes),
        "macro_f1": metrics.f1_score(test.labels, predicted, average="macro", **asked),
        "calibration_error": calibration_error(probabilities, test.labels),
        "recall": dict(zip(test.class_names, recall.tolist(), strict=True)),
        "confusion": metrics.confusion_matrix(test.labels, predicted, labels=classes).tolist(),
        "predicted": words(predicted),
    }
    return figures, metrics.classification_report(test.labels, predicted, target_names=test.class_names, **asked)


def calibration_error(probabilities, labels, bins=15):
    """Expected calibration error: |share right - mean probability| of the predicted class, averaged over pictures.

    In `bins` equal ranges of that probability (Guo et al. 2017, On Calibration of Modern Neural Networks).
    """
    sure, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    members = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(members, weights=right - sure)).sum() / len(labels))


def words(numbers):
    """Class numbers as one line of a report's JSON."""
    return " ".join(map(str, numbers))


# --- The autoencoder ------------------------------------------------------------------------------------------------


def image_quality(pairs):
    """PSNR in dB, SSIM with data_range 1 and with 2, of each (original, reconstruction) pair in [0, 1]: (n, 3)."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    return [
        (
            peak_signal_noise_ratio(original, copy, data_range=1),
            structural_similarity(original, copy, data_range=1, channel_axis=-1),
            structural_similarity(original, copy, data_range=2, channel_axis=-1),
        )
        for original, copy in pairs
    ]


def end_with_parent():
    """In a worker: have it end when the evaluation does, even by kill -9."""
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def evaluate_autoencoder(name, records, test, batch_size):
    """PSNR and SSIM over all test images, curves, and originals over their reconstructions."""
    from concurrent.futures import ProcessPoolExecutor

    import joblib

    import common

    (run, record), *_ = records.items()
    model, copies = predict(run, test.images, batch_size, common.IMAGE_SHAPE)
    originals = test.images.astype(np.float32) / 255
    workers = min(joblib.cpu_count(), 8, math.ceil(len(originals) / 500))  # a worker takes a second to start
    # In parts of a second, so that an evaluation that is stopped need not wait long for its workers.
    parts = np.array_split(np.stack([originals, copies], axis=1), max(workers, len(originals) // 250))
    spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    with ProcessPoolExecutor(workers, spawn, end_with_parent) as pool:
        # Ctrl-C reaches the workers too: here they inherit not to hear it, and this process alone answers.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        results = pool.map(image_quality, parts)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        quality = np.concatenate(list(results))
    titles = ("PSNR (dB)", "SSIM", "SSIM with the reference's data_range=2")
    summary = {title: spread(values) for title, values in zip(titles, quality.T, strict=True)}
    text = f"{name}: mean ± standard deviation over the {len(quality):,} test images of {test.source}\n" + "\n".join(
        f"{title:<40} {show(value, 3)}" for title, value in summary.items()
    )
    if record:
        loss = completed(record["settings"]).get("loss", "mean_squared_error")
        plot_curve(run, record, "loss", f"loss ({loss.replace('_', ' ')})")
        plot_curve(run, record, "psnr", "PSNR (dB)")
    plot_reconstructions(name, originals, copies, quality)
    write_architecture(name, model)
    write_report(name, test, text, {1: {"record": record}}, summary)


# --- Reports --------------------------------------------------------------------------------------------------------


def write_report(name, test, text, folds, summary, **more):
    """Print the report and write it, and its figures as JSON with the record of each training."""
    path = IMAGES / f"{name}_report.json"
    before = checkpoints_of(path) - {fold["record"]["checkpoint_sha256"] for fold in folds.values() if fold["record"]}
    if before:
        print(f"note: the reports and plots of {name} in {IMAGES} were of other trainings; they are replaced")
    data = {"source": test.source, "prefix": test.prefix, "test_images": len(test.images), "test_sha256": test.sha256}
    commit_text(path.with_suffix(".txt"), f"{text}\n")
    commit_json(path, {"run": name, "data": data, "summary": summary, "folds": folds, **more})
    print(f"{text}\n{path.with_suffix('.txt')}, .json and the plots {IMAGES / name}_*.png are written")


def checkpoints_of(report):
    """Hashes of the checkpoints that a report, if there is a readable one, was made of."""
    try:
        folds = json.loads(report.read_text(encoding="utf-8"))["folds"].values()
        return {fold["record"]["checkpoint_sha256"] for fold in folds if fold["record"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def write_architecture(name, model):
    import common

    lines = [f"{'layer':<18}{'kind':<24}{'output':<18}{'parameters':>12}"]
    for layer in model.layers:
        output = getattr(layer, "output", None)  # several of a layer with states, none of one that is used twice
        shape = " x ".join(map(str, output.shape[1:])) if hasattr(output, "shape") else ""
        frozen = "  frozen" if layer.weights and not layer.trainable else ""
        lines.append(f"{layer.name:<18}{type(layer).__name__:<24}{shape:<18}{layer.count_params():>12,}{frozen}")
    lines += ["", f"{model.count_params():,} parameters, {common.count_trainable(model):,} trainable", ""]
    commit_text(IMAGES / f"{name}_architecture.txt", "\n".join(lines))


# --- Plots ----------------------------------------------------------------------------------------------------------


def name_ticks(axis, names):
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axis.set_ticks(np.arange(len(names)), names, **slanted)


def plot_curve(run, record, key, label):
    """Training and validation curves of one figure; the epoch that was kept is marked."""
    figure, axes = new_figure()
    history, best = record["history"], record["best_epoch"]
    epochs = np.arange(1, len(history[key]) + 1)
    settings = completed(record["settings"])
    augmented = settings.get("augment", True) and any(settings.get("ranges", {}).values())
    marker = "o" if len(epochs) < 20 else None
    axes.plot(
        epochs,
        history[key],
        color=BLUE,
        marker=marker,
        markersize=4,
        label=f"training{' (augmented)' if augmented else ''}",
    )
    axes.plot(epochs, history[f"val_{key}"], color=ORANGE, marker=marker, markersize=4, label="validation")
    axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best epoch, {best}")
    axes.set(xlabel="epoch", ylabel=label, title=run.title)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save(figure, f"{run.stem}_{key}.png")


def plot_confusion(run, fold, class_names):
    """Confusion matrix in shares of each true class: the diagonal is recall."""
    counts = np.array(fold["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(size=(7, 6.2))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        value = shares[row, column]
        if value >= 0.005:
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=9,
                color="white" if value > 0.5 else "black", weight="bold" if row == column else "normal",
            )  # fmt: skip
    name_ticks(axes.xaxis, class_names)
    axes.set_yticks(np.arange(len(class_names)), class_names)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{run.title}: accuracy {fold['accuracy']:.3f}")
    figure.colorbar(image, ax=axes, label="share of the true class (diagonal: recall)", shrink=0.9)
    save(figure, f"{run.stem}_heatmap.png")


def plot_predictions(name, title, test, probabilities):
    """Example test images with predicted class and probability: the surest right, the least sure, the surest wrong."""
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == test.labels
    columns = 8
    order = np.argsort(-sure, kind="stable")
    groups = {
        "sure and right": order[right[order]][:columns],
        "unsure": order[::-1][:columns],
        "sure and wrong": order[~right[order]][:columns],
    }
    figure, axes = new_figure(len(groups), columns, size=(9, 5.2))
    for row, (group, members) in zip(axes, groups.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, index in zip(row, members, strict=False):
            axis.imshow(test.images[index])
            said = f"{test.class_names[predicted[index]]} ({sure[index]:.2f})"
            truth = "" if right[index] else f"\nis {test.class_names[test.labels[index]]}"
            axis.set_title(said + truth, fontsize=8, color="black" if right[index] else ORANGE)
        row[0].text(-0.15, 0.5, group, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=10)
    figure.suptitle(f"{title}: predicted class and its probability, on test images", fontsize=11)
    save(figure, f"{name}_predictions.png")


def plot_reconstructions(name, originals, copies, quality):
    """Originals over their reconstructions: twelve test images from the worst PSNR to the best, evenly spaced."""
    order = np.argsort(quality[:, 0])
    chosen = order[np.linspace(0, len(order) - 1, 12).round().astype(int)]
    figure, axes = new_figure(2, len(chosen), size=(9, 2.2))
    for column, index in enumerate(chosen):
        for row, image in enumerate((originals[index], copies[index])):
            axes[row, column].imshow(np.clip(image, 0, 1))
            axes[row, column].axis("off")
        place = {"transform": axes[1, column].transAxes, "ha": "center", "va": "top"}
        axes[1, column].text(0.5, -0.08, f"{quality[index, 0]:.1f} dB", fontsize=8, **place)
    figure.suptitle(f"{name}: test images over their reconstructions, from the worst PSNR to the best", fontsize=10)
    save(figure, f"{name}_reconstructions.png")


def plot_distribution(data, name):
    """Images of each class in the training and validation sets of a fold."""
    figure, axes = new_figure(size=(7, 3.6))
    train, val = np.array(data["train_counts"]), np.array(data["val_counts"])
    positions = np.arange(len(train))
    bars = axes.bar(positions, train, color=BLUE, label=f"training ({train.sum():,})")
    axes.bar_label(bars, label_type="center", color="white", fontsize=8, fmt="{:,.0f}")
    bars = axes.bar(positions, val, bottom=train, color=ORANGE, label=f"validation ({val.sum():,})")
    axes.bar_label(bars, label_type="center", color="white", fontsize=8, fmt="{:,.0f}")
    name_ticks(axes.xaxis, data["class_names"])
    axes.set(xlabel="class", ylabel="images", title=f"Images of each class in a fold ({data['source']})")
    axes.set_ylim(top=1.2 * (train + val).max())
    axes.legend(frameon=False, ncols=2, loc="upper right")
    save(figure, f"{name}.png")


if __name__ == "__main__":
    options.run(main)
