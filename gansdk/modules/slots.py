"""Run a module with other tensors in their places, where modules or tensors may be shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Slots:
    """Where a module keeps its parameters and buffers, looked up once: each shared tensor under its first name."""

    def __init__(self, module: nn.Module) -> None:
        names: dict[int, str] = {}
        self._places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        for path, part in module.named_modules():
            for table in (part._parameters, part._buffers):
                for leaf, tensor in table.items():
                    if tensor is not None:
                        name = names.setdefault(id(tensor), f"{path}.{leaf}" if path else leaf)
                        self._places.setdefault(name, []).append((table, leaf))

    def tensors(self) -> dict[str, Tensor]:
        """What the slots hold now. Those that are empty at the moment are left out."""
        held = {name: table[leaf] for name, ((table, leaf), *_) in self._places.items()}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Put `tensors` (name -> replacement) into every slot of these names while this lasts."""
        places = [(table, leaf, tensor) for name, tensor in tensors.items() for table, leaf in self._places[name]]
        before = [table[leaf] for table, leaf, _ in places]
        try:
            for table, leaf, tensor in places:
                table[leaf] = tensor
            yield
        finally:
            for (table, leaf, _), tensor in zip(places, before, strict=True):
                table[leaf] = tensor


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
