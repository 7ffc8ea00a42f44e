"""Loss arithmetic in at least float32, whatever precision the networks run in."""

from __future__ import annotations

import torch
from torch import Tensor


def promoted(x: Tensor) -> Tensor:
    """`x` in float32, or as it is if it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context on the device of `x` in which no operator falls back to half precision."""
    return torch.autocast(x.device.type, enabled=False)
