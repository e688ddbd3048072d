"""A training step of `make bench` in PyTorch, to compare with; `make bench TORCH=/path/to/python` starts this.

    python docs/peer_torch.py cnn 128            the network and the images of a batch
    python docs/peer_torch.py cnn 128 compile    the same, compiled

It needs an environment with PyTorch. Channels last, bfloat16 by autocast, random pictures, no augmentation.
It prints PyTorch's version, and then, for each number that it reads, the seconds which so many steps take. The fast
network learns by plain SGD here, without Muon, its first weights and what else ours does in a step.
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
        blocks += [conv(width, 64), nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.ReLU()]
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


def fast_block(channels, filters):
    first = conv(channels, filters, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(filters), nn.SiLU()
    return [*first, conv(filters, filters, bias=False), nn.BatchNorm2d(filters), nn.SiLU()]


def fast_network():
    whitening = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
    blocks = [*fast_block(24, 64), *fast_block(64, 256), *fast_block(256, 256)]
    return nn.Sequential(whitening, nn.SiLU(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class Classifier(nn.Module):
    """The deeper CNN on two frozen blocks, in which normalisation is frozen as well and dropout is not, as in Keras."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(*first_blocks()).requires_grad_(False)
        self.rest = nn.Sequential(*conv_relu_norm(128, *[256] * 3), *cnn_layers(256, 8))
        for layer in self.frozen:
            layer.train(not isinstance(layer, nn.BatchNorm2d))

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


def training_step(build, optimizer, batch, compiled):
    network = build().to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[optimizer]([weight for weight in network.parameters() if weight.requires_grad])
    function = torch.compile(network) if compiled else network
    images = torch.rand(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = function(images)
        target, loss = (images, nn.functional.mse_loss) if outputs.ndim == 4 else (labels, nn.functional.cross_entropy)
        loss(outputs.float(), target).backward()
        optimizer.step()

    return step


def main():
    name, batch, *compiled = sys.argv[1:]
    torch.manual_seed(0)
    step = training_step(*MODELS[name], int(batch), compiled == ["compile"])
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
