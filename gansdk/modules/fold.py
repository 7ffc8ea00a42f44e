"""Copies of a user's module that are safe to work on: deep, and free of reparametrised weights."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with `module`.

    Plain `deepcopy` fails on tensors that carry a graph, which the hook form of spectral norm leaves
    behind after every training forward; such tensors are copied by value.
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        for value in (*vars(part).values(), *part._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def fold(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy with plain weights, and a note for every weight that was computed from others.

    Spectral and weight normalisation (hook and parametrised forms) divide by a norm of the whole weight,
    so a slice of such a weight is another function. Folding keeps the function of inference exactly.
    """
    folded = copy_module(module)
    modes = {part: part.training for part in folded.modules()}
    folded.eval()  # in training mode, reading a spectrally normalised weight would move its power iteration
    notes: list[str] = []
    for path, part in folded.named_modules():
        if parametrize.is_parametrized(part):
            # A copy shares the class that holds the parametrised property, and removing it edits that class.
            shared = type(part)
            part.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
                notes.append(f"{path}.{name}: its parametrisation was folded into a plain weight.")
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
                notes.append(f"{path}.{hook.name}: spectral norm was folded into a plain weight.")
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
                notes.append(f"{path}.{hook.name}: weight norm was folded into a plain weight.")
    for part in folded.modules():
        part.training = modes.get(part, False)
    return folded, tuple(notes)
