"""Train a CNN on one fold of the imbalanced data, or with --arch another network on the data that its recipe names.

Writes checkpoints/cnn[_<arch>]_fold<k>.keras and its record; goes on where an interrupted training stopped.
"""

import options
from settings import resolve


def main(argv=None):
    args = options.parse(__doc__, ["arch", *options.DATA_OPTIONS, "fold", *options.TRAINING_OPTIONS], argv)
    model_name = options.model_name("cnn", args.arch)
    recipe = resolve(args, model_name)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args.data, recipe, args.fold)
    run = common.Run(options.run_name(model_name, fold.prefix, name=args.name), args.fold or 1)
    with run.lock():
        common.train(model_name, recipe, run, fold, args.force)


if __name__ == "__main__":
    options.run(main)
