"""Widths that one number sets together: from the layers an adapter names to the groups of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from gansdk.channels.branches import groups_made_by
from gansdk.channels.groups import Knob, Space
from gansdk.channels.select import multiple_for
from gansdk.errors import ContractError

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
"""GAN Compression's widths of a 64-channel network, 64 to 16, as shares, and half of the narrowest."""


def with_knobs(space: Space, module: nn.Module, knobs: Sequence[Knob]) -> Space:
    """`space` with the knobs an adapter named by layers, now by groups.

    A knob of which a group is frozen is left out, and a note says so.

    Raises:
        ContractError: a layer does not exist, a group belongs to two knobs, or a full width is not the multiplier
            times the last choice.
    """
    usable: list[Knob] = []
    notes: list[str] = []
    taken: set[str] = set()
    for knob in knobs:
        widths = {group: factor for layer, factor in knob.widths for group in groups_made_by(space, module, (layer,))}
        frozen = [name for name in widths if space.by_name[name].frozen]
        if frozen:
            notes.append(f"The knob {knob.name!r} is left out: {frozen[0]} ({space.by_name[frozen[0]].frozen}).")
            continue
        _check(space, knob, widths, taken)
        taken |= widths.keys()
        usable.append(replace(knob, widths=tuple(widths.items())))
    return replace(space, knobs=tuple(usable), notes=(*space.notes, *notes))


def carved_knobs(knobs: Sequence[Knob], widths: Mapping[str, int]) -> tuple[Knob, ...]:
    """The knobs of a carved space, `widths` its channels by group; those whose proportions are lost are left out."""
    candidates = (_carved(knob, widths) for knob in knobs)
    return tuple(knob for knob in candidates if knob is not None)


def _carved(knob: Knob, widths: Mapping[str, int]) -> Knob | None:
    group, factor = knob.widths[0]
    value = widths[group] // factor
    if value == 0 or any(widths[group] != factor * value for group, factor in knob.widths):
        return None
    return replace(knob, choices=(*(choice for choice in knob.choices if choice < value), value))


def widths_at(size: int, shares: Sequence[float] = SHARES, *, multiple_of: int = 8, floor: int = 1) -> tuple[int, ...]:
    """Values to search for a width of `size`: its `shares`, floored to multiples, and itself; ascending.

    Of `multiple_of`, or of a smaller power of two for widths below four times that and for shares below it. A share
    of 0 is `floor`, the fewest channels that may stay.
    """

    def width(share: float) -> int:
        multiple = multiple_for(min(size, int(4 * share * size)), multiple_of)
        return max(1 if share else 0, floor, int(share * size) // multiple * multiple)

    return tuple(sorted({width(share) for share in shares if share < 1} | {size}))


def _check(space: Space, knob: Knob, widths: dict[str, int], taken: set[str]) -> None:
    if twice := taken & widths.keys():
        raise ContractError(f"The group {min(twice)!r} belongs to two knobs. This is a bug in the adapter.")
    if not knob.choices or list(knob.choices) != sorted(set(knob.choices)) or knob.choices[0] < 1:
        raise ContractError(f"The knob {knob.name!r} has choices {knob.choices}; they must ascend from at least 1.")
    for name, factor in widths.items():
        if space.by_name[name].size != factor * knob.choices[-1]:
            raise ContractError(
                f"The knob {knob.name!r} gives {name!r} {factor} x {knob.choices[-1]} channels at its last choice, but "
                f"it has {space.by_name[name].size}. This is a bug in the adapter."
            )
