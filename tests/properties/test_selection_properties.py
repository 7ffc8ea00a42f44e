"""Selection keeps its promises for every budget and all kinds of scores, ties and zeros among them."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Limits
from gansdk.channels.carve import carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import ChannelGroup, Plan, Space
from gansdk.channels.select import Compare, savings, select
from gansdk.channels.tracing.trace import trace
from gansdk.errors import BudgetUnreachable
from gansdk.testing import networks as zoo
from gansdk.testing.strategies import DETERMINISTIC, budgets, scores

Scores = Mapping[str, NDArray[np.float64]]

MAKERS = {
    "resnet": partial(zoo.ResNet, 12),
    "inception": partial(zoo.ResNet, 6, block=partial(zoo.InceptionBlock, middle=10)),
    "unet": partial(zoo.UNet, 10),
    "spade": partial(zoo.Spade, 24),
    "srresnet": partial(zoo.SRResNet, 20, slopes="each"),
    "dense": lambda: zoo.Trunk(zoo.DenseBlock(17, growth=9), zoo.SelfAttention(17), width=17),
}

architectures = st.sampled_from(sorted(MAKERS))
multiples = st.sampled_from((1, 4, 8, 16))
compares = st.sampled_from(get_args(Compare))


@cache
def space_of(name: str) -> Space:
    with torch.random.fork_rng(devices=()), torch.device("meta"):
        module: nn.Module = MAKERS[name]()
    return trace(module, torch.zeros(1, 5 if name == "spade" else 3, 16, 16))


@cache
def model_of(name: str) -> CostModel:
    return CostModel(space_of(name))


def chosen(name: str, values: Scores, budget: Budget | Limits, multiple_of: int = 1, **options: Any) -> Plan:
    """The selection, or a skipped example if no plan fits."""
    model = model_of(name)
    full = model.cost(Plan())
    limits = budget.resolve(full) if isinstance(budget, Budget) else budget
    options = {"compare": "unequal", **options}
    try:
        return select(model.space, values, limits, cost=model.cost, multiple_of=multiple_of, **options)
    except BudgetUnreachable:
        assume(False)
        raise


@DETERMINISTIC
@given(architectures, st.data(), budgets(), multiples, compares)
def test_a_selection_fits_its_budget_or_the_smallest_plan_does_not(name, data, budget, multiple_of, compare):
    model, values = model_of(name), data.draw(scores(space_of(name)))
    limits = budget.resolve(model.cost(Plan()))
    smallest = model.cost({group.name: _least(group) for group in model.space.prunable})
    run = partial(select, model.space, values, limits, cost=model.cost, multiple_of=multiple_of, compare=compare)
    if limits.fits(smallest):
        assert limits.fits(model.cost(run()))
    else:
        with pytest.raises(BudgetUnreachable) as caught:
            run()
        assert caught.value.floor["params"] == smallest.params


@DETERMINISTIC
@given(architectures, st.data(), budgets(), multiples)
def test_a_selection_respects_floors_and_frozen_groups_and_names_known_channels(name, data, budget, multiple_of):
    space = space_of(name)
    plan = chosen(name, data.draw(scores(space)), budget, multiple_of)
    assert set(plan) <= set(space.by_name)
    for group in space.groups:
        kept = plan.get(group.name, tuple(range(group.size)))
        assert list(kept) == sorted(set(kept))
        assert set(kept) <= set(range(group.size))
        assert len(kept) == group.size if group.frozen else len(kept) >= _least(group)


@DETERMINISTIC
@given(architectures, st.data(), budgets(), multiples, compares)
def test_the_best_channels_of_a_group_are_the_ones_that_stay(name, data, budget, multiple_of, compare):
    space, values = space_of(name), data.draw(scores(space_of(name)))
    plan = chosen(name, values, budget, multiple_of, compare=compare)
    for group in space.prunable:
        kept = list(plan[group.name])
        dropped = sorted(set(range(group.size)) - set(kept))
        if dropped:
            assert values[group.name][kept].min() >= values[group.name][dropped].max()


@DETERMINISTIC
@given(architectures, st.data(), budgets())
def test_a_selection_without_multiples_is_the_shortest_drop_that_fits_in_total_order(name, data, budget):
    """Tight, and right on ties: the oracle drops one channel after the other in order of (score, group, id)."""
    model, values = model_of(name), data.draw(scores(space_of(name)))
    plan = chosen(name, values, budget)
    limits = budget.resolve(model.cost(Plan()))
    assert plan.widths(model.space) == _one_by_one(model, values, limits)


@DETERMINISTIC
@given(architectures, st.data(), st.lists(st.integers(1, 100), min_size=2, max_size=2), multiples, compares)
def test_a_larger_budget_keeps_everything_that_a_smaller_one_keeps(name, data, percents, multiple_of, compare):
    values = data.draw(scores(space_of(name)))
    small, large = (
        chosen(name, values, Budget.parse(f"macs<={percent}%"), multiple_of, compare=compare)
        for percent in sorted(percents)
    )
    assert all(set(small[group]) <= set(large[group]) for group in small)


@DETERMINISTIC
@given(architectures, st.data(), multiples, st.sampled_from(("macs", "params", "size")))
def test_a_full_budget_keeps_everything_whatever_the_multiple(name, data, multiple_of, metric):
    plan = chosen(name, data.draw(scores(space_of(name))), Budget.parse(f"{metric}<=100%"), multiple_of)
    assert plan == space_of(name).full_plan()


@DETERMINISTIC
@given(architectures, st.data(), budgets(), st.sampled_from((4, 8, 16)))
def test_all_touched_widths_but_one_are_multiples_or_floors(name, data, budget, multiple_of):
    space = space_of(name)
    plan = chosen(name, data.draw(scores(space)), budget, multiple_of)
    odd = [
        group.name
        for group in space.prunable
        if (width := plan.width(group)) not in (group.size, _least(group)) and width % _multiple(group, multiple_of)
    ]
    assert len(odd) <= 1


@DETERMINISTIC
@given(architectures, st.data(), budgets(("macs",)), multiples)
def test_a_budget_is_used_to_95_percent_unless_the_next_channel_is_too_dear(name, data, budget, multiple_of):
    model = model_of(name)
    plan = chosen(name, data.draw(scores(model.space)), budget, multiple_of)
    limits = budget.resolve(model.cost(Plan()))
    if limits.usage(model.cost(plan)) < 0.95:
        widths = plan.widths(model.space)
        larger = [{**widths, g.name: widths[g.name] + 1} for g in model.space.prunable if plan.width(g) < g.size]
        assert not all(limits.fits(model.cost(more)) for more in larger)


@DETERMINISTIC
@given(architectures, st.data(), st.lists(st.integers(1, 100), min_size=2, max_size=2))
def test_selecting_twice_with_inherited_scores_equals_selecting_once(name, data, percents):
    """Without normalisation: a group's own scale changes once its worst channels are gone, and so do its floors."""
    model, values = model_of(name), data.draw(scores(space_of(name)))
    full = model.cost(Plan())
    small, large = (Budget.parse(f"macs<={percent}%").resolve(full) for percent in sorted(percents))
    options = {"compare": "scores", "floor_share": 0.0}
    once, first = (chosen(name, values, limits, **options) for limits in (small, large))
    carved = carve_space(model.space, first)
    inherited = {group: values[group][list(first[group])] for group in values}
    second = select(carved, inherited, small, cost=CostModel(carved).cost, multiple_of=1, **options)
    assert first.then(second) == once


