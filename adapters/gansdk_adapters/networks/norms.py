"""The normalisations of translation networks, and how they show in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor, nn

from gansdk.errors import ContractError

Norm = Literal["instance", "instance-affine", "batch", "batch-untracked"]
"""Instance norm without or with scales, batch norm with or without running statistics.

Convolutions in front of an instance norm have a bias, those in front of a batch norm have none, in every release.
"""


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Return the layer over `channels` channels.

    Raises:
        ContractError: `kind` is none of the four.
    """
    match kind:
        case "instance":
            return nn.InstanceNorm2d(channels)
        case "instance-affine":
            return nn.InstanceNorm2d(channels, affine=True)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "batch-untracked":
            return nn.BatchNorm2d(channels, track_running_stats=False)
    raise ContractError(f"The norm is {kind!r}, but must be one of: {', '.join(get_args(Norm))}.")


def has_bias(kind: Norm) -> bool:
    """Whether convolutions in front of the norm have a bias."""
    return kind.startswith("instance")


def norm_in(state: Mapping[str, Tensor], conv: str, norm: str) -> Norm:
    """Read the kind from the weights of the convolution `conv` and of the norm `norm` behind it.

    Running statistics behind a bias are those that instance norms of torch before 0.4 saved and never used.
    """
    if f"{conv}.bias" in state:
        return "instance-affine" if f"{norm}.weight" in state else "instance"
    return "batch" if f"{norm}.running_mean" in state else "batch-untracked"


def unused_statistics(state: Mapping[str, Tensor], kind: Norm) -> frozenset[str]:
    """Return the keys of the running statistics that old instance norms left in `state`."""
    if not kind.startswith("instance"):
        return frozenset()
    return frozenset(key for key in state if key.endswith((".running_mean", ".running_var", ".num_batches_tracked")))
