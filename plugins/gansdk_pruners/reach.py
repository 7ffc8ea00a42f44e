"""Which widths a once-for-all search chooses from, so that its smallest subnet is within the budget."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

from gansdk.budget.cost import Limits
from gansdk.channels.configs import spelled
from gansdk.channels.knobs import SHARES
from gansdk.channels.select import check_floor
from gansdk.errors import GansdkWarning, InvalidOption
from gansdk.interfaces import Student
from gansdk_pruners.subnets import MULTIPLE_OF, Positions, Subnets, positions_of

MOST_LISTED, MOST_SCORED = 1_000_000, 20_000
"""Subnets whose costs an exhaustive search goes through (minutes), and those within the budget that it may score: more
than any space has that GAN Compression searched so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The options of once-for-all that say which widths there are; as for `positions_of`."""

    space: Positions
    shares: Sequence[float] | None
    multiple_of: int | None

    def subnets(self, student: Student, *, narrower: bool = False) -> Subnets:
        """All subnets with these widths, not ranked yet."""
        return Subnets(
            student.space,
            positions_of(
                student.space, self.space, shares=self.shares, multiple_of=self.multiple_of, narrower=narrower
            ),
        )

    def reaching(self, student: Student, limits: Sequence[Limits]) -> Subnets:
        """The subnets to search, of which the smallest is within all limits, the last of which is the tightest.

        With space="auto", knobs get narrower widths than the adapter's where these are too wide, with a warning.

        Raises:
            BudgetUnreachable: there are none.
        """
        subnets, tightest = self.subnets(student), limits[-1]
        if self.space == "auto" and not tightest.fits(student.cost(subnets.plan(subnets.smallest))):
            wider, subnets = subnets, self.subnets(student, narrower=True)
            if subnets.choices != wider.choices and tightest.fits(student.cost(subnets.plan(subnets.smallest))):
                warnings.warn(
                    f"The adapter's widths of {student.space.name!r} cannot meet the budget, so narrower ones are "
                    f"searched too: the smallest is {spelled(subnets.named(subnets.smallest))} instead of "
                    f"{spelled(wider.named(wider.smallest))}. Pass space='knobs' to prevent this.",
                    GansdkWarning,
                    stacklevel=2,
                )
        for one in limits:
            check_floor(student.space, one, student.cost(subnets.plan(subnets.smallest)), self._advice())
        return subnets

    def _advice(self) -> str:
        """What allows narrower subnets, by the names of the options."""
        if self.space == "knobs" and self.shares is None and self.multiple_of is None:
            return "allow narrower widths than the adapter's by the pruner's options space='auto' or shares=[...]"
        least = min(SHARES if self.shares is None else self.shares)
        multiple_of = MULTIPLE_OF if self.multiple_of is None else self.multiple_of
        options = [f"shares below {least:g}"] if least else []
        options += [f"multiple_of below {multiple_of}"] if multiple_of > 1 else []
        return f"give the pruner {' or '.join(options)}" if options else "use another pruner"


def check_listed(subnets: Subnets, student: Student, limits: Limits) -> None:
    """Refuse an exhaustive search that would not end.

    Raises:
        InvalidOption: it would go through, or score, too many subnets.
    """
    change = "Pass fewer shares or a larger multiple_of, or use search='evolution'."
    if subnets.count > MOST_LISTED:
        raise InvalidOption(
            f"search='exhaustive' would enumerate {subnets.count:,} subnets, but at most {MOST_LISTED:,} are allowed. "
            f"{change}"
        )
    fitting = (config for config in product(*subnets.choices) if limits.fits(student.cost(subnets.plan(config))))
    if sum(1 for _ in islice(fitting, MOST_SCORED + 1)) > MOST_SCORED:
        raise InvalidOption(
            f"search='exhaustive' would score more than {MOST_SCORED:,} subnets within the budget, which is the limit. "
            f"{change}"
        )
