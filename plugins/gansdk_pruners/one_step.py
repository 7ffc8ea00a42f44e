"""One-step pruning: rank every channel once, keep the best that the budget allows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from gansdk.budget.cost import Limits
from gansdk.channels.groups import Plan
from gansdk.channels.select import FLOOR_SHARE, check_scores, select
from gansdk.errors import GansdkWarning
from gansdk.interfaces import Inherit, Pruner, Run, Student
from gansdk.toolkit.options import Count, CountOrZero, Share, checked
from gansdk_pruners.importance import Importance, scores_by
from gansdk_pruners.threshold import check_threshold_floor, select_by_threshold
from gansdk_pruners.trials import Allocation, Attempt, Bench, Cut, Cutter, Recovery, compare, told

Ask = Literal["auto", "cost", "global", "per-layer"]
Repair = Literal["auto", "least-squares", "cross-validated", "guarded", "none"]

NOTE = "plans"
WITHOUT_DATA = (
    "There are no images, so channels were ranked, layers refitted and plans compared on synthetic images (discs of "
    "many sizes and colors). On photographs the student may be several dB further from the teacher than on these. Pass "
    "data=... with some of the images the generator is meant for."
)
FLAT = (
    "Every image that channels are ranked on is of one colour, which says little of what they are for. Pass data=... "
    "with images of the kind the generator is meant for."
)


class OneStep(Pruner):
    """One ranking, one cut (after CAT, Jin et al., CVPR 2021), with costs in closed form.

    Left to itself it tries out a few plans and refits, and takes what comes nearest to the teacher on images that no
    layer was refitted on; `trials` bounds what that may cost. Where `allocation` and `recovery` are both set, there
    is nothing to try.

    Args:
        importance: "gauss-newton" (default), "taylor", "norm-scale", "consumer-norm", "torch-pruning" or
            "auto", which is gauss-newton: on synthetic images, with a warning, where there are none.
        allocation: "cost" ranks all channels together by the squared score over what a channel saves of what the
            budget limits; "global" by the score over the root mean square of its group; "per-layer" cuts every group
            by the same share; "auto" tries these, widths of `uniform` and torch-pruning's magnitudes.
        selection: "rank" goes down the ranking to the budget; "threshold" is CAT's bisection on the score.
        multiple_of: widths that are cut become multiples of this (16 is what wide vector units want).
        floor_share: least share of any group that stays, for selection "rank"; 0 lets branches be emptied.
        floor_width: fewest channels that stay, for selection "threshold" (CAT's scripts: 16). Branches that the
            network does without, as its adapter says, may be emptied.
        recovery: "least-squares" refits the carved layers on images before distillation; "cross-validated" chooses for
            every layer how far its solution may leave the inherited weights; "guarded" does so
            and keeps a solution only where images that it was not solved on come nearer to the teacher's; "none" does
            neither; "auto" tries all.
        trials: what trying out may cost, in training steps of 8 images; 0 takes "cost" and "guarded" without comparing.
        inherit: which weights the student takes along (CAT: "none"); where not all, there is nothing to refit or try.
    """

    @checked
    def __init__(
        self,
        *,
        importance: Importance = "auto",
        allocation: Ask = "auto",
        selection: Literal["rank", "threshold"] = "rank",
        multiple_of: Count = 16,
        floor_share: Share = FLOOR_SHARE,
        floor_width: Count = 1,
        recovery: Repair = "auto",
        trials: CountOrZero = 100,
        inherit: Inherit = "all",
    ) -> None:
        self.importance = importance
        self.allocation: Ask = allocation
        self.selection = selection
        self.multiple_of = multiple_of
        self.floor_share = floor_share
        self.floor_width = floor_width
        self.recovery: Repair = recovery
        self.trials = trials
        self.inherit: Inherit = inherit

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
        return self._chosen(student, limits, run)

    def _chosen(self, student: Student, limits: Limits, run: Run) -> Plan:
        """The plan by the ranking, or the best of several; a run that was killed behind the trials knows them."""
        attempts, full = self._attempts(), student.space.full_plan()
        if limits.fits(student.cost(full)):
            return full
        bench = Bench(student, run)
        if bench.is_synthetic and bench.sees:
            warnings.warn(WITHOUT_DATA, GansdkWarning, stacklevel=3)
        if bench.is_flat:
            warnings.warn(FLAT, GansdkWarning, stacklevel=3)
        rank = partial(scores_by, self.importance, run=run)
        cutter = Cutter(rank=rank, multiple_of=self.multiple_of, floor_share=self.floor_share)
        if len(attempts) == 1 or not bench.sees:
            return cutter.plan(student, rank(student), limits, attempts[0].allocation)
        row = next((row for row in run.notes(NOTE) if row["limits"] == repr(limits)), None)
        if row is None:
            found = compare(bench, attempts, cutter, rank(student), limits, run, self.trials)
            row = run.note(NOTE, {"limits": repr(limits), **found})
        run.emit(told(row))
        return Plan.from_dict(row["plan"])

    def recover(self, full: Student, carved: Student, plan: Plan, run: Run) -> None:
        if self.recovery == "none" or self.inherit != "all" or plan == full.space.full_plan():
            return
        row = next((row for row in reversed(run.notes(NOTE)) if Plan.from_dict(row["plan"]) == plan), None)
        cut, recovery = Cut(plan), self._usual_recovery
        if row is not None:
            cut, recovery = Cut(plan, row["first"] and Plan.from_dict(row["first"])), row["recovery"]
        if recovery != "none":
            Bench(full, run).repaired(carved, cut, recovery)

    @property
    def _usual_recovery(self) -> Recovery:
        return "guarded" if self.recovery == "auto" else self.recovery

    def _attempts(self) -> list[Attempt]:
        """What is tried, in the order in which it is given up where time is short; one if all is said."""
        if self.inherit != "all" or not self.trials:
            return [Attempt("cost" if self.allocation == "auto" else self.allocation, self._usual_recovery)]
        every: tuple[Allocation, ...] = ("cost", "per-layer", "global")
        allocations = every if self.allocation == "auto" else (self.allocation,)
        first = allocations[0]  # made however short the time is
        found = [Attempt(first, "cross-validated"), *(Attempt(one, "none") for one in allocations)]
        if self.allocation == "auto":
            found += [Attempt("uniform", "none"), Attempt("magnitude", "none")]
        found += [Attempt(one, "cross-validated") for one in allocations]
        if "cost" in allocations and "auto" in (self.allocation, self.recovery):
            found.append(Attempt("cost", "cross-validated", rounds=2))
        found += [Attempt(one, repair) for repair in ("guarded", "least-squares") for one in allocations]
        if self.recovery != "auto":
            found = [replace(attempt, recovery=self.recovery) for attempt in found]
        return list(dict.fromkeys(found))
