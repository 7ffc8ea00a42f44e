"""The subnets a once-for-all search chooses from: a few widths for every position, channels nested by a ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from gansdk.channels.groups import ChannelGroup, Knob, Plan, Space
from gansdk.channels.select import Scores, multiple_for
from gansdk.errors import NothingPruned

Config = tuple[int, ...]
"""One choice per position: GAN Compression's configuration strings, as numbers."""
Ranking = Mapping[str, Sequence[int]]
"""group -> channel ids, the most important first; groups that are not named keep their first channels."""


class Subnets:
    """All configurations of a space, and the plan each stands for.

    A position is a knob that the adapter offers (GAN Compression's eight numbers), or else one prunable group that no
    knob sets, at `shares` of its width. Channels are nested: a wider choice keeps all that a narrower one does.

    Raises:
        NothingPruned: no position has more than one choice.
    """

    def __init__(
        self, space: Space, *, shares: Sequence[float], multiple_of: int, ranking: Ranking | None = None
    ) -> None:
        self.space = space
        tied = {group for knob in space.knobs for group, _ in knob.widths}
        alone = [_alone(group, shares, multiple_of) for group in space.prunable if group.name not in tied]
        self.positions: tuple[Knob, ...] = (*space.knobs, *alone)
        self.choices = tuple(position.choices for position in self.positions)
        if self.count == 1:
            raise NothingPruned(
                f"Every channel group of {space.name!r} has one width to choose from, so there is no subnet to search. "
                f"Its widest group has {max(group.size for group in space.prunable)} channels; allow smaller shares "
                f"than {tuple(shares)} or a smaller multiple than multiple_of={multiple_of}."
            )
        self._kept = self._nested({} if ranking is None else ranking)
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

    def draw(self, rng: Random) -> Config:
        """A configuration with every position uniform over its choices (GAN Compression, released code)."""
        return tuple(rng.choice(choices) for choices in self.choices)

    def plan(self, config: Config) -> Plan:
        """The channels that a configuration keeps."""
        keep = self._whole.copy()
        for table, value in zip(self._kept, config, strict=True):
            keep.update(table[value])
        return Plan(keep)

    def _nested(self, ranking: Ranking) -> list[dict[int, dict[str, tuple[int, ...]]]]:
        """Per position: choice -> group -> ids kept. Made once, so that a plan is only put together."""
        sizes = {group.name: group.size for group in self.space.groups}
        orders = {name: list(ranking.get(name, range(size))) for name, size in sizes.items()}
        return [
            {
                value: {name: tuple(sorted(orders[name][: factor * value])) for name, factor in position.widths}
                for value in position.choices
            }
            for position in self.positions
        ]


def rank(scores: Scores) -> dict[str, list[int]]:
    """Channel ids of every group, the best score first; equal scores by id."""
    return {
        name: [int(i) for i in np.lexsort((np.arange(len(values)), -np.asarray(values)))]
        for name, values in scores.items()
    }


def _alone(group: ChannelGroup, shares: Sequence[float], multiple_of: int) -> Knob:
    """The choices of a group that no knob sets: its shares, floored to multiples, and its full width."""
    multiple = multiple_for(group, multiple_of)

    def width(share: float) -> int:
        floored = int(share * group.size) // multiple * multiple
        least = group.floor if share == 0 else max(1, group.floor, min(multiple, group.size))
        return max(floored, least)

    choices = sorted({width(share) for share in shares if share < 1} | {group.size})
    return Knob(name=group.name, choices=tuple(choices), widths=((group.name, 1),))
