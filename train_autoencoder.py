"""Train the autoencoder on the imbalanced data, unbalanced, without labels (the training images of fold 1).

Writes checkpoints/[<data>_]autoencoder[_<arch>][_noaug][_original][_<name>].keras and its record; goes on where an
interrupted training stopped.
"""

from common import prepare_fold
from recipes import RECIPES, AutoencoderChoice, Training, autoencoder_name, make_command, resolve, row_name
from runs import Run, find_autoencoder
from util import cli
from util.backend import Later
from util.cli import InputError
from util.options import parse, setting, typed_option

training = Later("training")


class Options(AutoencoderChoice, Training):
    if_missing: bool = setting(False, "do nothing where this autoencoder exists already; --config is a classifier's")


def main(argv=None):
    name = row_name("autoencoder", typed_option("arch", argv))
    options, typed = parse(__doc__, Options, argv, RECIPES[name].settings)
    chosen = {"target": options.target, "augment": not options.noaug}
    recipe = resolve(name, options, typed, on_demand=options.if_missing, **chosen)
    fold = prepare_fold(options.data, recipe.settings)
    run = Run(autoencoder_name(options, fold.prefix, options.name))
    with run.lock(wait=options.if_missing):
        if options.if_missing and (found := find_autoencoder(options, fold)):
            print(f"{found[0].checkpoint} is there and was trained on these images: it is used")
            return
        if options.if_missing and run.checkpoint.exists():
            other, more = "on other images", f", or replace it by `{make_command('ae', options)} FORCE=1`"
            if options.config:
                other, more = "on other images, or with another encoder than CONFIG's", ", and train another beside it"
            raise InputError(f"{run.checkpoint} was trained {other}: choose NAME=... to keep it{more}")
        training.train(recipe, run, fold, options.force)


if __name__ == "__main__":
    cli.run(main)
