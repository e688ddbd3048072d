"""A training step of `make bench` in PyTorch, to compare with; bench.py starts this script, by a Python with PyTorch.

It takes the network, the images of a batch, the precision, the number of cores and, optionally, `compile`. It prints
PyTorch's version and the network's number of trainable parameters, and then, for each number that it reads, the seconds
which so many steps take. Channels last, random pictures, no augmentation. The fast network learns by plain SGD here;
ours has Muon, a higher rate for biases, weight decay and smoothed labels.
"""

import itertools
import sys
import time

import torch
from torch import nn


def conv(channels, filters, bias=True):
    return nn.Conv2d(channels, filters, 3, padding="same", bias=bias)


def conv_relu_norm(*channels):
    """Convolutions from each number of channels to the next, each with ReLU and batch normalisation."""
    return [layer for a, b in itertools.pairwise(channels) for layer in (conv(a, b), nn.ReLU(), nn.BatchNorm2d(b))]


def cnn_layers(channels, side):
    blocks = []
    for width in (channels, 64):
        blocks += [conv(width, 64, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.ReLU()]
    dense = [nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 512), nn.ReLU(), nn.Dropout(0.4), nn.Linear(512, 64)]
    return [*blocks, *dense, nn.ReLU(), nn.Linear(64, 10)]


def first_blocks():
    pool = nn.MaxPool2d(2), nn.Dropout(0.3)
    return [*conv_relu_norm(3, 64, 64), *pool, *conv_relu_norm(64, 128, 128), *pool]


def autoencoder():
    double = nn.Upsample(scale_factor=2)
    code = conv_relu_norm(128, *[256] * 3)
    decoder = [*conv_relu_norm(*[256] * 4, 128, 128), double, *conv_relu_norm(128, 64, 64), double]
    return nn.Sequential(*first_blocks(), *code, *decoder, conv(64, 3), nn.Sigmoid())


def norm_without_scale(channels):
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)  # it is 1
    return norm


def fast_block(channels, filters):
    first = conv(channels, filters, bias=False), nn.MaxPool2d(2), norm_without_scale(filters), nn.SiLU()
    return [*first, conv(filters, filters, bias=False), norm_without_scale(filters), nn.SiLU()]


def fast_network():
    whitening = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
    blocks = [*fast_block(24, 64), *fast_block(64, 256), *fast_block(256, 256)]
    return nn.Sequential(
        whitening, nn.SiLU(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10, bias=False)
    )


class Classifier(nn.Module):
    """The deeper CNN on two frozen blocks, in which normalisation is frozen as well and dropout is not, as in Keras."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(*first_blocks()).requires_grad_(False)
        self.rest = nn.Sequential(*conv_relu_norm(128, *[256] * 3), *cnn_layers(256, 8))
        for layer in self.frozen:
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def forward(self, images):
        with torch.no_grad():
            code = self.frozen(images)
        return self.rest(code)


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, fused=True),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, 1e-3, foreach=True),
    "sgd": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.85, nesterov=True, fused=True),
}
# As in RECIPES: the network and its optimizer.
MODELS = {
    "cnn": (lambda: nn.Sequential(*cnn_layers(3, 32)), "adam"),
    "cnn_fast": (fast_network, "sgd"),
    "autoencoder": (autoencoder, "rmsprop"),
    "autoencoder_cls": (Classifier, "adam"),
}


def training_step(network, optimizer, batch, in_bfloat16, compiled):
    function = torch.compile(network) if compiled else network
    images = torch.rand(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            outputs = function(images)
        target, loss = (images, nn.functional.mse_loss) if outputs.ndim == 4 else (labels, nn.functional.cross_entropy)
        loss(outputs.float(), target).backward()
        optimizer.step()

    return step


def main():
    name, batch, precision, cores, *compiled = sys.argv[1:]
    torch.set_num_threads(int(cores))
    torch.manual_seed(0)
    build, optimizer = MODELS[name]
    network = build().to(memory_format=torch.channels_last)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    step = training_step(network, OPTIMIZERS[optimizer](weights), int(batch), "bfloat16" in precision, bool(compiled))
    print(torch.__version__, sum(weight.numel() for weight in weights), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
