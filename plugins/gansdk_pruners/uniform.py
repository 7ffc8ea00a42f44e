"""The baseline: every group by the same factor, the first channels kept."""

from __future__ import annotations

import numpy as np

from gansdk.budget import Limits
from gansdk.channels.groups import Plan
from gansdk.channels.select import check_floor, check_scores, floor_of
from gansdk.interfaces import Inherit, Pruner, Run, Student


class Uniform(Pruner):
    """Keeps the first `factor * size` channels of every group, with the largest factor that fits.

    Args:
        inherit: which weights the student takes along; "none" trains a smaller network from scratch.
    """

    def __init__(self, *, inherit: Inherit = "all") -> None:
        self.inherit = inherit

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        space = student.space
        groups = check_scores(space, {group.name: np.ones(group.size) for group in space.prunable})

        def plan(factor: float) -> Plan:
            full = dict(space.full_plan())
            for group in groups:
                width = max(floor_of(group, 0.0), round(factor * group.size))
                full[group.name] = tuple(range(width))
            return Plan(full)

        check_floor(space, limits, student.cost(plan(0.0)))
        factors = sorted({width / group.size for group in groups for width in range(group.size + 1)})
        fitting = [factor for factor in factors if limits.fits(student.cost(plan(factor)))]
        return plan(max(fitting))
