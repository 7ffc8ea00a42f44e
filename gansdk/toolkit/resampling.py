"""Bicubic resampling as super-resolution papers do it: MATLAB's kernel, differentiable and never rounded."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def bicubic(images: Tensor, height: int, width: int, *, mirrored: bool = False) -> Tensor:
    """(N, C, H, W) -> (N, C, height, width) by Keys' kernel, a = -0.5, widened where the image shrinks.

    Pixel centres are aligned. Beyond an edge its pixels are repeated, as data-free distillation (Zhang et al., CVPR
    2021) does it; `mirrored`: the image is, as MATLAB's imresize does it. Results may lie beyond the range of the
    images. Rounding them would make every gradient through them zero.
    """
    down = _weights(images.shape[2], height, mirrored, images.dtype, images.device)
    across = _weights(images.shape[3], width, mirrored, images.dtype, images.device)
    with torch.autocast(images.device.type, enabled=False):
        return down @ images @ across.T


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # the first call may be an inference, later ones a training
def _weights(old: int, new: int, mirrored: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(new, old): how much of every old pixel is in each new one. Kept on the device, as copies would be waited for."""
    widening = max(1.0, old / new)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    first = (centres - 2 * widening).floor()
    places = first[:, None] + torch.arange(int(4 * widening) + 2)
    shares = _keys((centres[:, None] - places) / widening)
    shares = shares / shares.sum(1, keepdim=True)
    places = places.long()
    if mirrored:
        places = places % (2 * old)
        places = torch.minimum(places, 2 * old - 1 - places)
    weights = torch.zeros(new, old, dtype=torch.float64)
    weights.scatter_add_(1, places.clamp(0, old - 1), shares)
    return weights.to(device, dtype)


def _keys(x: Tensor) -> Tensor:
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
