"""The weight-sharing view: run a module as if it were carved, with gradients to the full weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.channels.carve import attribute_values, replace_by_none, slices
from gansdk.channels.groups import Plan, Space
from gansdk.modules.meta_device import LightMeta
from gansdk.modules.slots import Slots, keeping_attributes


class Elastic:
    """Runs subnets of one module by slicing its tensors; outputs and gradients equal the carved net's.

    Numbers a module keeps beside its tensors (groups, num_features) are set for the call, emptied branches
    are None while it lasts, and both are put back behind it, so a module must not be called from two threads at
    once. Tracked statistics that a subnet would update in training mode are slices and are not written back.
    """

    def __init__(self, module: nn.Module, space: Space) -> None:
        self.module = module
        self.space = space
        self._slots = Slots(module)
        self._slices = lru_cache(maxsize=64)(lambda plan: slices(space, plan))
        self._numbers = lru_cache(maxsize=64)(lambda plan: list(self._other_numbers(plan)))

    def call(self, plan: Plan, *inputs: Tensor) -> Any:
        """The output of the subnet `plan` on the inputs."""
        # A norm that is made to use its input's statistics has no running ones to slice at that moment.
        state = self._slots.tensors()
        sliced = {name: _sliced(state[name], cut) for name, cut in self._slices(plan).items() if name in state}
        if not sliced and not self.space.removed(plan):
            return self.module(*inputs)
        with self._narrowed(plan), self._slots.holding(sliced):
            return self.module(*inputs)

    def dry_run(self, plan: Plan, example: Tensor) -> Any:
        """The subnet's output on the meta device (on the example's own where meta fails): shapes only."""
        state = self._slots.tensors()
        for device in ("meta", example.device):
            sliced = {}
            for name, tensor in state.items():
                cut = self._slices(plan).get(name, [])
                whole = torch.empty_like(tensor, device="meta") if device == "meta" else tensor.detach()
                sliced[name] = _sliced(whole, cut)
            try:
                with self._shapes_only(plan, device), self._slots.holding(sliced):
                    return self.module(example.to(device))
            except (NotImplementedError, RuntimeError, AssertionError):
                if device != "meta":
                    raise
        raise AssertionError("unreachable")

    def _other_numbers(self, plan: Plan) -> Iterator[tuple[dict[str, Any], str, int]]:
        """(attributes of a part, name, value) where the plan needs another number than the full module."""
        for path, name, value in attribute_values(self.space, plan):
            part = self.module.get_submodule(path)
            if getattr(part, name) != value:
                yield vars(part), name, value

    @contextmanager
    def _shapes_only(self, plan: Plan, device: str | torch.device) -> Iterator[None]:
        attributes, narrowed = keeping_attributes(self.module), self._narrowed(plan)
        with attributes, narrowed, torch.no_grad(), LightMeta(), torch.device(device):
            yield

    @contextmanager
    def _narrowed(self, plan: Plan) -> Iterator[None]:
        # Straight in the dictionaries: a module's own setattr takes as long as a small layer.
        numbers = self._numbers(plan)
        before = [attributes.get(name) for attributes, name, _ in numbers]
        branches: list[tuple[str, nn.Module]] = []
        try:
            for path in self.space.removed(plan):
                branch = replace_by_none(self.module, path)
                if branch is not None:
                    branches.append((path, branch))
            for attributes, name, value in numbers:
                attributes[name] = value
            yield
        finally:
            for (attributes, name, _), old in zip(numbers, before, strict=True):
                if old is None:  # it was the class's
                    del attributes[name]
                else:
                    attributes[name] = old
            for path, branch in reversed(branches):
                parent, _, leaf = path.rpartition(".")
                self.module.get_submodule(parent)._modules[leaf] = branch


def _sliced(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> Tensor:
    for dim, entries in cuts:
        tensor = tensor.index_select(dim, entries.to(tensor.device))
    return tensor