@DETERMINISTIC
@given(architectures, st.data(), budgets(), multiples)
def test_the_same_scores_give_the_same_plan(name, data, budget, multiple_of):
    values = data.draw(scores(space_of(name)))
    state = np.random.get_state()[1].copy()
    plans = [chosen(name, {k: v.copy() for k, v in values.items()}, budget, multiple_of) for _ in range(2)]
    assert plans[0] == plans[1]
    assert (np.random.get_state()[1] == state).all()


@DETERMINISTIC
@given(architectures, st.data(), budgets(), st.sampled_from((lambda s: 8 * s, lambda s: s + 1, np.sqrt, np.log1p)))
def test_increasing_maps_of_all_scores_do_not_change_the_selection(name, data, budget, increase):
    """Of ranks, so that no two scores become equal in floating point."""
    values = _ranks(data.draw(scores(space_of(name))))
    mapped = {group: increase(row) for group, row in values.items()}
    assert chosen(name, values, budget, compare="scores") == chosen(name, mapped, budget, compare="scores")


@DETERMINISTIC
@given(architectures, st.data(), budgets())
def test_negative_scores_rank_like_any_others(name, data, budget):
    values = _ranks(data.draw(scores(space_of(name))))
    lowered = {group: row - 100 for group, row in values.items()}
    assert chosen(name, values, budget, compare="scores") == chosen(name, lowered, budget, compare="scores")


