"""One-step pruning: rank every channel once, keep the best that the budget allows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gansdk.budget import Limits
from gansdk.channels.groups import Plan
from gansdk.channels.recover import least_squares
from gansdk.channels.select import FLOOR_SHARE, check_scores, check_threshold_floor, select, select_by_threshold
from gansdk.interfaces import Inherit, Pruner, Run, Student
from gansdk.toolkit.options import count, one_of, share
from gansdk_pruners.importance import IMPORTANCES, scores_by

RECOVERY_BATCHES = 16
"""Images for the least-squares recovery."""


class OneStep(Pruner):
    """One ranking, one cut (after CAT, Jin et al., CVPR 2021), with costs in closed form.

    Args:
        importance: "gauss-newton" (default), "taylor", "norm-scale", "consumer-norm", "torch-pruning" or
            "auto", which is gauss-newton where there are images and consumer-norm, with a warning, where not.
        allocation: "global" ranks all channels together; "per-layer" cuts every group by the same share.
        selection: "rank" goes down the ranking to the budget; "threshold" is CAT's bisection on the score.
        multiple_of: widths that are cut become multiples of this (16 is what wide vector units want).
        floor_share: least share of any group that stays, for selection "rank"; 0 lets branches be emptied.
        floor_width: fewest channels that stay, for selection "threshold" (CAT's scripts: 16). Branches that the
            network does without, as its adapter says, may be emptied.
        recovery: "least-squares" refits the carved layers on images before distillation; "none" does not.
        inherit: which weights the student takes along (CAT: "none").
    """

    def __init__(
        self,
        *,
        importance: str = "auto",
        allocation: Literal["global", "per-layer"] = "global",
        selection: Literal["rank", "threshold"] = "rank",
        multiple_of: int = 16,
        floor_share: float = FLOOR_SHARE,
        floor_width: int = 1,
        recovery: Literal["least-squares", "none"] = "least-squares",
        inherit: Inherit = "all",
    ) -> None:
        self.importance = one_of(("auto", *IMPORTANCES), importance, "importance")
        self.allocation = one_of(("global", "per-layer"), allocation, "allocation")
        self.selection = one_of(("rank", "threshold"), selection, "selection")
        self.multiple_of = count(multiple_of, "multiple_of")
        self.floor_share = share(floor_share, "floor_share")
        self.floor_width = count(floor_width, "floor_width")
        self.recovery = one_of(("least-squares", "none"), recovery, "recovery")
        self.inherit: Inherit = one_of(("none", "norms", "all"), inherit, "inherit")

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        space = student.space
        # The floor is checked with scores that cost nothing, before the importance runs.
        flat = {group.name: np.zeros(group.size) for group in space.prunable}
        if self.selection == "threshold":
            check_scores(space, flat)
            check_threshold_floor(space, limits, cost=student.cost, floor_width=self.floor_width)
            scores = scores_by(self.importance, student, run)
            return select_by_threshold(space, scores, limits, cost=student.cost, floor_width=self.floor_width)
        select(space, flat, limits, cost=student.cost, multiple_of=1, floor_share=self.floor_share)
        scores = scores_by(self.importance, student, run)
        if self.allocation == "per-layer":
            scores = {
                name: np.argsort(np.argsort(values, kind="stable")) / len(values) for name, values in scores.items()
            }
        return select(
            space,
            scores,
            limits,
            cost=student.cost,
            multiple_of=self.multiple_of,
            normalise=self.allocation == "global",
            floor_share=self.floor_share,
        )

    def recover(self, full: Student, carved: Student, plan: Plan, run: Run) -> None:
        batches = run.probe_batches(RECOVERY_BATCHES)
        if self.recovery == "none" or self.inherit != "all" or batches is None:
            return
        plans, small = full.split(plan), carved.parts()
        for route, theirs in full.parts().items():
            images = [batch.inputs[route] for batch in batches]
            least_squares(theirs.module, small[route].module, theirs.space, plans[route], images)
