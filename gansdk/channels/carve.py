"""From a plan to a physically smaller module, and to the space of that module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from gansdk.channels.fold import copy_module
from gansdk.channels.groups import Axis, ChannelGroup, Plan, Space


def kept_entries(space: Space, plan: Plan, tensor: str, dim: int) -> Tensor | None:
    """int64 indices of the entries of `tensor` along `dim` that stay; None if all do."""
    pieces: list[Tensor] = []
    position, changed = 0, False
    for group, axis in space.axes_of.get(tensor, {}).get(dim, ()):
        if axis.start > position:  # entries of no group
            pieces.append(torch.arange(position, axis.start))
        kept = plan.keep.get(group.name)
        ids = torch.arange(group.size) if kept is None else torch.tensor(kept, dtype=torch.int64)
        changed |= len(ids) < group.size
        pieces.append((axis.start + ids[:, None] * axis.unit + torch.arange(axis.unit)).reshape(-1))
        position = axis.start + group.size * axis.unit
    if not changed:
        return None
    pieces.append(torch.arange(position, space.shapes[tensor][dim]))
    return torch.cat(pieces)


def slices(space: Space, plan: Plan) -> dict[str, list[tuple[int, Tensor]]]:
    """tensor -> (dim, kept entries) pairs, only where something goes. Taps are among the tensors."""
    table: dict[str, list[tuple[int, Tensor]]] = {}
    for tensor, dims in space.axes_of.items():
        for dim in dims:
            entries = kept_entries(space, plan, tensor, dim)
            if entries is not None:
                table.setdefault(tensor, []).append((dim, entries))
    return table


def attribute_values(space: Space, plan: Plan) -> Iterator[tuple[str, str, int]]:
    """(module path, attribute, value) under the plan."""
    widths = plan.widths(space)
    for attribute in space.attributes:
        value = attribute.constant + sum(unit * widths[group] for group, unit in attribute.widths)
        yield attribute.module, attribute.name, value


def carve(module: nn.Module, space: Space, plan: Plan) -> nn.Module:
    """A new module with only the kept channels; `module` is left as it is.

    Works on any device, the meta device included, and on any module built like the traced one, so a
    saved student is rebuilt from its plan alone.
    """
    carved = copy_module(module)
    with torch.no_grad():
        for name, cuts in slices(space, plan).items():
            if not name.startswith("tap:"):
                _cut(carved, name, cuts)
    for path, attribute, value in attribute_values(space, plan):
        setattr(carved.get_submodule(path), attribute, value)
    return carved


def _cut(module: nn.Module, name: str, cuts: list[tuple[int, Tensor]]) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    new = old.detach()
    for dim, entries in cuts:
        new = new.index_select(dim, entries.to(new.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for part in module.modules():  # a tensor shared by several modules stays shared
        for table in (part._parameters, part._buffers):
            for key, value in table.items():
                if value is old:
                    table[key] = new


def carve_space(space: Space, plan: Plan) -> Space:
    """The space of `carve(module, space, plan)`: a student carries its groups, they are never traced again."""
    widths = plan.widths(space)
    starts: dict[tuple[str, Axis], int] = {}
    shapes = {name: list(shape) for name, shape in space.shapes.items()}
    for tensor, dims in space.axes_of.items():
        for dim, rows in dims.items():
            lost = 0
            for group, axis in rows:
                starts[(group.name, axis)] = axis.start - lost
                lost += (group.size - widths[group.name]) * axis.unit
            shapes[tensor][dim] -= lost

    def narrowed(group: ChannelGroup) -> ChannelGroup:
        axes = tuple(replace(axis, start=starts[(group.name, axis)]) for axis in group.axes)
        return replace(group, size=widths[group.name], axes=axes, floor=min(group.floor, widths[group.name]))

    return replace(
        space,
        groups=tuple(narrowed(group) for group in space.groups),
        shapes={name: tuple(shape) for name, shape in shapes.items()},
    )
