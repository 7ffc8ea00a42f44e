"""From a plan to a physically smaller module, and to the space of that module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.channels.groups import Axis, ChannelGroup, Plan, Space, is_within
from gansdk.channels.knobs import carved_knobs
from gansdk.modules.fold import copy_module


def kept_entries(space: Space, plan: Plan, tensor: str, dim: int) -> Tensor | None:
    """int64 indices of the entries of `tensor` along `dim` that stay; None if all do."""
    pieces: list[Tensor] = []
    position, changed = 0, False
    for group, axis in space.axes_of.get(tensor, {}).get(dim, ()):
        if axis.start > position:  # entries of no group
            pieces.append(torch.arange(position, axis.start))
        channels = plan.keep.get(group.name)
        ids = torch.arange(group.size) if channels is None else torch.tensor(channels, dtype=torch.int64)
        changed |= len(ids) < group.size
        pieces.append((axis.start + ids[:, None] * axis.unit + torch.arange(axis.unit)).reshape(-1))
        position = axis.start + group.size * axis.unit
    if not changed:
        return None
    pieces.append(torch.arange(position, space.shapes[tensor][dim]))
    return torch.cat(pieces)


def slices(space: Space, plan: Plan) -> dict[str, list[tuple[int, Tensor]]]:
    """tensor -> (dim, kept entries) pairs, only where something goes. Taps are among the tensors.

    Tensors inside submodules that the plan removes are left out.
    """
    table: dict[str, list[tuple[int, Tensor]]] = {}
    cache: dict[tuple[Any, ...], Tensor | None] = {}  # most tensors are cut alike
    removed = space.removed(plan)
    for tensor, dims in space.axes_of.items():
        if is_within(tensor, removed):
            continue
        for dim, rows in dims.items():
            cut = (space.shapes[tensor][dim], *((group.name, axis.start, axis.unit) for group, axis in rows))
            if cut not in cache:
                cache[cut] = kept_entries(space, plan, tensor, dim)
            entries = cache[cut]
            if entries is not None:
                table.setdefault(tensor, []).append((dim, entries))
    return table


def attribute_values(space: Space, plan: Plan) -> Iterator[tuple[str, str, int]]:
    """(module path, attribute, value) under the plan, for the submodules that stay."""
    widths, removed = plan.widths(space), space.removed(plan)
    for attribute in space.attributes:
        if is_within(attribute.module, removed):
            continue
        value = attribute.constant + sum(unit * widths[group] for group, unit in attribute.widths)
        yield attribute.module, attribute.name, value


def replace_by_none(module: nn.Module, path: str) -> nn.Module | None:
    """Put None where the submodule at `path` is, and return it; None if it, or a part around it, is gone already."""
    parent_path, _, leaf = path.rpartition(".")
    try:
        parent = module.get_submodule(parent_path)
    except AttributeError:  # a larger part around it was replaced before
        return None
    old = parent._modules.get(leaf)
    parent._modules[leaf] = None
    return old


def carve(module: nn.Module, space: Space, plan: Plan) -> nn.Module:
    """A new module with only the kept channels, and None for emptied branches; `module` is left as it is.

    Works on any device, the meta device included, and on any module built like the traced one, so a
    saved student is rebuilt from its plan alone.
    """
    carved = copy_module(module)
    for path in space.removed(plan):
        replace_by_none(carved, path)
    places = _places(carved)
    with torch.no_grad():
        for name, cuts in slices(space, plan).items():
            if not name.startswith("tap:"):
                _cut(carved, name, cuts, places)
    for path, attribute, value in attribute_values(space, plan):
        setattr(carved.get_submodule(path), attribute, value)
    return carved


Places = dict[int, tuple[Tensor, list[tuple[dict[str, Any], str]]]]
"""Every tensor of a module under its id, with the tables and keys that hold it."""


def _places(module: nn.Module) -> Places:
    places: Places = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for key, value in table.items():
                if value is not None:
                    places.setdefault(id(value), (value, []))[1].append((table, key))
    return places


def _cut(module: nn.Module, name: str, cuts: list[tuple[int, Tensor]], places: Places) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    new = old.detach()
    for dim, entries in cuts:
        new = new.index_select(dim, entries.to(new.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    _, holders = places.get(id(old), (old, []))
    places[id(new)] = (new, holders)
    for table, key in holders:  # a tensor shared by several modules stays shared
        table[key] = new


def carve_space(space: Space, plan: Plan) -> Space:
    """The space of `carve(module, space, plan)`: a student carries its groups, they are never traced again."""
    widths, removed = plan.widths(space), space.removed(plan)
    starts: dict[tuple[str, Axis], int] = {}
    shapes = {name: list(shape) for name, shape in space.shapes.items() if not is_within(name, removed)}
    for tensor, dims in space.axes_of.items():
        if tensor not in shapes:
            continue
        for dim, rows in dims.items():
            lost = 0
            for group, axis in rows:
                starts[(group.name, axis)] = axis.start - lost
                lost += (group.size - widths[group.name]) * axis.unit
            shapes[tensor][dim] -= lost

    def narrowed(group: ChannelGroup) -> ChannelGroup:
        axes = tuple(
            replace(axis, start=starts[(group.name, axis)]) for axis in group.axes if (group.name, axis) in starts
        )
        return replace(group, size=widths[group.name], axes=axes, floor=min(group.floor, widths[group.name]))

    groups = tuple(group for group in map(narrowed, space.groups) if group.size and group.axes)
    names = {group.name for group in groups}

    def counted(widths: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        return tuple(row for row in widths if row[0] in names)

    return replace(
        space,
        groups=groups,
        shapes={name: tuple(shape) for name, shape in shapes.items()},
        ops=tuple(op for op in space.ops if op.weight in shapes),
        norms=tuple(
            replace(norm, widths=counted(norm.widths)) for norm in space.norms if not is_within(norm.module, removed)
        ),
        attributes=tuple(
            replace(attribute, widths=counted(attribute.widths))
            for attribute in space.attributes
            if not is_within(attribute.module, removed)
        ),
        trainable=frozenset(name for name in space.trainable if name in shapes),
        item_bytes={name: size for name, size in space.item_bytes.items() if name in shapes},
        branches=tuple(
            replace(branch, groups=tuple(name for name in branch.groups if name in names))
            for branch in space.branches
            if not is_within(branch.module, removed) and names.intersection(branch.groups)
        ),
        knobs=carved_knobs(space.knobs, widths),
    )
