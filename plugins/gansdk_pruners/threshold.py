"""CAT's selection: one threshold on the scores of all groups (Jin et al., CVPR 2021)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gansdk.budget.cost import Cost, Limits
from gansdk.channels.groups import ChannelGroup, Plan, Space
from gansdk.channels.select import Scores, check_floor, check_scores

_log = logging.getLogger(__name__)


def select_by_threshold(
    space: Space, scores: Scores, limits: Limits, *, cost: Callable[[Plan], Cost], floor_width: int = 1
) -> Plan:
    """The plan of CAT's global threshold on the scores: the same bisection, with costs in closed form.

    Unlike `select` it may leave budget unused, and ties leave or stay together. Groups keep `floor_width` channels
    (CAT's scripts: 16) or all they have, except those that an emptied branch does without, which may lose all.
    Groups that a knob ties follow its leading group, whose scores alone are compared; the knob's value is at least
    `floor_width` (CAT's trunk rule for GauGAN).

    Raises:
        BudgetUnreachable: even the floors cost more than the limits.
        NothingPruned: every group is frozen.
    """
    check_scores(space, scores)
    check_threshold_floor(space, limits, cost=cost, floor_width=floor_width)
    ranked = ranked_groups(space)
    # Usage is what a budget of one leaves: it bounds every term of the limits at once, in 1e-12 steps.
    threshold, widths = threshold_search(
        [scores[group.name] for group in ranked],
        lambda found: int(limits.usage(cost(_best(space, scores, found))) * 10**12),
        10**12,
        threshold_floors(space, floor_width),
    )
    _log.info("The threshold of the scores is %r.", threshold)
    return _best(space, scores, widths)


def ranked_groups(space: Space) -> list[ChannelGroup]:
    """The prunable groups whose own scores decide their widths: all but those that are tied to another."""
    followers = {group for knob in space.ties for group, _ in knob.widths[1:]}
    return [group for group in space.prunable if group.name not in followers]


def threshold_floors(space: Space, floor_width: int) -> list[int]:
    """Fewest channels that `select_by_threshold` keeps of each of the ranked groups."""
    leading = {knob.widths[0][0]: knob for knob in space.ties}

    def floor(group: ChannelGroup) -> int:
        if group.name in leading:
            knob = leading[group.name]
            return knob.widths[0][1] * next((c for c in knob.choices if c >= floor_width), knob.choices[-1])
        return 0 if group.floor == 0 else max(group.floor, min(floor_width, group.size))

    return [floor(group) for group in ranked_groups(space)]


def check_threshold_floor(space: Space, limits: Limits, *, cost: Callable[[Plan], Cost], floor_width: int) -> None:
    """Raise BudgetUnreachable if the smallest plan of `select_by_threshold` does not fit."""
    flat = {group.name: np.zeros(group.size) for group in space.prunable}
    check_floor(space, limits, cost(_best(space, flat, threshold_floors(space, floor_width))))


def _best(space: Space, scores: Scores, widths: Sequence[int]) -> Plan:
    """The plan that keeps the best channels of the prunable groups; ties keep lower ids.

    `widths` are of the ranked groups; ties round them and set the others.
    """
    plan = {group.name: width for group, width in zip(ranked_groups(space), widths, strict=True)}
    for knob in space.ties:
        value = knob.value(plan[knob.widths[0][0]])
        plan |= {group: factor * value for group, factor in knob.widths}
    keep = dict(space.full_plan())
    for group in space.prunable:
        best = np.lexsort((np.arange(group.size), -np.abs(scores[group.name])))[: plan[group.name]]
        keep[group.name] = tuple(sorted(int(i) for i in best))
    return Plan(keep)


def threshold_search(
    scores: Sequence[NDArray[np.float64]],
    macs_at: Callable[[Sequence[int]], int],
    budget_macs: int,
    floors: Sequence[int],
) -> tuple[float, list[int]]:
    """CAT's threshold on norm scales, step for step: (threshold, widths) of the last network looked at.

    `scores` are |gamma| per layer, `macs_at(widths)` the cost of a network, `floors` the least width of each
    layer. Bisection between the smallest and the largest scale; a channel stays if it is strictly above.
    It stops once the bounds are within 0.1 % of the lower one and the network fits (Jin et al., CVPR 2021,
    released code: both must hold). `check` the floor first: a budget below it has no solution.

    Raises:
        ValueError: the floors alone cost more than the budget, where the published loop would not end.
    """
    flat = np.concatenate([np.abs(values) for values in scores])
    low, high = float(flat.min()), float(flat.max())
    if macs_at(list(floors)) > budget_macs:
        raise ValueError(f"the floors cost {macs_at(list(floors))} MACs, the budget is {budget_macs}")
    macs, threshold, widths = None, low, [len(values) for values in scores]
    while abs(high - low) > 1e-3 * low or macs is None or macs > budget_macs:
        threshold = (low + high) / 2
        if not low < threshold < high:  # neighbouring numbers: the published loop may stand still here
            threshold = high
        widths = [
            max(int((np.abs(values) > threshold).sum()), floor) for values, floor in zip(scores, floors, strict=True)
        ]
        macs = macs_at(widths)
        if macs > budget_macs:
            low = threshold
        else:
            high = threshold
    return threshold, widths
