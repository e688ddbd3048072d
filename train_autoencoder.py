"""Train the autoencoder on the imbalanced data, unbalanced, without labels (the training images of fold 1).

Writes checkpoints/autoencoder.keras (autoencoder_noaug.keras with --noaug) and its record; goes on where an interrupted
training stopped.
"""

import options
from recipes import RECIPES


def main(argv=None):
    names = [*options.DATA_OPTIONS, "noaug", "target", *options.TRAINING_OPTIONS, "if-missing"]
    args = options.parse(__doc__, names, argv)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args, RECIPES["autoencoder"])
    run = common.Run(options.run_name("autoencoder", fold.prefix, args.noaug, args.target, args.name))
    with run.lock(wait=args.if_missing):
        if args.if_missing and (found := common.find_autoencoder(args, fold)):
            print(f"{found[0].checkpoint} is there and was trained on these images: it is used")
            return
        if args.if_missing and run.checkpoint.exists():
            raise options.InputError(
                f"{run.checkpoint} was trained on other images: choose NAME=... to keep it, "
                f"or replace it by `{options.make_command('ae', args)} FORCE=1`"
            )
        common.train("autoencoder", run, fold, args, target=args.target, augment=not args.noaug)


if __name__ == "__main__":
    options.run(main)
