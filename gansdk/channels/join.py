"""One space for several generators that are compressed together: their names behind those of their routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gansdk.channels.groups import ChannelGroup, NormOp, Op, Plan, Space

TAP = "tap:"


def join(spaces: Mapping[str, Space], name: str) -> Space:
    """The union of spaces, for the module that holds every generator under its key.

    Groups, tensors, submodules and knobs get "key." in front of their names, taps "tap:key.". Costs are sums.
    """
    parts = [_renamed(space, key) for key, space in spaces.items()]

    def all_of(field: str) -> tuple:  # type: ignore[type-arg] # of the field's own items
        return tuple(item for part in parts for item in getattr(part, field))

    return Space(
        groups=all_of("groups"),
        ops=all_of("ops"),
        norms=all_of("norms"),
        attributes=all_of("attributes"),
        shapes={name: shape for part in parts for name, shape in part.shapes.items()},
        trainable=frozenset().union(*(part.trainable for part in parts)),
        item_bytes={name: size for part in parts for name, size in part.item_bytes.items()},
        fixed_macs=sum(part.fixed_macs for part in parts),
        notes=all_of("notes"),
        name=name,
        branches=all_of("branches"),
        knobs=all_of("knobs"),
    )


def split(plan: Plan, spaces: Mapping[str, Space]) -> dict[str, Plan]:
    """What a plan of the joined space means for each of `spaces`."""
    return {
        key: Plan({group.name: plan[name] for group in space.groups if (name := f"{key}.{group.name}") in plan})
        for key, space in spaces.items()
    }


def _renamed(space: Space, key: str) -> Space:
    def named(name: str) -> str:
        if name.startswith(TAP):
            return f"{TAP}{key}.{name.removeprefix(TAP)}"
        return f"{key}.{name}" if name else key

    def widths(rows: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        return tuple((named(group), unit) for group, unit in rows)

    def group(old: ChannelGroup) -> ChannelGroup:
        axes = tuple(replace(axis, tensor=named(axis.tensor)) for axis in old.axes)
        return replace(old, name=named(old.name), axes=axes)

    def op(old: Op) -> Op:
        bias = None if old.bias is None else named(old.bias)
        return replace(old, weight=named(old.weight), bias=bias, module=named(old.module))

    def norm(old: NormOp) -> NormOp:
        return replace(old, widths=widths(old.widths), module=named(old.module))

    return replace(
        space,
        groups=tuple(map(group, space.groups)),
        ops=tuple(map(op, space.ops)),
        norms=tuple(map(norm, space.norms)),
        attributes=tuple(replace(old, module=named(old.module), widths=widths(old.widths)) for old in space.attributes),
        shapes={named(name): shape for name, shape in space.shapes.items()},
        trainable=frozenset(map(named, space.trainable)),
        item_bytes={named(name): size for name, size in space.item_bytes.items()},
        notes=tuple(f"{key}: {note}" for note in space.notes),
        branches=tuple(
            replace(old, module=named(old.module), groups=tuple(map(named, old.groups))) for old in space.branches
        ),
        knobs=tuple(replace(old, name=named(old.name), widths=widths(old.widths)) for old in space.knobs),
    )
