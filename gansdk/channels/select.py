"""Selection: which channels stay, given one score per channel and a budget.

The drop sequence is fixed before the budget is looked at: channels leave in the order of their scores, in
packs that bring their group to the next lower multiple. A budget only says how far to go along it, so a
larger budget never keeps less, and every width but one is a multiple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gansdk.budget.cost import ADVICE, Cost, Limits
from gansdk.channels.groups import ChannelGroup, Plan, Space
from gansdk.errors import ContractError, NothingPruned

Scores = Mapping[str, NDArray[np.float64]]
"""group -> (size,), larger is more important."""

Compare = Literal["cost", "unequal", "layers", "scores"]
"""By what channels of different groups compete.

"cost": the squared score over what the channel saves of what the budget limits, which estimates error per cost where
scores are of first order. "unequal": the score over the root mean square of its group. "layers": the rank within the
group, so that every group is cut by the same share. "scores": the score as it is.
"""

FLOOR_SHARE = 0.1
"""Least share of a group that stays: gradients cannot rank what removes a whole layer."""

TARGET_USE = 0.95
"""Budgets are used to at least this share where the network's own steps allow it."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Channels of one group that leave together, worst first."""

    group: str
    channels: tuple[int, ...]


def select(
    space: Space,
    scores: Scores,
    limits: Limits,
    *,
    cost: Callable[[Plan], Cost],
    multiple_of: int = 16,
    compare: Compare = "scores",
    floor_share: float = FLOOR_SHARE,
) -> Plan:
    """The plan that keeps the best channels within `limits`.

    `compare` says by what channels of different groups compete, see `Compare`. A group that is cut keeps a multiple of
    `multiple_of` (a smaller power of two for narrow groups); the last pack is refined to multiples of 8
    and then of 1 where the budget would otherwise be used to less than 95 %.

    Raises:
        BudgetUnreachable: even the floors cost more than the limits.
        NothingPruned: every group is frozen.
    """
    groups = check_scores(space, scores)
    rivals = comparable(space, scores, compare, limits, cost)
    packs = drop_sequence(groups, scores, rivals, multiple_of=multiple_of, floor_share=floor_share)
    if limits.fits(cost(space.full_plan())):
        return space.full_plan()
    check_floor(space, limits, cost(_plan(space, packs)))
    low, high = 0, len(packs)  # packs[:high] fits, packs[:low] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if limits.fits(cost(_plan(space, packs[:middle]))) else (middle, high)
    return _refine(space, packs[:high], limits, cost)


def comparable(
    space: Space, scores: Scores, compare: Compare, limits: Limits, cost: Callable[[Plan], Cost]
) -> dict[str, NDArray[np.float64]]:
    """The scores by which channels of different groups compete, see `Compare`."""
    if compare == "scores":
        return {group.name: np.asarray(scores[group.name], np.float64) for group in space.prunable}
    if compare == "unequal":
        scales = {group.name: _root_mean_square(scores[group.name]) or 1.0 for group in space.prunable}
        return {name: np.asarray(scores[name], np.float64) / scale for name, scale in scales.items()}
    if compare == "layers":
        return {
            group.name: np.argsort(np.argsort(scores[group.name], kind="stable")) / group.size
            for group in space.prunable
        }
    saved = savings(space, limits, cost)
    largest = max(float(np.abs(scores[name]).max()) for name in saved) or 1.0  # squares stay finite
    shares = {name: np.asarray(scores[name], np.float64) / largest for name in saved}
    return {name: values * np.abs(values) / saved[name] for name, values in shares.items()}


