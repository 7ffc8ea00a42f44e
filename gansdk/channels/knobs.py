"""Widths that one number sets together: from the layers an adapter names to the groups of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from gansdk.channels.branches import groups_made_by
from gansdk.channels.groups import Knob, Space
from gansdk.errors import ContractError


def with_knobs(space: Space, module: nn.Module, knobs: Sequence[Knob]) -> Space:
    """`space` with the knobs an adapter named by layers, now by groups.

    A knob of which a group is frozen is left out, and a note says so.

    Raises:
        ContractError: a layer does not exist, a group belongs to two knobs, or a full width is not the multiplier
            times the last choice.
    """
    found: list[Knob] = []
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
        found.append(replace(knob, widths=tuple(widths.items())))
    return replace(space, knobs=tuple(found), notes=(*space.notes, *notes))


def carved_knobs(knobs: Sequence[Knob], widths: Mapping[str, int]) -> tuple[Knob, ...]:
    """The knobs of a carved space, `widths` its channels by group; those whose proportions are lost are left out."""
    found = (_carved(knob, widths) for knob in knobs)
    return tuple(knob for knob in found if knob is not None)


def _carved(knob: Knob, widths: Mapping[str, int]) -> Knob | None:
    group, factor = knob.widths[0]
    value = widths[group] // factor
    if value == 0 or any(widths[group] != factor * value for group, factor in knob.widths):
        return None
    return replace(knob, choices=(*(choice for choice in knob.choices if choice < value), value))


def choices_up_to(full: int, *, lowest: float, multiple_of: int = 8) -> tuple[int, ...]:
    """Values to search for a width of `full`: ascending multiples from `lowest` times it, and itself.

    Of 8 (GAN Compression, Li et al., CVPR 2020), or of a smaller power of two for a width below four times that.
    """
    step = multiple_of
    while step > 1 and 4 * step > full:
        step //= 2
    return (*(value for value in range(step, full, step) if value >= lowest * full), full)


def _check(space: Space, knob: Knob, widths: dict[str, int], taken: set[str]) -> None:
    if twice := taken & widths.keys():
        raise ContractError(f"The group {min(twice)!r} belongs to two knobs. This is a fault of the adapter.")
    if not knob.choices or list(knob.choices) != sorted(set(knob.choices)) or knob.choices[0] < 1:
        raise ContractError(f"The knob {knob.name!r} has choices {knob.choices}; they must ascend from at least 1.")
    for name, factor in widths.items():
        if space.by_name[name].size != factor * knob.choices[-1]:
            raise ContractError(
                f"The knob {knob.name!r} gives {name!r} {factor} x {knob.choices[-1]} channels at its last choice, but "
                f"it has {space.by_name[name].size}. This is a fault of the adapter."
            )
