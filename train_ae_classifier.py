"""Train one fold of a classifier whose input is a pretrained autoencoder's hidden layer.

The encoder's first two blocks (with --modified: the whole encoder) take the autoencoder's weights and are frozen.
Writes checkpoints/autoencoder_cls_fold<k>.keras (mod_autoencoder_cls_... with --modified) and its record; goes on where
an interrupted training stopped. `make ae_cls` trains the autoencoder first where there is none.
"""

import options


def main(argv=None):
    names = [*options.DATA_OPTIONS, "fold", "noaug", "target", *options.TRAINING_OPTIONS, "modified"]
    args = options.parse(__doc__, names, argv)

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args, args.fold)
    found = common.find_autoencoder(args, fold)
    if not found:
        wanted = options.run_name("autoencoder", fold.prefix, args.noaug, args.target, args.name)
        raise options.InputError(
            f"there is no {wanted}.keras in {options.CHECKPOINTS} that was trained on these images: "
            f"run `{options.make_command('ae', args)}`, with the same KEEP, REDUCED and SEED if you gave any"
        )
    autoencoder, record = found
    model_name = "mod_autoencoder_cls" if args.modified else "autoencoder_cls"

    def take_encoder(model):
        last = common.RECIPES[model_name].frozen_until
        taken = common.take_weights(model, autoencoder.load_model(), last)
        print(f"taken from {autoencoder.checkpoint} and frozen: {', '.join(taken)}")
        return {"autoencoder": autoencoder.name, "taken_and_frozen": taken}

    run = common.Run(options.run_name(model_name, fold.prefix, args.noaug, args.target, args.name), args.fold)
    with run.lock():
        common.train(model_name, run, fold, args, take=take_encoder, autoencoder_sha256=record["checkpoint_sha256"])


if __name__ == "__main__":
    options.run(main)
