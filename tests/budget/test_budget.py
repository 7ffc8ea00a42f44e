"""Budgets: the grammar, what it refuses, and the limits it turns into."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gansdk.budget.budget import Budget, Ceiling, Share
from gansdk.budget.cost import Cost, Limits, short
from gansdk.budget.order import check_order, read_budgets
from gansdk.errors import BudgetSyntaxError, BudgetUnreachable, InvalidOption

FULL = Cost(macs=10_000_000_007, paper_macs=12_000_000_000, params=1_000_003, bytes=4_000_000)

counts = st.integers(1, 10**15)
metrics = st.sampled_from(["macs", "params", "size"])
decimals = st.decimals(min_value="0.001", max_value=100, places=3).map(str)
divisors = st.decimals(min_value=1, max_value=1000, places=3).map(str)
terms = st.one_of(
    st.builds("{}<={}".format, metrics, counts),
    st.builds("{}<={}%".format, metrics, decimals),
    st.builds("{}/{}".format, metrics, divisors),
    st.builds("{}x".format, divisors),
)
budgets = st.builds(
    lambda parts, counting: Budget.parse(",".join(parts), counting=counting),
    st.lists(terms, min_size=1, max_size=4).filter(lambda parts: sum(part.endswith("x") for part in parts) < 2),
    st.sampled_from(["true", "paper", "omgd"]),
)
costs = st.builds(Cost, macs=counts, paper_macs=counts, params=counts, bytes=counts)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("10x", Share("macs", Fraction(1, 10))),
        ("macs/10", Share("macs", Fraction(1, 10))),
        ("FLOPs / 2.5", Share("macs", Fraction(2, 5))),
        ("macs<=30%", Share("macs", Fraction(3, 10))),
        ("params <= 25 %", Share("params", Fraction(1, 4))),
        ("macs<=2.6G", Ceiling("macs", 2_600_000_000)),
        ("flops<=5G", Ceiling("macs", 2_500_000_000)),
        ("params<=1_500k", Ceiling("params", 1_500_000)),
        ("size<=5MB", Ceiling("size", 5_000_000)),
        ("size<=5MiB", Ceiling("size", 5 * 2**20)),
        ("macs<=2e9", Ceiling("macs", 2_000_000_000)),
    ],
)
def test_a_term_means_what_the_grammar_says(text: str, bound: Share | Ceiling) -> None:
    assert Budget.parse(text).bounds == (bound,)


def test_equal_meanings_are_equal_budgets() -> None:
    spellings = ["10x", "macs/10", "flops/10", "macs<=10%", {"macs": "10%"}, {"macs": "/10"}, "macs/10, 10x"]
    assert {Budget.parse(spelling) for spelling in spellings} == {Budget.parse("10x")}
    assert Budget.parse("size<=5MB, 4x") == Budget.parse({"macs": "/4", "size": 5_000_000})


def test_a_budget_is_parsed_to_itself() -> None:
    budget = Budget.parse("10x", counting="paper")
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        ("10x", "macs/10"),
        ("flops<=5G", "macs<=2.5G"),
        ("params<=30%", "params<=30%"),
        ("1.7x", "macs/1.7"),
        ("size<=5MiB,2x", "macs/2, size<=5.24288MB"),
        ("macs<=2600000001", "macs<=2.600000001G"),
    ],
)
def test_the_echo_is_canonical(text: str, echo: str) -> None:
    assert str(Budget.parse(text)) == echo


@pytest.mark.parametrize("text", ["0.1", "0.1x", "10%", "macs<=0.1", "macs/0.1", 0.1, {"macs": 0.1}])
def test_a_bare_ratio_is_refused_with_both_spellings(text: object) -> None:
    with pytest.raises(BudgetSyntaxError, match=r'"macs<=10%" to keep .* "macs<=90%" to remove'):
        Budget.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency<=30ms", "measured on a device.*not supported"),
        ("peak_memory<=1GB", "measured on a device"),
        ("parms<=25%", "did you mean 'params'"),
        ("weights/2", "is not a metric"),
        ("macs<=0G", "above zero"),
        ("macs<=-2G", "positive number"),
        ("macs<=nan", "positive number"),
        ("macs/nan", "above zero"),
        ("0x", "above zero"),
        ("macs/1e99", "at most 1e"),
        ("macs<=1e17G", "at least 1 and at most"),
        ("flops<=1", "at least 1"),
        ("params<=150%", "more than the teacher has"),
        ("size<=5G", "one of %, B, KB"),
        ("macs<=5MB", "one of %, K, M, G, T"),
        ("macs<2G", "cannot be read"),
        ("10", 'Perhaps "10x"'),
        (10, 'Perhaps "10x"'),
        ("", "cannot be read"),
        ("2x,", "comma with nothing"),
        ({}, "has no bound"),
        ({"macs": float("nan")}, "positive number"),
        ({"macs": True}, "positive number"),
        (None, "cannot be read"),
        ("macs<=1/10", "positive number"),
        ("1e9999999", "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_advice(text: object, message: str) -> None:
    with pytest.raises(BudgetSyntaxError, match=message):
        Budget.parse(text)  # type: ignore[arg-type]


def test_an_unknown_counting_is_refused() -> None:
    with pytest.raises(BudgetSyntaxError, match='choose "true"'):
        Budget.parse("10x", counting="papers")  # type: ignore[arg-type]


@given(budgets)
@example(Budget.parse("1.024x"))
@example(Budget.parse("macs/3"))
@settings(derandomize=True, deadline=None)
def test_the_echo_parses_back_to_an_equal_budget(budget: Budget) -> None:
    assert Budget.parse(str(budget), counting=budget.counting) == budget


@given(st.text(alphabet="macsprflize<=/0123456789.%xGMB, -+_", max_size=20))
@settings(derandomize=True, deadline=None)
def test_any_text_is_read_or_refused_as_a_budget(text: str) -> None:
    with suppress(BudgetSyntaxError):
        assert Budget.parse(text).bounds


def test_a_quarter_is_never_more_than_a_quarter() -> None:
    limits = Budget.parse("4x, params<=25%").resolve(FULL)
    assert (limits.macs, limits.params, limits.bytes) == (2_500_000_001, 250_000, None)
    assert 4 * (limits.macs or 0) <= FULL.macs


def test_paper_counting_is_a_share_of_the_paper_macs() -> None:
    limits = Budget.parse("10x", counting="paper").resolve(FULL)
    assert limits.macs == 1_200_000_000
    assert limits.usage(FULL) == pytest.approx(10)


def test_the_smallest_of_several_bounds_holds() -> None:
    assert Budget.parse("2x, macs<=1G, macs<=50%").resolve(FULL).macs == 1_000_000_000


def test_all_terms_must_hold_and_the_tightest_is_named() -> None:
    limits = Limits(macs=100, params=10)
    inside = Cost(macs=90, paper_macs=0, params=10, bytes=999)
    assert limits.fits(inside)
    assert limits.usage(inside) == 1.0
    assert limits.tightest(inside) == "params"
    assert not limits.fits(Cost(macs=101, paper_macs=0, params=1, bytes=0))


def test_no_limit_at_all_fits_everything() -> None:
    assert Limits().fits(FULL)
    assert Limits().usage(FULL) == 0.0
    assert Limits().tightest(FULL) == Limits().describe(FULL) == ""


def test_the_description_says_spent_limit_share_and_counting() -> None:
    limits = Limits(macs=2_600_000_000, bytes=5_000_000)
    cost = Cost(macs=2_590_123_456, paper_macs=0, params=0, bytes=1_250_000)
    assert limits.describe(cost) == "macs 2.59G of 2.6G (99.6 %, true counting), size 1.25MB of 5MB (25.0 %)"


@given(budgets, costs)
@settings(derandomize=True, deadline=None)
def test_usage_tightest_and_fits_agree(budget: Budget, cost: Cost) -> None:
    limits = budget.resolve(FULL)
    if limits.fits(cost):
        assert limits.usage(cost) <= 1
    if limits.usage(cost) < 1:
        assert limits.fits(cost)
    assert limits.tightest(cost) in ("macs", "params", "size")


@given(budgets, costs, costs)
@settings(derandomize=True, deadline=None)
def test_a_larger_budget_fits_whatever_a_smaller_fits(budget: Budget, full: Cost, cost: Cost) -> None:
    looser = Budget(
        tuple(
            Share(bound.metric, min(Fraction(1), 2 * bound.kept))
            if isinstance(bound, Share)
            else Ceiling(bound.metric, 2 * bound.amount)
            for bound in budget.bounds
        ),
        budget.counting,
    )
    assert not budget.resolve(full).fits(cost) or looser.resolve(full).fits(cost)


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0"), (999, "999"), (1000, "1 K"), (999_600, "1 M"), (2_604_412_345, "2.6 G")]
)
def test_amounts_are_shown_in_the_unit_that_fits(amount: int, text: str) -> None:
    assert short(amount) == text


def test_a_reachable_floor_raises_nothing() -> None:
    Limits(macs=100).check_floor(Cost(macs=100, paper_macs=500, params=1, bytes=4), "net")


def test_an_unreachable_budget_names_the_floor_and_a_reachable_budget() -> None:
    floor = Cost(macs=541_234_567, paper_macs=600_000_000, params=70, bytes=280)
    with pytest.raises(BudgetUnreachable) as caught:
        Limits(macs=400_000_000, params=100).check_floor(floor, "resnet_9", ["up.6 (feeds the RGB output)"])
    message = str(caught.value)
    assert "macs<=400M" in message
    assert "541.234567M, true counting" in message
    assert "up.6 (feeds the RGB output)" in message
    assert "'resnet_9'" in message
    assert "params" not in message
    assert caught.value.floor == {"macs": 541_234_567, "params": 70, "size": 280}


@given(costs)
@settings(derandomize=True, deadline=None)
def test_the_budget_an_error_asks_for_can_be_reached(floor: Cost) -> None:
    limits = Limits(macs=floor.macs - 1, params=floor.params - 1, bytes=floor.bytes - 1)
    with pytest.raises(BudgetUnreachable) as caught:
        limits.check_floor(floor, "net")
    advice = str(caught.value).split('Ask for "')[1].split('"')[0]
    Budget.parse(advice).resolve(floor).check_floor(floor, "net")


# Several budgets.


@pytest.mark.parametrize("given", ["2x,,4x", "2x,4x,", ",2x", "macs<=1G,,params<=2K", " , "])
def test_a_comma_with_nothing_beside_it_is_refused_as_such(given: str) -> None:
    for read in (read_budgets, Budget.parse):
        with pytest.raises(BudgetSyntaxError, match="comma with nothing before or after it"):
            read(given)


@pytest.mark.parametrize("given", [["2x", "4x"], ["2x"], ("2x", Budget.parse("4x")), []], ids=str)
def test_a_list_is_no_budget_for_one_student(given: Sequence[object]) -> None:
    with pytest.raises(BudgetSyntaxError, match=r"is a list .*gansdk\.ladder"):
        Budget.parse(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2x,4x, 8x", ["macs/2", "macs/4", "macs/8"]),
        (["2x,4x", "8x"], ["macs/2", "macs/4", "macs/8"]),
        ("4x", ["macs/4"]),
        ("4x,params<=25%", ["macs/4, params/4"]),
        ("macs/2,macs/4", ["macs/2, macs/4"]),
        (["2x", "macs<=1G, size<=5MB", {"macs": "10%"}], ["macs/2", "macs<=1G, size<=5MB", "macs/10"]),
        (Budget.parse("2x"), ["macs/2"]),
    ],
    ids=str,
)
def test_only_a_text_of_nothing_but_ratios_is_a_list(given: object, read: list[str]) -> None:
    assert [str(budget) for budget in read_budgets(given)] == read


@given(budgets=st.lists(budgets, min_size=2, max_size=6))
def test_different_budgets_have_different_names_fit_for_files(budgets: list[Budget]) -> None:
    names = {budget.label: budget.bounds for budget in budgets}
    assert len(names) == len({budget.bounds for budget in budgets})
    assert not set('/\\<>:"|?* ') & set("".join(names))


@given(one=budgets, other=budgets, cost=costs)
def test_what_fits_the_tighter_limits_fits_the_looser_ones(one: Budget, other: Budget, cost: Cost) -> None:
    limits = one.resolve(FULL), other.resolve(FULL)
    if limits[1].tightens(limits[0]):
        check_order([one, other], limits)
        assert limits[0].fits(cost) or not limits[1].fits(cost)
        assert not limits[0].tightens(limits[1])
    else:
        said = "from the largest to the smallest" if one.counting == other.counting else "in the same way"
        with pytest.raises(InvalidOption, match=said):
            check_order([one, other], limits)
