"""Train one fold of a classifier whose input is an autoencoder's hidden layer.

The encoder's first two blocks (with --modified or --arch: the whole encoder) take the weights of a pretrained
autoencoder, or of the run that --from names, and are frozen, unless --encoder says otherwise. Writes
checkpoints/[<data>_]autoencoder_cls[_<arch>][_<encoder>][_noaug][_original][_<name>]_fold<k>.keras (with --modified
mod_autoencoder_cls...) and its record; goes on where an interrupted training stopped. `make ae_cls` trains the
autoencoder first where one is needed and there is none.
"""

from common import end_of_block, finished_model, freeze, prepare_fold, take_weights
from recipes import (
    CHECKPOINTS,
    PRETRAINED,
    RECIPES,
    ClassifierChoice,
    Training,
    autoencoder_name,
    fold_setting,
    make_command,
    on_autoencoder,
    resolve,
    row_name,
    run_name,
)
from runs import Run, find_autoencoder, find_source
from util import cli
from util.backend import Later, keras
from util.cli import InputError
from util.options import FLAG, parse, setting, typed_option

optimizers, training = Later("optimizers"), Later("training")


class Options(ClassifierChoice, Training):
    fold: int | None = fold_setting()
    modified: bool = setting(False, "freeze the whole encoder and classify with dense layers only")
    check: bool = setting(False, "only find out whether these options can be used")
    from_: str | None = setting(
        None,
        "the finished run whose layers the encoder takes, such as cnn_fast; of the same fold, where it has folds "
        "(unset: the autoencoder)",
        knob="FROM",
    )


def main(argv=None):
    modified = typed_option("modified", argv, **FLAG) not in (None, "0")
    name = row_name("mod_autoencoder_cls" if modified else "autoencoder_cls", typed_option("arch", argv))
    options, typed = parse(__doc__, Options, argv, RECIPES[name].settings)
    recipe = resolve(name, options, typed, encoder=options.encoder)
    if options.from_ and options.encoder not in PRETRAINED:
        raise InputError(f"ENCODER={options.encoder} takes no weights, so FROM has nothing to give; leave one out")
    if options.from_ and not options.name:
        raise InputError(f"FROM={options.from_} gives the run other layers: give it a NAME of its own")
    if options.check:
        if options.config:  # which may hold an optimizer that Keras cannot make, or pictures too small for the network
            optimizers.new_optimizer(recipe.settings)
            model = finished_model(recipe.build, recipe.settings, 10, name)
            if recipe.settings.low_resolution:
                training.require_any_size(model)
            if recipe.settings.encoder_blocks:
                end_of_block(model, recipe.settings.encoder_blocks)
        return

    fold, settings = prepare_fold(options.data, recipe.settings, options.fold), {}
    if options.encoder in PRETRAINED:
        if options.from_:
            autoencoder, record = find_source(options.from_, options.fold or 1, fold)
        else:
            autoencoder, record = require_autoencoder(options, fold)
        settings["encoder_sha256"] = record["checkpoint_sha256"]
        recipe = on_autoencoder(recipe, record)

    def prepare_encoder(model):
        notes, blocks = {}, recipe.settings.encoder_blocks
        frozen_until, encoder_end = (
            [end_of_block(model, blocks)] * 2 if blocks else (recipe.frozen_until, recipe.encoder_end)
        )
        if options.encoder in PRETRAINED:
            last = frozen_until if options.encoder == "frozen" else encoder_end
            notes |= {"encoder_from": autoencoder.stem}
            notes |= {"taken": take_weights(model, autoencoder.load_model(), last)}
            print(f"taken from {autoencoder.checkpoint}: {', '.join(notes['taken'])}")
        if options.encoder == "random":
            encoder = keras.Model(model.input, model.get_layer(frozen_until).output)
            training.PreciseBatchNorm(encoder, fold.x_train).update_statistics()
        if options.encoder in ("frozen", "random"):
            notes |= {"frozen": freeze(model, frozen_until)}
            print(f"frozen: {', '.join(notes['frozen'])}")
        return notes

    chosen = options.model_dump(include={"noaug", "target", "name", "encoder"})
    run = Run(run_name(name, fold.prefix, **chosen), options.fold or 1)
    with run.lock():
        training.train(recipe, run, fold, options.force, prepare=prepare_encoder, **settings)


def require_autoencoder(options, fold):
    """The autoencoder to build on, (run, record). Raises InputError, with the command that trains it, without one."""
    found = find_autoencoder(options, fold)
    if not found:
        wanted = autoencoder_name(options, fold.prefix, options.name)
        advice = f"run `{make_command('ae', options)}`, with the same KEEP, REDUCED and SEED if you gave any"
        if options.config:
            advice = "`make` with ae_cls or mod_ae_cls and this CONFIG trains it first, where there is none of its NAME"
        raise InputError(
            f"there is no {wanted}.keras in {CHECKPOINTS} that was trained on these images"
            f"{' and has the encoder of CONFIG' if options.config else ''}: {advice}"
        )
    return found


if __name__ == "__main__":
    cli.run(main)
