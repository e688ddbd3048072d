"""Train one fold of a classifier whose input is an autoencoder's hidden layer.

The encoder's first two blocks (with --modified or --arch: the whole encoder) take a pretrained autoencoder's weights
and are frozen, unless --encoder says otherwise. Writes checkpoints/autoencoder_cls[_<arch>]_fold<k>.keras, with
--modified mod_autoencoder_cls_..., and its record; goes on where an interrupted training stopped. `make ae_cls` trains
the autoencoder first where one is needed and there is none.
"""

import options
from settings import on_autoencoder, resolve


def main(argv=None):
    names = ["arch", *options.DATA_OPTIONS, "fold", "noaug", "target", "encoder", *options.TRAINING_OPTIONS]
    args = options.parse(__doc__, [*names, "modified", "check"], argv)
    model_name = options.model_name("mod_autoencoder_cls" if args.modified else "autoencoder_cls", args.arch)
    recipe = resolve(args, model_name, encoder=args.encoder)
    if args.check:
        return

    import common  # after the options, so that --help and refusals do not wait for TensorFlow

    fold = common.prepare_fold(args.data, recipe, args.fold)
    settings = {"encoder": args.encoder}
    if args.encoder in options.PRETRAINED:
        autoencoder, record = require_autoencoder(args, fold)
        settings["autoencoder_sha256"] = record["checkpoint_sha256"]
        recipe = on_autoencoder(recipe, record)

    def prepare_encoder(model):
        notes = {}
        if args.encoder in options.PRETRAINED:
            last = recipe.frozen_until if args.encoder == "frozen" else recipe.encoder_end
            notes |= {"autoencoder": autoencoder.name}
            notes |= {"taken": common.take_weights(model, autoencoder.load_model(), last)}
            print(f"taken from {autoencoder.checkpoint}: {', '.join(notes['taken'])}")
        if args.encoder == "random":
            settle_statistics(model, recipe.frozen_until, fold.x_train)
        if args.encoder in ("frozen", "random"):
            notes |= {"frozen": common.freeze(model, recipe.frozen_until)}
            print(f"frozen: {', '.join(notes['frozen'])}")
        return notes

    run = common.Run(
        options.run_name(model_name, fold.prefix, args.noaug, args.target, args.name, args.encoder), args.fold or 1
    )
    with run.lock():
        common.train(model_name, recipe, run, fold, args.force, prepare=prepare_encoder, **settings)


def require_autoencoder(args, fold):
    """The autoencoder to build on, (run, record). Raises InputError, with the command that trains it, without one."""
    import common

    found = common.find_autoencoder(args, fold)
    if not found:
        wanted = options.autoencoder_name(args, fold.prefix, args.name)
        advice = f"run `{options.make_command('ae', args)}`, with the same KEEP, REDUCED and SEED if you gave any"
        if args.config:
            advice = "`make` with ae_cls or mod_ae_cls and this CONFIG trains it first, where there is none of its NAME"
        raise options.InputError(
            f"there is no {wanted}.keras in {options.CHECKPOINTS} that was trained on these images"
            f"{' and has the encoder of CONFIG' if args.config else ''}: {advice}"
        )
    return found


def settle_statistics(model, last, images):
    """Give the batch normalisations up to the layer `last` the statistics of (n, 32, 32, 3) pictures, in one pass.

    The averages over equal batches of each batch's mean and variance, as training would approach them.
    """
    from common import keras, np

    part = keras.Model(model.input, model.get_layer(last).output)
    norms = [layer for layer in part.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for number, batch in enumerate(np.array_split(images, -(-len(images) // 500))):
        for norm in norms:
            norm.momentum = number / (number + 1)  # makes a running average of all batches so far
        part(batch, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


if __name__ == "__main__":
    options.run(main)
