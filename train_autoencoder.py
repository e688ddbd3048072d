"""Train the autoencoder on the imbalanced data, unbalanced, without labels (the training images of fold 1).

Writes checkpoints/autoencoder.keras (autoencoder_noaug.keras with --noaug) and its record; goes on where an interrupted
training stopped.
"""

import options
from settings import resolve


def main(argv=None):
    names = ["arch", *options.DATA_OPTIONS, "noaug", "target", *options.TRAINING_OPTIONS, "if-missing"]
    args = options.parse(__doc__, names, argv)
    model_name = options.model_name("autoencoder", args.arch)
    chosen = {"target": args.target, "augment": not args.noaug}
    recipe = resolve(args, model_name, **chosen)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args.data, recipe)
    run = common.Run(options.autoencoder_name(args, fold.prefix, args.name))
    with run.lock(wait=args.if_missing):
        if args.if_missing and (found := common.find_autoencoder(args, fold)):
            print(f"{found[0].checkpoint} is there and was trained on these images: it is used")
            return
        if args.if_missing and run.checkpoint.exists():
            other, more = "on other images", f", or replace it by `{options.make_command('ae', args)} FORCE=1`"
            if args.config:
                other, more = "on other images, or with another encoder than CONFIG's", ", and train another beside it"
            raise options.InputError(f"{run.checkpoint} was trained {other}: choose NAME=... to keep it{more}")
        common.train(model_name, recipe, run, fold, args.force, **chosen)


if __name__ == "__main__":
    options.run(main)
