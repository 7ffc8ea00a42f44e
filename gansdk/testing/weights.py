"""Weights like those of a trained network, from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from gansdk.modules.randomness import seeded


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in eval mode with random weights and statistics that follow from the seed alone."""
    with seeded(seed):  # the layers initialise themselves from the global generator
        module = make()
    return randomise(module, seed).eval()


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give `module`, in place, the weights of a trained network: nothing is 0 or 1 that could be otherwise.

    A fresh norm multiplies by one and adds zero, a fresh PReLU has one slope for all channels: with them a
    channel taken from the wrong place often changes nothing, and a test of carving cannot fail.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is not None and tensor.is_floating_point():
                    tensor.copy_(_values(part, name, tensor, rng))
        for part in module.modules():
            _settle(part)
    return module


def _values(part: nn.Module, name: str, tensor: Tensor, rng: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(tensor.shape, generator=rng)

    is_norm = isinstance(part, (_NormBase, nn.GroupNorm, nn.LayerNorm))
    if name == "running_var" or (is_norm and name == "weight"):
        return uniform(0.5, 1.5)
    if is_norm or name == "bias":
        return uniform(-0.5, 0.5)
    if isinstance(part, nn.PReLU):
        return uniform(-0.5, 0.8)
    if tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
        return torch.randn(tensor.shape, generator=rng) / math.sqrt(tensor.numel() / tensor.shape[0])
    if name in ("weight_u", "weight_v", "_u", "_v"):
        return F.normalize(torch.randn(tensor.shape, generator=rng), dim=0)
    return uniform(0.5, 1.5)


def _settle(part: nn.Module) -> None:
    """Let the power iteration of spectral norm find the new weight, so that outputs do not saturate."""
    training = part.training
    part.train()
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            for _ in range(10):
                hook(part, None)
    if parametrize.is_parametrized(part):
        for _ in range(10):
            for name in part.parametrizations:  # type: ignore[union-attr]
                getattr(part, str(name))
    part.train(training)
