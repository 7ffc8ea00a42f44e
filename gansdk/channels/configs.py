"""Configurations: one value per knob of a space, from and to plans. GAN Compression writes them "16_16_32_16"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import SupportsIndex

from gansdk.channels.groups import Knob, Plan, Space
from gansdk.errors import ContractError, InvalidOption

Config = Mapping[str, int]
"""Knob -> its value, in the order of the space's knobs."""


def read_config(space: Space, values: Config | Sequence[int] | str) -> Config:
    """The configuration in any of its spellings: by knobs, as numbers in their order, or joined by "_".

    Knobs that are not named keep everything. Any integer up to the full network's is a value, whether or not
    it is among the knob's choices; 0 only where it is.

    Raises:
        InvalidOption: there is no such knob, too few or too many numbers, or a value out of range.
    """
    names = [knob.name for knob in space.knobs]
    if isinstance(values, str):
        parts = values.split("_")
        if not all(part.isdecimal() for part in parts):
            raise InvalidOption(f"The configuration {values!r} must be integers joined by '_'.")
        values = [int(part) for part in parts]
    if not isinstance(values, Mapping):
        if len(values) != len(names):
            raise InvalidOption(
                f"The configuration {list(values)} has {len(values)} values, but {space.name!r} has {len(names)} knobs"
                f"{': ' if names else ''}{', '.join(names)}."
            )
        values = dict(zip(names, values, strict=True))
    if strange := [name for name in values if name not in names]:
        raise InvalidOption(f"{space.name!r} has no knob {strange[0]!r}; it has {', '.join(names) or 'none'}.")
    return {knob.name: _value(knob, values.get(knob.name, knob.choices[-1])) for knob in space.knobs}


def _value(knob: Knob, choice: object) -> int:
    value = choice.__index__() if isinstance(choice, SupportsIndex) else -1
    least = min(1, knob.choices[0])
    if not least <= value <= knob.choices[-1]:
        raise InvalidOption(f"{knob.name}={choice!r} must be an integer from {least} to {knob.choices[-1]}.")
    return value


def spelled(config: Config) -> str:
    """The configuration's numbers, joined by "_"."""
    return "_".join(map(str, config.values()))


def widths_of(space: Space, values: Config | Sequence[int] | str) -> dict[str, int]:
    """Group -> channels of a configuration, for every group a knob sets: what a cost query needs.

    Errors as `read_config`.
    """
    config = read_config(space, values)
    return {group: factor * config[knob.name] for knob in space.knobs for group, factor in knob.widths}


def plan_of(
    space: Space, values: Config | Sequence[int] | str, ranking: Mapping[str, Sequence[int]] | None = None
) -> Plan:
    """The plan of a configuration: the first channels of each group by id, or of its `ranking` (ids, best first).

    Groups that no knob sets keep everything.

    Raises:
        InvalidOption: as `read_config`.
        ContractError: the ranking of a group is not an order of its channels.
    """
    widths = widths_of(space, values)
    keep = dict(space.full_plan())
    for name, width in widths.items():
        order = keep[name] if ranking is None else tuple(int(channel) for channel in ranking.get(name, keep[name]))
        if ranking is not None and tuple(sorted(order)) != keep[name]:
            raise ContractError(f"The ranking of group {name!r} must name each of its {len(keep[name])} channels once.")
        keep[name] = tuple(sorted(order[:width]))
    return Plan(keep)


def config_of(space: Space, plan: Plan) -> Config:
    """The configuration whose widths are the plan's; groups that no knob sets may have any.

    Raises:
        ContractError: the widths of a knob's groups are in other proportions than the knob sets.
    """
    widths = plan.widths(space)
    config: dict[str, int] = {}
    for knob in space.knobs:
        group, factor = knob.widths[0]
        value = widths[group] // factor
        for name, multiplier in knob.widths:
            if widths[name] != multiplier * value:
                raise ContractError(
                    f"The plan is not a configuration: the knob {knob.name!r} gives {name!r} {multiplier} channels for "
                    f"{factor} of {group!r}, but the plan keeps {widths[name]} and {widths[group]}."
                )
        config[knob.name] = value
    return config