@DETERMINISTIC
@given(architectures, st.data(), budgets(("macs",)))
def test_by_cost_channels_leave_in_the_order_of_their_squared_score_over_the_macs_they_save(name, data, budget):
    model, values = model_of(name), _ranks(data.draw(scores(space_of(name))))
    full, saved = model.cost(Plan()), {}
    for group in model.space.prunable:
        eighth = max(1, group.size // 8)
        left = model.cost({group.name: group.size - eighth})
        saved[group.name] = (full.of("macs", budget.counting) - left.of("macs", budget.counting)) / eighth
    assume(min(saved.values()) > 0)
    squares = {group: values[group] ** 2 / saved[group] for group in saved}
    order = _ranks(squares)  # no two alike, so that no rounding decides
    assume(len(np.unique(np.concatenate(list(squares.values())))) == sum(map(len, squares.values())))
    plan = chosen(name, values, budget, compare="cost")
    assert plan == chosen(name, order, budget, compare="scores")


def test_what_a_channel_saves_is_counted_in_what_is_limited():
    model = model_of("srresnet")
    full = model.cost(Plan())
    by = {
        metric: savings(model.space, Budget.parse(f"{metric}<=50%").resolve(full), model.cost)
        for metric in ("macs", "params")
    }
    assert any(by["macs"][name] > 1.2 * by["params"][name] for name in by["macs"])  # those behind the shuffle
    both = savings(model.space, Budget.parse("macs<=50%, params<=50%").resolve(full), model.cost)
    assert both == pytest.approx({name: by["macs"][name] + by["params"][name] for name in both})


@pytest.mark.parametrize("compare", get_args(Compare))
def test_very_large_scores_are_normalised_without_overflow(compare):
    model = model_of("srresnet")
    values = _random_scores(model.space, 0)
    huge = {group: row * 2.0**1000 for group, row in values.items()}
    budget = Budget.parse("macs<=50%")
    assert chosen("srresnet", huge, budget, compare=compare) == chosen("srresnet", values, budget, compare=compare)


@DETERMINISTIC
@given(architectures, st.data(), budgets(), st.integers(-8, 8))
def test_the_scale_of_one_groups_scores_does_not_matter_when_normalised(name, data, budget, power):
    space, values = space_of(name), data.draw(scores(space_of(name)))
    group = data.draw(st.sampled_from([group.name for group in space.prunable]))
    scaled = {**values, group: values[group] * 2.0**power}
    assert chosen(name, values, budget) == chosen(name, scaled, budget)


@DETERMINISTIC
@given(architectures, st.data(), budgets())
def test_scores_of_other_groups_and_of_frozen_ones_are_ignored(name, data, budget):
    space, values = space_of(name), data.draw(scores(space_of(name)))
    extra = {group.name: np.ones(group.size) for group in space.groups if group.frozen} | {"unknown": np.ones(3)}
    assert chosen(name, {**values, **extra}, budget) == chosen(name, values, budget)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("percent", [80, 50, 20])
def test_constant_scores_do_not_break_a_budget_as_a_threshold_would(value: float, percent: int):
    model = model_of("resnet")
    values = {group.name: np.full(group.size, value) for group in model.space.prunable}
    full = model.cost(Plan())
    plan = chosen("resnet", values, Budget.parse(f"macs<={percent}%"))
    assert 0.9 * percent / 100 * full.macs <= model.cost(plan).macs <= percent / 100 * full.macs


def test_recomputed_scores_may_keep_what_a_larger_budget_dropped():
    """Why a plan for a smaller budget must come from the same scores: the exception to nesting."""
    model = model_of("resnet")
    plans = [
        chosen("resnet", _random_scores(model.space, seed), Budget.parse(f"macs<={percent}%"))
        for seed, percent in ((0, 30), (1, 60))
    ]
    assert not all(set(plans[0][group]) <= set(plans[1][group]) for group in plans[0])


def _random_scores(space: Space, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(group.size) for group in space.prunable}


def _ranks(values: Scores) -> Scores:
    distinct = np.unique(np.concatenate(list(values.values())))
    return {group: np.searchsorted(distinct, row).astype(np.float64) for group, row in values.items()}


def _least(group: ChannelGroup) -> int:
    """A tenth of the group, but no less than its floor."""
    return min(group.size, max(group.floor, -(-group.size // 10)))


def _multiple(group: ChannelGroup, multiple_of: int) -> int:
    return max(power for power in (1, 2, 4, 8, 16) if power == 1 or (power <= multiple_of and 4 * power <= group.size))


def _one_by_one(model: CostModel, values: Scores, limits: Limits) -> dict[str, int]:
    """Widths after dropping channels, one at a time, worst first, until the budget fits."""
    order = []
    for number, group in enumerate(model.space.prunable):
        row = np.asarray(values[group.name])
        scale = float(np.sqrt(np.mean(row**2))) or 1.0
        worst = sorted(range(group.size), key=lambda i, row=row: (row[i], i))[: group.size - _least(group)]
        order += [(float(row[i]) / scale, number, place, group.name) for place, i in enumerate(worst)]
    widths = {group.name: group.size for group in model.space.groups}
    for *_, name in sorted(order):
        if limits.fits(model.cost(widths)):
            break
        widths[name] -= 1
    assert limits.fits(model.cost(widths))
    return widths
