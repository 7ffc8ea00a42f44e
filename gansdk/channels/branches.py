"""Submodules that leave a network as a whole: which groups empty them, read from what an adapter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from gansdk.channels.groups import Branch, ChannelGroup, Space, is_within
from gansdk.errors import ContractError


def with_branches(
    space: Space, module: nn.Module, branches: Mapping[str, Sequence[str]], taps: Mapping[str, str]
) -> Space:
    """`space` with the branches an adapter named; groups that one of them is all about get the floor 0.

    `branches` maps the path of a submodule to the layers whose output channels must all be gone for it to leave.
    A group may be emptied if all its tensors lie inside a submodule that leaves with it. Branches that depend
    on other groups as well, or that hold a tap, stay, and a note says so.

    Raises:
        ContractError: a submodule or layer does not exist, or a layer makes no channels of its own.
    """
    candidates: list[Branch] = []
    notes: list[str] = []
    for path, layers in branches.items():
        _part(module, path)
        if inner := [tap for tap, place in taps.items() if is_within(place, (path,))]:
            notes.append(f"'{path}' is never removed, because the tap {inner[0]!r} is read inside it.")
            continue
        candidates.append(Branch(module=path, groups=groups_made_by(space, module, layers)))
    emptied = {
        branch.groups[0]
        for branch in candidates
        if len(branch.groups) == 1 and _lies_inside(space.by_name[branch.groups[0]], branch.module)
    }
    kept = tuple(branch for branch in candidates if emptied.issuperset(branch.groups))
    notes += [
        f"'{branch.module}' is never removed, because other parts need the channels of {', '.join(branch.groups)}."
        for branch in candidates
        if branch not in kept
    ]
    groups = tuple(replace(group, floor=0) if group.name in emptied else group for group in space.groups)
    return replace(space, groups=groups, branches=kept, notes=(*space.notes, *notes))


def without_branches(space: Space, note: str) -> Space:
    """`space` with every branch kept for good, and the reason among its notes."""
    groups = tuple(replace(group, floor=max(1, group.floor)) for group in space.groups)
    return replace(space, groups=groups, branches=(), notes=(*space.notes, note))


def _part(module: nn.Module, path: str) -> nn.Module:
    try:
        part = module.get_submodule(path)
    except AttributeError:
        part = module
    if part is module:
        raise ContractError(
            f"The adapter names the branch or layer {path!r}, but {type(module).__name__} has no submodule there. This "
            "is a bug in the adapter."
        )
    return part


def groups_made_by(space: Space, module: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """The groups of the layers' output channels, each once.

    Raises:
        ContractError: a layer does not exist, or makes no channels of its own.
    """
    outputs = {op.module: (op.weight, op.out_dim) for op in space.ops}
    names: dict[str, None] = {}
    for layer in layers:
        _part(module, layer)
        tensor, dim = outputs.get(layer, ("", 0))
        rows = space.axes_of.get(tensor, {}).get(dim, ())
        if not rows:
            raise ContractError(
                f"The adapter names the layer {layer!r}, but its output channels cannot be traced. Name a convolution "
                "or linear layer that is executed. This is a bug in the adapter."
            )
        names |= dict.fromkeys(group.name for group, _ in rows)
    return tuple(names)


def _lies_inside(group: ChannelGroup, path: str) -> bool:
    return not group.frozen and all(is_within(axis.tensor, (path,)) for axis in group.axes)
