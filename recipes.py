"""The networks and how each of them is trained: one builder and one row of RECIPES is all that a model takes.

Loads Keras only when a network is built, so that the command line knows the names without waiting for it.
"""

import dataclasses
import importlib


class Layers:
    """keras.layers, imported at its first use."""

    def __getattr__(self, name):
        return getattr(importlib.import_module("keras.layers"), name)


layers = Layers()

# --- Networks -------------------------------------------------------------------------------------------------------
# A builder takes scaled pictures and returns the output: a chain of layers. What stands around it is in common.py.


def dense_head(x, classes):
    x = layers.Dense(512, activation="relu", name="dense1")(x)
    x = layers.Dropout(0.4, name="dropout")(x)
    x = layers.Dense(64, activation="relu", name="dense2")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_cnn(x, classes):
    """The reference's CNN: (batch, height, width, channels) -> (batch, classes) probabilities."""
    for block in (1, 2):
        x = layers.Conv2D(64, 3, padding="same", name=f"conv{block}")(x)
        x = layers.BatchNormalization(name=f"norm{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)  # the reference has ReLU first: the same, on four times as much
        x = layers.ReLU(name=f"relu{block}")(x)
    return dense_head(layers.Flatten(name="flatten")(x), classes)


def conv_relu_norms(x, filters, depth, block, batch_norm=True, kernel_l1=0.0, kernel_l2=0.0):
    penalty = {"class_name": "L1L2", "config": {"l1": kernel_l1, "l2": kernel_l2}} if kernel_l1 or kernel_l2 else None
    kind = {"padding": "same", "activation": "relu", "kernel_regularizer": penalty}
    for layer in range(1, depth + 1):
        x = layers.Conv2D(filters, 3, **kind, name=f"{block}_conv{layer}")(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"{block}_norm{layer}")(x)
    return x


def build_encoder(x):
    """VGG-like encoder: (batch, 32, 32, 3) -> code (batch, 8, 8, 256). ReLU comes before the normalisation."""
    for block, filters in (("block1", 64), ("block2", 128)):
        x = conv_relu_norms(x, filters, 2, block)
        x = layers.MaxPooling2D(name=f"{block}_pool")(x)
        x = layers.Dropout(0.3, name=f"{block}_dropout")(x)
    return conv_relu_norms(x, 256, 3, "block3")


ENCODER_END = "block3_norm3"  # its last layer


def build_autoencoder(x, classes=None):
    """Encoder and decoder: (batch, 32, 32, 3) -> its reconstruction, the same shape, in [0, 1]."""
    x = conv_relu_norms(build_encoder(x), 256, 3, "block4")
    for block, filters in (("block5", 128), ("block6", 64)):
        x = conv_relu_norms(x, filters, 2, block)
        x = layers.UpSampling2D(name=f"{block}_upsample")(x)
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def build_ae_classifier(x, classes):
    """The CNN on the encoder's code."""
    return build_cnn(build_encoder(x), classes)


def build_modified_ae_classifier(x, classes):
    """Dense layers on the encoder's code."""
    return dense_head(layers.Flatten(name="flatten")(build_encoder(x)), classes)


def build_elu(x, classes):
    """Six convolutions with ELU: (batch, height, width, channels) -> (batch, classes) probabilities."""
    for block, (filters, rate) in enumerate(((32, 0.2), (64, 0.2), (128, 0.3)), 1):
        for layer in (1, 2):
            x = layers.Conv2D(filters, 3, padding="same", name=f"block{block}_conv{layer}")(x)
            x = layers.BatchNormalization(name=f"block{block}_norm{layer}")(x)
            x = layers.ELU(name=f"block{block}_elu{layer}")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Dropout(rate, name=f"block{block}_dropout")(x)
    x = layers.Dense(64, name="dense1")(layers.Flatten(name="flatten")(x))
    x = layers.ELU(name="elu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dropout(0.3, name="dropout")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_leaky(x, classes):
    """Four convolutions with leaky ReLU, one also before the softmax: -> (batch, classes) probabilities."""
    for block, widths in enumerate(((16, 32), (32, 64)), 1):
        for layer, filters in enumerate(widths, 1):
            first = "relu" if (block, layer) == (1, 1) else None  # the document's; its leaky ReLU then does nothing
            x = layers.Conv2D(filters, 3, padding="same", activation=first, name=f"block{block}_conv{layer}")(x)
            x = layers.LeakyReLU(0.1, name=f"block{block}_leaky{layer}")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Dropout(0.25, name=f"block{block}_dropout")(x)
    x = layers.Dense(256, name="dense1")(layers.Flatten(name="flatten")(x))
    x = layers.Dropout(0.5, name="dropout")(layers.LeakyReLU(0.1, name="leaky1")(x))
    x = layers.LeakyReLU(0.1, name="leaky2")(layers.Dense(classes, name="dense2")(x))
    return layers.Softmax(name="probabilities")(x)


def build_pool3(x, classes):
    """Three times convolution and pooling, the first of three networks against overfitting: -> probabilities."""
    for block, filters in enumerate((32, 64, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Dense(1024, activation="relu", name="dense1")(layers.Flatten(name="flatten")(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_wide5(x, classes):
    """Convolutions of 5 x 5, the second of three networks against overfitting: -> (batch, classes) probabilities."""
    for layer, filters in enumerate((32, 64, 64), 1):
        x = layers.Conv2D(filters, 5, padding="same", activation="relu", name=f"conv{layer}")(x)
        if layer > 1:
            x = layers.MaxPooling2D(name=f"pool{layer}")(x)
    x = layers.Dense(1024, activation="relu", name="dense1")(layers.Flatten(name="flatten")(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_dropout(x, classes):
    """Wide, with dropout, the last of three networks against overfitting: -> (batch, classes) probabilities."""
    for block, (filters, depth) in enumerate(((128, 2), (256, 2), (512, 1)), 1):
        for layer in range(1, depth + 1):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{layer}")(x)
        if block == 1:
            x = layers.BatchNormalization(name="norm")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Dropout(0.3, name=f"block{block}_dropout")(x)
    x = layers.Dense(512, activation="relu", name="dense1")(layers.Flatten(name="flatten")(x))
    x = layers.Dropout(0.3, name="dropout")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


# Of an encoder and its decoder or classifier; the row of a recipe gives them, and CONFIG may give others.
CAE_ENCODER = {
    "blocks": 3,
    "layers_per_block": 2,
    "first_width": 32,  # filters of the first block; each further one has twice as many
    "batch_norm": True,
    "dropout": 0.2,  # after each block
    "input_noise": 0.0,  # standard deviations of Gaussian noise
    "hidden_noise": 0.0,  # after each block
}
CAE_PENALTIES = {"kernel_l1": 0.0, "kernel_l2": 0.0, "activity_l1": 0.0, "activity_l2": 0.0}  # activity: of the code
CAE_HEAD = {"pooling": "flatten", "dense": True, "head_batch_norm": True, "head_dropout": 0.0}


def build_cae_encoder(
    x, blocks, layers_per_block, first_width, batch_norm, dropout, input_noise, hidden_noise, activity=(0, 0), **kernel
):
    """Convolutional encoder: (batch, 32, 32, 3) -> code (batch, 8, 8, first_width * 2 ** (blocks - 1)).

    Of one block (batch, 16, 16, first_width): only the first two are pooled.
    """
    if input_noise:
        x = layers.GaussianNoise(input_noise, name="input_noise")(x)
    for block in range(1, blocks + 1):
        width = first_width * 2 ** (block - 1)
        x = conv_relu_norms(x, width, layers_per_block, f"block{block}", batch_norm, **kernel)
        if block <= 2:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        if hidden_noise:
            x = layers.GaussianNoise(hidden_noise, name=f"block{block}_noise")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"block{block}_dropout")(x)
    return layers.ActivityRegularization(*activity, name=CODE)(x)


CODE = "code"  # the encoder's last layer, which leaves its input as it is


def build_cae(x, classes=None, *, activity_l1, activity_l2, kernel_l1, kernel_l2, **encoder):
    """Convolutional autoencoder, its decoder the encoder's mirror image: (batch, 32, 32, 3) -> the same, in [0, 1]."""
    kernel = {"kernel_l1": kernel_l1, "kernel_l2": kernel_l2}
    x = build_cae_encoder(x, **encoder, activity=(activity_l1, activity_l2), **kernel)
    for block in reversed(range(1, encoder["blocks"] + 1)):
        width = encoder["first_width"] * 2 ** (block - 1)
        x = conv_relu_norms(x, width, encoder["layers_per_block"], f"decoder{block}", encoder["batch_norm"], **kernel)
        if block <= 2:
            x = layers.UpSampling2D(name=f"decoder{block}_upsample")(x)
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def build_cae_classifier(x, classes, *, pooling, dense, head_batch_norm, head_dropout, **encoder):
    """A convolution and dense layers on the convolutional encoder's code: -> (batch, classes) probabilities."""

    def normalised(x, number):
        return layers.BatchNormalization(name=f"norm{number}")(x) if head_batch_norm else x

    x = layers.Conv2D(128, 3, padding="same", name="conv")(build_cae_encoder(x, **encoder))
    x = layers.MaxPooling2D(name="pool")(normalised(x, 1))
    kinds = {"flatten": "Flatten", "max": "GlobalMaxPooling2D", "average": "GlobalAveragePooling2D"}
    x = getattr(layers, kinds[pooling])(name=pooling)(x)
    for number, units in enumerate((128, 64) if dense else (), 1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
        x = normalised(x, number + 1)
        if head_dropout:
            x = layers.Dropout(head_dropout, name=f"dropout{number}")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


# --- Recipes --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ranges:
    """How far augmentation goes: degrees, shares of height and width, shear degrees, zoom 1 +- zoom per axis, flips."""

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    flip: bool = False


REFERENCE_RANGES = Ranges(rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=True)
# A mirrored or half turned digit is another, or none.
DIGITS_RANGES = Ranges(rotation=10, shift=0.1, shear=0.2, zoom=0.1)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its data and its training: the settings of a run, where CONFIG and the command line say no other."""

    build: callable
    network: dict = dataclasses.field(default_factory=dict)  # what `build` is given besides
    scale: float = 1 / 255  # pictures, 0 to 255, times this,
    offset: float = 0.0  # plus this
    ranges: Ranges = REFERENCE_RANGES  # of augmentation
    balanced: bool = True  # batches with as many of each class
    class_weights: bool = False  # a class counts the more in the loss, the fewer images it has
    reduced: tuple = ("2", "4", "9")  # classes of which images are left out
    keep: "int | list | None" = None  # images kept of each of them; None: half
    split: str = "shuffle"  # a stratified shuffle split a fold; "first" or "last": those images validate, one fold
    val: float = 0.15  # share of the images that validate
    seed: int = 0  # of every draw
    precision: str = "auto"
    loss: str = "categorical_crossentropy"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: "str | float | None" = "plateau"  # x 0.3 after 10 epochs without a better val_loss; number: x it an epoch
    batch_size: int = 128
    epochs: int = 100
    monitor: str = "val_loss"  # what early stopping watches, and by which the best epoch is kept
    patience: "int | None" = 15  # epochs without a better one before training stops; None: it does not
    frozen_until: "str | None" = None  # the encoder's last layer that is frozen, where ENCODER has some frozen
    encoder_end: "str | None" = None  # the encoder's last layer


WHOLE = {"balanced": False, "reduced": (), "schedule": None}  # the whole training set, as it is
OVERFITTING = {**WHOLE, "scale": 1.0, "ranges": Ranges(), "split": "last", "val": 0.2, "epochs": 20, "patience": None}
CAE = {"balanced": False, "schedule": None, "val": 0.22, "seed": 42, "batch_size": 64, "patience": None}

# A model, or a model and an ARCH of it, with the values that differ from Recipe's; the sources are in the README.
RECIPES = {
    "cnn": Recipe(build_cnn),
    "cnn_elu": Recipe(
        build_elu,
        **WHOLE,
        ranges=Ranges(rotation=17, shift=0.08, flip=True),
        split="first",
        val=0.2,
        optimizer="nadam",
        learning_rate=2.5e-3,
        batch_size=64,
        epochs=200,
        monitor="val_accuracy",
        patience=35,
    ),
    "cnn_leaky": Recipe(
        build_leaky,
        **{**WHOLE, "schedule": 0.9},
        offset=-0.5,
        ranges=Ranges(),
        optimizer="adamax",
        learning_rate=5e-3,
        batch_size=32,
        epochs=10,
        patience=None,
    ),
    "cnn_pool3": Recipe(build_pool3, **OVERFITTING),
    "cnn_wide5": Recipe(build_wide5, **OVERFITTING),
    "cnn_dropout": Recipe(build_dropout, **{**OVERFITTING, "epochs": 30}),
    "autoencoder": Recipe(
        build_autoencoder, loss="mean_squared_error", optimizer="rmsprop", balanced=False, schedule=None
    ),
    "autoencoder_cae": Recipe(
        build_cae, {**CAE_ENCODER, **CAE_PENALTIES}, **CAE, loss="mean_squared_error", ranges=Ranges(), epochs=50
    ),
    "autoencoder_cls": Recipe(build_ae_classifier, frozen_until="block2_norm2", encoder_end=ENCODER_END),
    "autoencoder_cls_cae": Recipe(
        build_cae_classifier,
        {**CAE_ENCODER, **CAE_HEAD},
        **CAE,
        ranges=Ranges(rotation=40, shift=0.1, zoom=0.1, flip=True),
        frozen_until=CODE,
        encoder_end=CODE,
    ),
    "mod_autoencoder_cls": Recipe(build_modified_ae_classifier, frozen_until=ENCODER_END, encoder_end=ENCODER_END),
}
MODELS = ("cnn", "autoencoder", "autoencoder_cls", "mod_autoencoder_cls")


def model_of(name):
    """The model of a row: 'autoencoder_cls' of 'autoencoder_cls_cae'."""
    return max((model for model in MODELS if f"{name}_".startswith(f"{model}_")), key=len)


ARCHS = {
    model: [name.removeprefix(f"{model}_") for name in RECIPES if model_of(name) == model != name] for model in MODELS
}
