"""A compact U-Net that labels photographs: small enough to be trained on one CPU core for a mIoU of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import CheckpointError, OutputError
from gansdk.modules.weights import read_state


class UNet(nn.Module):
    """RGB in [0, 1], (N, 3, H, W), to logits (N, classes, H, W); any H and W from 16.

    After U-Net (Ronneberger et al., MICCAI 2015), with a stem of stride 2, batch norms, skips that are added instead of
    concatenated, and logits at half the sides enlarged bilinearly. `width=32`: 0.8 M parameters.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        widths = [width, 2 * width, 3 * width, 4 * width]
        self.stem = _convolution(3, width, stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(a, b, stride=2), _convolution(b, b)) for a, b in pairwise(widths)
        )
        self.bottom = _convolution(widths[-1], widths[-1], dilation=2)
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(_convolution(a, a) for a in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    @property
    def classes(self) -> int:
        """Classes that it tells apart."""
        return self.head.out_channels

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.stem(2 * x - 1)]
        for down in self.down:
            skips.append(down(skips[-1]))
        y = self.bottom(skips.pop())
        for narrow, up in zip(self.narrow, self.up, strict=True):
            skip = skips.pop()
            y = up(skip + F.interpolate(narrow(y), size=skip.shape[2:], mode="bilinear"))
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear")


def _convolution(channels_in: int, channels_out: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def load_unet(path: str | Path) -> UNet:
    """The network of a file that `save_unet` wrote, in eval mode on the CPU; its sizes are read from the weights.

    Raises:
        CheckpointError: the file cannot be read, or holds another network.
    """
    state = read_state(path)
    network = _of_the_size_of(state, path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _another(path) from error
    return network.eval()


def save_unet(network: UNet, path: str | Path, about: Mapping[str, str] | None = None) -> Path:
    """Write the weights as safetensors, with `about` (how it was trained, how well it does) in the file's header.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    try:
        save_file(network.state_dict(), path, metadata={"about": json.dumps(dict(about or {}))})
    except OSError as error:
        raise OutputError(f"The segmenter cannot be written to '{path}': {error.strerror or error}.") from error
    return path


def _of_the_size_of(state: Mapping[str, Tensor], path: str | Path) -> UNet:
    head = state.get("head.weight")
    if head is None or head.ndim != 4 or min(head.shape) < 1:
        raise _another(path)
    with torch.device("meta"):
        network = UNet(head.shape[0], head.shape[1])
    return network.to_empty(device="cpu")


def _another(path: str | Path) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is not a segmenter of gansdk. Train one with benchmarks/segmenter.py, or pass your own as a "
        "torch.nn.Module: {'name': 'miou', 'segmenter': network, 'label': 'its-name'}."
    )
