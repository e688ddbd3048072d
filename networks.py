"""Networks from other documents, one builder each; docs/networks.md says where each comes from.

The networks of this study are in common.py.
"""

from common import conv_relu_norms
from util.backend import layers


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
    """Four convolutions with leaky ReLU, and leaky ReLU before the softmax too: -> (batch, classes) probabilities."""
    for block, widths in enumerate(((16, 32), (32, 64)), 1):
        for layer, filters in enumerate(widths, 1):
            first = "relu" if (block, layer) == (1, 1) else None  # as in the document, though leaky ReLU follows
            x = layers.Conv2D(filters, 3, padding="same", activation=first, name=f"block{block}_conv{layer}")(x)
            x = layers.LeakyReLU(0.1, name=f"block{block}_leaky{layer}")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Dropout(0.25, name=f"block{block}_dropout")(x)
    x = layers.Dense(256, name="dense1")(layers.Flatten(name="flatten")(x))
    x = layers.Dropout(0.5, name="dropout")(layers.LeakyReLU(0.1, name="leaky1")(x))
    x = layers.LeakyReLU(0.1, name="leaky2")(layers.Dense(classes, name="dense2")(x))
    return layers.Softmax(name="probabilities")(x)


def build_pool3(x, classes):
    """Convolution and pooling three times, the first of three networks against overfitting: -> probabilities."""
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
    """Wide layers and dropout, the last of three networks against overfitting: -> (batch, classes) probabilities."""
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


def build_cae_encoder(
    x, blocks, layers_per_block, first_width, batch_norm, dropout, input_noise, hidden_noise, activity=(0, 0), **kernel
):
    """Convolutional encoder: (batch, 32, 32, 3) -> code (batch, 8, 8, first_width * 2 ** (blocks - 1)).

    Only the first two blocks end in pooling, so the code of a single block is (batch, 16, 16, first_width).
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


CODE = "code"  # the encoder's last layer, which passes its input on unchanged


def build_cae(x, classes, *, activity_l1, activity_l2, kernel_l1, kernel_l2, **encoder):
    """Convolutional autoencoder, whose decoder mirrors its encoder: (batch, 32, 32, 3) -> the same shape, in [0, 1]."""
    kernel = {"kernel_l1": kernel_l1, "kernel_l2": kernel_l2}
    x = build_cae_encoder(x, **encoder, activity=(activity_l1, activity_l2), **kernel)
    for block in reversed(range(1, encoder["blocks"] + 1)):
        width = encoder["first_width"] * 2 ** (block - 1)
        x = conv_relu_norms(x, width, encoder["layers_per_block"], f"decoder{block}", encoder["batch_norm"], **kernel)
        if block <= 2:
            x = layers.UpSampling2D(name=f"decoder{block}_upsample")(x)
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def build_cae_classifier(x, classes, *, pooling, dense, head_batch_norm, head_dropout, **encoder):
    """A convolution and dense layers on the code of the convolutional encoder: -> (batch, classes) probabilities."""

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
