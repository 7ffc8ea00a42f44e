"""Call a module with other tensors in its place, where modules or tensors may be shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each shared tensor once, under its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def call_with(module: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
    """`module(*inputs)` with `tensors` (name in `state_of` -> replacement) for the length of the call.

    Every slot that holds a shared tensor gets the replacement, and each slot is set once: a module that sits
    at two paths would otherwise be left with the replacement.
    """
    first_names = {id(tensor): name for name, tensor in state_of(module).items()}
    slots: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items()):
            name = first_names.get(id(tensor)) if tensor is not None else None
            if name is not None and name in tensors:
                slots[f"{path}.{leaf}" if path else leaf] = tensors[name]
    return torch.func.functional_call(module, slots, inputs, tie_weights=False)


@contextmanager
def keeping_attributes(module: nn.Module) -> Iterator[None]:
    """Give every part its attributes back afterwards: some forwards store what they computed from their input.

    BasicSR's `self.mean = self.mean.type_as(x)` would leave a tensor without values behind after a dry run.
    """
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