def savings(space: Space, limits: Limits, cost: Callable[[Plan], Cost]) -> dict[str, float]:
    """What one channel of each prunable group saves of what `limits` bound, as a share of the full network's cost.

    Measured where an eighth of the group leaves, the others whole.
    """
    full = space.full_plan()
    whole = cost(full)
    before = limits.shares(whole, whole)
    saving: dict[str, float] = {}
    for group in space.prunable:
        leaving = max(1, group.size // 8)
        after = cost(Plan({**full, group.name: tuple(range(group.size - leaving))}))
        shares = limits.shares(after, whole)
        saving[group.name] = max(1e-12, sum(b - a for b, a in zip(before, shares, strict=True)) / leaving)
    return saving


def check_scores(space: Space, scores: Scores) -> list[ChannelGroup]:
    """The prunable groups, each with a finite score for every channel."""
    if not space.prunable:
        reasons = [f"{group.name}: {group.frozen}" for group in space.groups]
        raise NothingPruned(
            " ".join((f"No channel of {space.name!r} can be removed.", *space.notes, "; ".join(reasons[:8]))).rstrip(),
            reasons=reasons,
        )
    for group in space.prunable:
        values = scores.get(group.name)
        if values is None or len(values) != group.size or not np.isfinite(values).all():
            raise ContractError(
                f"The importance did not return a finite score for each of the {group.size} channels of group "
                f"{group.name!r}. A non-finite score usually means that the teacher's own output is not finite."
            )
    return list(space.prunable)


def check_floor(space: Space, limits: Limits, floor: Cost, advice: str = ADVICE) -> None:
    """Raise BudgetUnreachable if the smallest plan does not fit; `advice` as for `Limits.check_floor`."""
    frozen = [f"{group.name} ({group.frozen})" for group in space.groups if group.frozen]
    limits.check_floor(floor, space.name, frozen, advice)


def floor_of(group: ChannelGroup, floor_share: float = FLOOR_SHARE) -> int:
    """Fewest channels of the group that any plan keeps."""
    return min(group.size, max(group.floor, int(np.ceil(floor_share * group.size))))


def multiple_for(size: int, multiple_of: int) -> int:
    """The multiple for a width of `size`: at most a quarter of it, so that narrow groups can shrink too."""
    multiple = multiple_of
    while multiple > 1 and multiple * 4 > size:
        multiple //= 2
    return max(1, multiple)


def drop_sequence(
    groups: Sequence[ChannelGroup], scores: Scores, rivals: Scores, *, multiple_of: int, floor_share: float
) -> list[Pack]:
    """All packs down to the floors, in the order in which they leave: in groups by `scores`, among them by `rivals`."""
    keyed: list[tuple[float, int, int, Pack]] = []
    for number, group in enumerate(groups):
        values = np.asarray(scores[group.name], dtype=np.float64)
        order = np.lexsort((np.arange(group.size), values))  # worst first; ties leave by channel id
        multiple, floor = multiple_for(group.size, multiple_of), floor_of(group, floor_share)
        width, worst = group.size, -np.inf
        while width > floor:
            target = max(floor, (width - 1) // multiple * multiple)
            channels = order[group.size - width : group.size - target]
            mean = float(rivals[group.name][channels].mean())
            worst = max(worst, mean)  # a group's packs leave in its own order, whatever rounding does to means
            keyed.append((worst, number, -width, Pack(group.name, tuple(int(i) for i in channels))))
            width = target
    return [pack for *_, pack in sorted(keyed, key=lambda row: row[:3])]


def _root_mean_square(values: NDArray[np.float64]) -> float:
    """Without squaring a large score to infinity or a small one to zero."""
    largest = float(np.abs(values).max())
    return largest * float(np.sqrt(np.mean((values / largest) ** 2))) if largest else 0.0


def _plan(space: Space, packs: Sequence[Pack]) -> Plan:
    dropped: dict[str, set[int]] = {}
    for pack in packs:
        dropped.setdefault(pack.group, set()).update(pack.channels)
    return Plan(
        {
            group.name: tuple(i for i in range(group.size) if i not in dropped.get(group.name, ()))
            for group in space.groups
        }
    )


def _refine(space: Space, packs: list[Pack], limits: Limits, cost: Callable[[Plan], Cost]) -> Plan:
    """Give channels of the last pack back while the budget allows it, in steps of 8 and then of 1."""
    *before, last = packs

    def giving_back(count: int) -> Plan:
        kept = Pack(last.group, last.channels[: len(last.channels) - count])
        return _plan(space, [*before, kept])

    for step in (len(last.channels), 8, 1):
        fitting = [n for n in range(0, len(last.channels), step) if limits.fits(cost(giving_back(n)))]
        plan = giving_back(max(fitting))
        if limits.usage(cost(plan)) >= TARGET_USE or step == 1:
            return plan
    raise AssertionError("unreachable")
