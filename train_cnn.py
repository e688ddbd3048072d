"""Train the CNN on one fold of the imbalanced data.

Writes checkpoints/cnn_fold<k>.keras and its record; goes on where an interrupted training stopped.
"""

import options


def main(argv=None):
    args = options.parse(__doc__, [*options.DATA_OPTIONS, "fold", *options.TRAINING_OPTIONS], argv)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args, args.fold)
    run = common.Run(options.run_name("cnn", fold.prefix, name=args.name), args.fold)
    with run.lock():
        common.train("cnn", run, fold, args)


if __name__ == "__main__":
    options.run(main)
