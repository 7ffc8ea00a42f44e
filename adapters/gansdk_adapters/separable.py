"""From a dense generator to its mobile form, the architecture of GAN Compression's students (Li et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from gansdk.errors import Unsupported
from gansdk.modules.fold import fold
from gansdk_adapters.networks.resnet import ResNetGenerator
from gansdk_adapters.networks.spade import SPADEGenerator

Network = TypeVar("Network", ResNetGenerator, SPADEGenerator)


def separable(network: Network, initialise: Callable[[nn.Module], None]) -> Network:
    """The network of the same widths with separable convolutions in its residual blocks (SPADE: for gamma and beta).

    Separable convolutions are fresh from `initialise`; every tensor that both networks have is copied, spectral norm
    folded.

    Raises:
        Unsupported: it is separable already, or was pruned, so that its sizes do not describe it.
    """
    if network.sizes.separable:
        raise Unsupported("This generator already has separable convolutions. Omit the transform.")
    weights = fold(network)[0].state_dict()
    with torch.device("meta"):
        whole = type(network)(_sizes(network, separable=False)).state_dict()
    if {name: tensor.shape for name, tensor in weights.items()} != {name: full.shape for name, full in whole.items()}:
        raise Unsupported("This generator is already pruned. Transform the original generator.")
    student = type(network)(_sizes(network, separable=True))
    initialise(student)
    student.load_state_dict(
        {name: tensor for name, tensor in weights.items() if name in student.state_dict()}, strict=False
    )
    return student


def _sizes(network: ResNetGenerator | SPADEGenerator, *, separable: bool) -> Any:
    """The network's own, with plain weights."""
    if isinstance(network, SPADEGenerator):
        return replace(network.sizes, separable=separable, spectral=False)
    return replace(network.sizes, separable=separable)
