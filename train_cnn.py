"""Train a CNN on one fold of the imbalanced data, or with --arch another network on the data that its recipe names.

Writes checkpoints/[<data>_]cnn[_<arch>][_<name>]_fold<k>.keras and its record; goes on where an interrupted training
stopped.
"""

from common import prepare_fold
from recipes import RECIPES, Choice, Training, fold_setting, resolve, row_name, run_name
from runs import Run
from util import cli
from util.backend import Later
from util.cli import InputError
from util.options import parse, typed_option

training = Later("training")


class Options(Choice, Training):
    fold: int | None = fold_setting()


def main(argv=None):
    name = row_name("cnn", typed_option("arch", argv))
    options, typed = parse(__doc__, Options, argv, RECIPES[name].settings)
    recipe = resolve(name, options, typed)
    if recipe.settings.task != "classes" and not options.name:
        raise InputError(f"TASK={recipe.settings.task} learns no classes: give the run a NAME of its own")
    fold = prepare_fold(options.data, recipe.settings, options.fold)
    run = Run(run_name(name, fold.prefix, name=options.name), options.fold or 1)
    with run.lock():
        training.train(recipe, run, fold, options.force)


if __name__ == "__main__":
    cli.run(main)
