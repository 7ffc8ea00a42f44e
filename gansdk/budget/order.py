"""Several budgets, for several students of one generator: how they are written, and in which order. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gansdk.budget.budget import Budget, is_ratio
from gansdk.budget.cost import Limits
from gansdk.errors import BudgetSyntaxError, InvalidOption


def read_budgets(given: Any) -> tuple[Budget, ...]:
    """The budgets of several students: a list of what `Budget.parse` reads, or "2x,4x,8x".

    A text of nothing but several ratios is a list of budgets, within a list too; any other one is one budget.

    Raises:
        BudgetSyntaxError: one of them cannot be read, or there is none.
    """
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    budgets = tuple(Budget.parse(one) for item in listed for one in _split(item))
    if not budgets:
        raise BudgetSyntaxError('The list of budgets is empty; write one or several, such as ["2x", "4x"].')
    return budgets


def check_order(budgets: Sequence[Budget], limits: Sequence[Limits]) -> None:
    """See that every budget is tighter than the one before it; `limits` are what they come to, in the same order.

    Raises:
        InvalidOption: one is not, or they count MACs in different ways.
    """
    if len({budget.counting for budget in budgets}) > 1:
        countings = ", ".join(f"'{budget}' by {budget.counting!r}" for budget in budgets)
        raise InvalidOption(
            f"The budgets of a ladder must count MACs in the same way, but these use: {countings}. Use the same "
            "counting for all of them."
        )
    for (looser, above), (tighter, below) in pairwise(zip(budgets, limits, strict=True)):
        if below.tightens(above):
            continue
        fault = (
            f"'{tighter}' is not smaller than the preceding '{looser}'"
            if below == above or above.tightens(below)
            else f"neither of '{looser}' and '{tighter}' is within the other"
        )
        raise InvalidOption(
            f"The budgets of a ladder must go from the largest to the smallest, but {fault}. Sort them and remove "
            'duplicates, as in "2x", "4x", "8x".'
        )


def _split(budgets: Any) -> list[Any]:
    """["2x", "4x"] of "2x,4x"; anything else alone."""
    terms = [term.strip() for term in budgets.split(",")] if isinstance(budgets, str) and len(budgets) < 1000 else []
    return terms if len(terms) > 1 and all(map(is_ratio, terms)) else [budgets]
