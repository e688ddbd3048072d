"""The training steps of `make bench` in PyTorch, to compare with: images/s of the same four networks on a processor.

Takes an environment of its own with PyTorch; with the word `compile` the networks are compiled. Channels last, bfloat16
by autocast, random pictures. Writes imgs/benchmark_torch[_compiled].json. The fast network learns by plain SGD here,
without Muon, its first weights and what else ours does in a step.
"""

import itertools
import json
import statistics
import sys
import time

import torch
from torch import nn

WINDOWS, SECONDS = 5, 2


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
    """The deeper CNN on two frozen blocks."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(*first_blocks()).requires_grad_(False)
        self.rest = nn.Sequential(*conv_relu_norm(128, *[256] * 3), *cnn_layers(256, 8))

    def forward(self, images):
        self.frozen.eval()
        with torch.no_grad():
            code = self.frozen(images)
        return self.rest(code)


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, fused=True),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, 1e-3, foreach=True),
    "sgd": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.85, nesterov=True, fused=True),
}
# As in RECIPES: the network, the images of a batch, the optimizer.
MODELS = {
    "cnn": (lambda: nn.Sequential(*cnn_layers(3, 32)), 128, "adam"),
    "cnn_fast": (fast_network, 1000, "sgd"),
    "autoencoder": (autoencoder, 128, "rmsprop"),
    "autoencoder_cls": (Classifier, 128, "adam"),
}


def images_per_second(build, batch, optimizer, compiled):
    """[lower quartile, median, upper quartile] of windows."""
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

    for _ in range(3):
        step()
    rates = []
    for _ in range(WINDOWS):
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            step()
            steps += 1
        rates.append(steps * batch / (time.perf_counter() - began))
    return statistics.quantiles(rates, n=4)


def main():
    torch.manual_seed(0)
    compiled = "compile" in sys.argv[1:]
    found = {}
    for name, row in MODELS.items():
        found[name] = images_per_second(*row, compiled)
        print(f"{name}: {found[name][1]:,.0f} images/s [{found[name][0]:,.0f} {found[name][2]:,.0f}]", flush=True)
    with open(f"imgs/benchmark_torch{'_compiled' if compiled else ''}.json", "w") as file:
        about = {"torch": torch.__version__, "compiled": compiled, "threads": torch.get_num_threads()}
        file.write(json.dumps({**about, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
