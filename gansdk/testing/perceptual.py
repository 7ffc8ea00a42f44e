"""Made-up weights for networks of perceptual terms, where a test or a timing needs none that see anything."""

from __future__ import annotations

import torch
from torch import Tensor

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3))
"""Width and number of convolutions of VGG-16's stages down to relu4_3."""


def made_up_vgg16(seed: int = 0) -> dict[str, Tensor]:
    """Random numbers in the shapes and names of torchvision's VGG-16, down to relu4_3; activations keep their scale."""
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    index, given = 0, 3
    for width, count in STAGES:
        for _ in range(count):
            scale = (2 / (9 * given)) ** 0.5
            state[f"features.{index}.weight"] = scale * torch.randn(width, given, 3, 3, generator=rng)
            state[f"features.{index}.bias"] = 0.05 * torch.randn(width, generator=rng)
            given, index = width, index + 2
        index += 1
    return state
