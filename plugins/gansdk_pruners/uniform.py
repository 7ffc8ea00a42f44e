"""The baseline: every group by the same factor, the first channels kept."""

from __future__ import annotations

import numpy as np

from gansdk.budget.cost import Limits
from gansdk.channels.groups import Plan
from gansdk.channels.select import check_floor, check_scores, floor_of
from gansdk.interfaces import Inherit, Pruner, Run, Student
from gansdk.toolkit.options import checked


class Uniform(Pruner):
    """Keeps the first `factor * size` channels of every group, rounded, with the largest factor that fits.

    Groups widen one channel at a time, each when the factor reaches the middle between two of its widths and the first
    of the network first, so that the budget is used to the last channel. None is emptied: what branches leave behind
    when they go would make the widths around them uneven.

    Args:
        inherit: which weights the student takes along; "none" trains a smaller network from scratch.
    """

    @checked
    def __init__(self, *, inherit: Inherit = "all") -> None:
        self.inherit: Inherit = inherit

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        space = student.space
        groups = check_scores(space, {group.name: np.ones(group.size) for group in space.prunable})
        floors = {group.name: max(1, floor_of(group, 0.0)) for group in groups}
        widenings = sorted(
            ((width - 0.5) / group.size, number, group.name, width)
            for number, group in enumerate(groups)
            for width in range(floors[group.name] + 1, group.size + 1)
        )

        def plan(count: int) -> Plan:
            """What the first `count` widenings make of the floors."""
            widths = floors | {name: width for *_, name, width in widenings[:count]}
            return Plan({**space.full_plan(), **{name: tuple(range(width)) for name, width in widths.items()}})

        check_floor(space, limits, student.cost(plan(0)))
        fits, exceeds = 0, len(widenings) + 1
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            fits, exceeds = (middle, exceeds) if limits.fits(student.cost(plan(middle))) else (fits, middle)
        return plan(fits)
