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
from gansdk.channels.products import LightMeta
from gansdk.channels.slots import call_with, keeping_attributes, state_of


class Elastic:
    """Runs subnets of one module by slicing its tensors; outputs and gradients equal the carved net's.

    Numbers a module keeps beside its tensors (groups, num_features) are set for the call, emptied branches
    are None while it lasts, and both are put back behind it, so a module must not be called from two threads at
    once. Tracked statistics that a subnet would update in training mode are slices and are not written back.
    """

    def __init__(self, module: nn.Module, space: Space) -> None:
        self.module = module
        self.space = space
        self._slices = lru_cache(maxsize=64)(lambda plan: slices(space, plan))

    def call(self, plan: Plan, *inputs: Tensor) -> Any:
        """The output of the subnet `plan` on the inputs."""
        # A norm that is made to use its input's statistics has no running ones to slice at that moment.
        state = state_of(self.module)
        sliced = {name: _sliced(state[name], cut) for name, cut in self._slices(plan).items() if name in state}
        if not sliced and not self.space.removed(plan):
            return self.module(*inputs)
        with self._narrowed(plan):
            return call_with(self.module, sliced, inputs)

    def dry_run(self, plan: Plan, example: Tensor) -> Any:
        """The subnet's output on the meta device (on the example's own where meta fails): shapes only."""
        state = state_of(self.module)
        for device in ("meta", example.device):
            sliced = {}
            for name, tensor in state.items():
                cut = self._slices(plan).get(name, [])
                whole = torch.empty_like(tensor, device="meta") if device == "meta" else tensor.detach()
                sliced[name] = _sliced(whole, cut)
            try:
                with self._shapes_only(plan, device):
                    return call_with(self.module, sliced, (example.to(device),))
            except (NotImplementedError, RuntimeError, AssertionError):
                if device != "meta":
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _shapes_only(self, plan: Plan, device: str | torch.device) -> Iterator[None]:
        kept, narrowed = keeping_attributes(self.module), self._narrowed(plan)
        with kept, narrowed, torch.no_grad(), LightMeta(), torch.device(device):
            yield

    @contextmanager
    def _narrowed(self, plan: Plan) -> Iterator[None]:
        before: list[tuple[nn.Module, str, Any]] = []
        branches: list[tuple[str, nn.Module]] = []
        try:
            for path in self.space.removed(plan):
                branch = replace_by_none(self.module, path)
                if branch is not None:
                    branches.append((path, branch))
            for path, name, value in attribute_values(self.space, plan):
                part = self.module.get_submodule(path)
                before.append((part, name, getattr(part, name)))
                setattr(part, name, value)
            yield
        finally:
            for part, name, old in reversed(before):
                setattr(part, name, old)
            for path, branch in reversed(branches):
                parent, _, leaf = path.rpartition(".")
                self.module.get_submodule(parent)._modules[leaf] = branch


def _sliced(tensor: Tensor, cuts: list[tuple[int, Tensor]]) -> Tensor:
    for dim, entries in cuts:
        tensor = tensor.index_select(dim, entries.to(tensor.device))
    return tensor
