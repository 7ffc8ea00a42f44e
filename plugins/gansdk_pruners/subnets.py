"""The subnets a once-for-all search chooses from: a few widths for every position, channels nested by a ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from random import Random
from typing import Literal

import numpy as np

from gansdk.channels.configs import config_of, plan_of
from gansdk.channels.groups import Knob, Plan, Space
from gansdk.channels.knobs import SHARES, widths_at
from gansdk.channels.select import Scores
from gansdk.errors import InvalidOption, NothingPruned

Config = tuple[int, ...]
"""One choice per position: GAN Compression's configuration strings, as numbers."""
Ranking = Mapping[str, Sequence[int]]
"""group -> channel ids, the most important first; groups that are not named keep their first channels."""
Positions = Literal["auto", "knobs", "groups"]
"""What has a number of its own in a configuration."""
MULTIPLE_OF = 8


def positions_of(
    space: Space,
    kind: Positions = "auto",
    *,
    shares: Sequence[float] | None = None,
    multiple_of: int | None = None,
    narrower: bool = False,
) -> tuple[Knob, ...]:
    """What a configuration has one number for, each with its choices, ascending.

    The knobs that the adapter offers (GAN Compression's eight numbers), and every prunable group that none of them
    sets. With "groups" knobs count only where they are rules of the family (`Knob.tied`). Knobs have the adapter's
    choices, with `narrower` the shares of their width besides; `shares` or `multiple_of` replace these for all.

    Raises:
        InvalidOption: knobs are asked for and there are none.
        NothingPruned: no position has more than one choice.
    """
    knobs = space.ties if kind == "groups" else space.knobs
    if kind == "knobs" and not knobs:
        raise InvalidOption(f"space='knobs', but the adapter names no knobs of {space.name!r}. Use space='groups'.")
    choices = SHARES if shares is None else shares
    multiple = MULTIPLE_OF if multiple_of is None else multiple_of
    if shares is not None or multiple_of is not None:
        knobs = tuple(_with(knob, widths_at(knob.choices[-1], choices, multiple_of=multiple)) for knob in knobs)
    elif narrower:
        knobs = tuple(_with(knob, (*knob.choices, *widths_at(knob.choices[-1]))) for knob in knobs)
    tied = {group for knob in knobs for group, _ in knob.widths}
    alone = tuple(
        Knob(
            name=group.name,
            choices=widths_at(group.size, choices, multiple_of=multiple, floor=group.floor),
            widths=((group.name, 1),),
        )
        for group in space.prunable
        if group.name not in tied
    )
    positions = (*knobs, *alone)
    if all(len(position.choices) == 1 for position in positions):
        raise NothingPruned(
            f"Every channel group of {space.name!r} has one width to choose from, so there is no subnet to search. "
            f"Its widest group has {max(group.size for group in space.prunable)} channels; allow smaller shares "
            f"than {tuple(choices)} or a smaller multiple than multiple_of={multiple}."
        )
    return positions


class Subnets:
    """All configurations of a space's positions, and the plan each stands for.

    Channels are nested: a wider choice keeps all that a narrower one does.
    """

    def __init__(self, space: Space, positions: Sequence[Knob], ranking: Ranking | None = None) -> None:
        self.space = replace(space, knobs=tuple(positions))
        """With the positions for knobs, as `gansdk.channels.configs` reads configurations."""
        self.positions = self.space.knobs
        self.choices = tuple(position.choices for position in self.positions)
        self.ranking = ranking
        self._kept = self._nested(ranking)
        self._whole = dict(space.full_plan())

    @property
    def count(self) -> int:
        """How many configurations there are."""
        return math.prod(map(len, self.choices))

    @property
    def smallest(self) -> Config:
        return tuple(choices[0] for choices in self.choices)

    @property
    def largest(self) -> Config:
        return tuple(choices[-1] for choices in self.choices)

    def has(self, config: Config) -> bool:
        """Whether it is one of the configurations."""
        return len(config) == len(self.choices) and all(map(tuple.__contains__, self.choices, config))

    def draw(self, rng: Random) -> Config:
        """A configuration with every position uniform over its choices (GAN Compression, released code)."""
        return tuple(rng.choice(choices) for choices in self.choices)

    def plan(self, config: Config) -> Plan:
        """The channels that a configuration keeps."""
        keep = self._whole.copy()
        for table, value in zip(self._kept, config, strict=True):
            keep.update(table[value])
        return Plan(keep)

    def named(self, config: Config) -> dict[str, int]:
        """The configuration by positions."""
        return dict(config_of(self.space, self.plan(config)))

    def _nested(self, ranking: Ranking | None) -> list[dict[int, dict[str, tuple[int, ...]]]]:
        """Per position: choice -> group -> ids kept. Made once, so that a plan is only put together."""
        nested: list[dict[int, dict[str, tuple[int, ...]]]] = [{} for _ in self.positions]
        for values in zip_longest(*self.choices):  # a position that has no more choices is left out
            config = {p.name: value for p, value in zip(self.positions, values, strict=True) if value is not None}
            plan = plan_of(self.space, config, ranking)
            for table, position in zip(nested, self.positions, strict=True):
                if position.name in config:
                    table[config[position.name]] = {group: plan[group] for group, _ in position.widths}
        return nested


def rank(scores: Scores) -> dict[str, list[int]]:
    """Channel ids of every group, the best score first; equal scores by id."""
    return {
        name: [int(i) for i in np.lexsort((np.arange(len(values)), -np.asarray(values)))]
        for name, values in scores.items()
    }


def _with(knob: Knob, choices: Sequence[int]) -> Knob:
    return replace(knob, choices=tuple(sorted(set(choices))))
