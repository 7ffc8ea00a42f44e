"""What a network costs, and the limits that it is held against. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import ceil, inf, isqrt
from typing import Literal, get_args

from gansdk.errors import BudgetUnreachable

Counting = Literal["true", "paper", "omgd"]
"""How MACs are counted: as a device executes them, or as papers print them: GAN Compression and CAT, or OMGD."""
CostMetric = Literal["macs", "params", "size"]
_METRICS: tuple[CostMetric, ...] = get_args(CostMetric)
_LARGEST = 10**18
_DECIMALS = 12
ADVICE = "allow smaller widths (lower floors and multiples)"
_NAMED = 5  # reasons that an error quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one image at the contract's size costs, and what the weights take."""

    macs: int
    """Multiply-accumulates as a device executes them (transposed convolutions on their input grid)."""
    paper_macs: int
    """As torchprofile prints: transposed convolutions on the output grid, one per InstanceNorm element."""
    params: int
    bytes: int
    """Of the state dict, parameters and buffers."""
    norm_macs: int = 0
    """Those of `paper_macs` that are of InstanceNorm elements; OMGD prints the rest."""

    def __add__(self, other: Cost) -> Cost:
        """What both cost together."""
        return Cost(
            macs=self.macs + other.macs,
            paper_macs=self.paper_macs + other.paper_macs,
            params=self.params + other.params,
            bytes=self.bytes + other.bytes,
            norm_macs=self.norm_macs + other.norm_macs,
        )

    def facts(self) -> dict[str, int]:
        """What reports show: "macs", "paper_macs", "params" and "bytes"."""
        return {"macs": self.macs, "paper_macs": self.paper_macs, "params": self.params, "bytes": self.bytes}

    def of(self, metric: CostMetric, counting: Counting) -> int:
        """The number that a bound on `metric` is compared with."""
        if metric == "params":
            return self.params
        if metric == "size":
            return self.bytes
        counts = {"true": self.macs, "paper": self.paper_macs, "omgd": self.paper_macs - self.norm_macs}
        return counts[counting]


def sum_of(costs: Iterable[Cost]) -> Cost:
    """What all cost together; at least one."""
    return reduce(Cost.__add__, costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A budget in numbers: a plan fits if its cost is at most every limit that is not None."""

    macs: int | None = None
    params: int | None = None
    bytes: int | None = None
    counting: Counting = "true"

    def _terms(self, cost: Cost) -> Iterator[tuple[CostMetric, int, int]]:
        """(metric, spent, limit) of every limit that is set."""
        limits: tuple[tuple[CostMetric, int | None], ...] = (
            ("macs", self.macs),
            ("params", self.params),
            ("size", self.bytes),
        )
        for metric, limit in limits:
            if limit is not None:
                yield metric, cost.of(metric, self.counting), limit

    def tightens(self, other: Limits) -> bool:
        """Whether whatever fits these limits fits the other's too, and they are not the same."""
        pairs = ((self.macs, other.macs), (self.params, other.params), (self.bytes, other.bytes))
        within = all(theirs is None or (own is not None and own <= theirs) for own, theirs in pairs)
        return within and self.counting == other.counting and self != other

    def fits(self, cost: Cost) -> bool:
        """Whether every limit holds."""
        return all(spent <= limit for _, spent, limit in self._terms(cost))

    def usage(self, cost: Cost) -> float:
        """Largest spent / limit over all terms: at most 1 if the cost fits."""
        return max((_ratio(spent, limit) for _, spent, limit in self._terms(cost)), default=0.0)

    def shares(self, cost: Cost, full: Cost) -> list[float]:
        """What `cost` is of `full`, for every limit that is set."""
        wholes = (whole for _, whole, _ in self._terms(full))
        return [_ratio(spent, whole) for (_, spent, _), whole in zip(self._terms(cost), wholes, strict=True)]

    def halfway(self, full: Cost) -> Limits:
        """The limits in the middle between `full` and these, by their ratios: of 4x, 2x."""
        middle = {metric: isqrt(whole * min(limit, whole)) for metric, whole, limit in self._terms(full)}
        return Limits(
            macs=middle.get("macs"), params=middle.get("params"), bytes=middle.get("size"), counting=self.counting
        )

    def tightest(self, cost: Cost) -> str:
        """The metric whose share of its limit is the largest; empty if nothing is limited."""
        rows = [(_ratio(spent, limit), metric) for metric, spent, limit in self._terms(cost)]
        return max(rows, key=lambda row: row[0])[1] if rows else ""

    def describe(self, cost: Cost) -> str:
        """One line: `macs 2.59G of 2.6G (99.6 %, true counting), params 1.1M of 1.5M (73.3 %)`."""
        return ", ".join(
            f"{metric} {_rounded(spent, metric)} of {_rounded(limit, metric)} "
            f"({100 * _ratio(spent, limit):.1f} %{self._convention(metric)})"
            for metric, spent, limit in self._terms(cost)
        )

    def check_floor(self, floor: Cost, name: str, frozen: Sequence[str] = (), advice: str = ADVICE) -> None:
        """Say before any work if not even the smallest plan of `name` fits.

        `floor` is that plan's cost; `frozen` are the reasons why there is nothing smaller, in words; `advice` is what
        to do beside asking for more, by the names of the pruner's own options.

        Raises:
            BudgetUnreachable: with the floor, and the spelling of a budget that can be reached.
        """
        if self.fits(floor):
            return
        broken = [row for row in self._terms(floor) if row[1] > row[2]]
        limits = ", ".join(f"{metric}<={_exact(limit, metric)}" for metric, _, limit in broken)
        costs = ", ".join(f"{metric} {_exact(spent, metric)}{self._convention(metric)}" for metric, spent, _ in broken)
        enough = ", ".join(f"{metric}<={_exact(_round_up(spent), metric)}" for metric, spent, _ in broken)
        more = f" and {len(frozen) - _NAMED} more" if len(frozen) > _NAMED else ""
        reasons = f" Frozen: {'; '.join(frozen[:_NAMED])}{more}." if frozen else ""
        raise BudgetUnreachable(
            f"The budget allows {limits}, but the smallest plan of {name!r} costs {costs}.{reasons} "
            f'Ask for "{enough}" or more, or {advice}.',
            floor={metric: floor.of(metric, self.counting) for metric in _METRICS},
        )

    def _convention(self, metric: CostMetric) -> str:
        return f", {self.counting} counting" if metric == "macs" else ""


def _ratio(spent: int, limit: int) -> float:
    return spent / limit if limit else (inf if spent else 0.0)


def _decimal(value: Fraction) -> str | None:
    """The value as a decimal that loses nothing; None if it has more decimals than a budget may have."""
    scaled = value * 10**_DECIMALS
    return _point(int(scaled), _DECIMALS) if scaled.denominator == 1 else None


def _point(number: int, decimals: int) -> str:
    """`number` / 10**decimals without trailing zeros: (2600, 3) -> "2.6"."""
    whole, part = divmod(number, 10**decimals)
    return f"{whole}.{part:0{decimals}d}".rstrip("0").rstrip(".") if decimals else str(whole)


def _exact(amount: int, metric: CostMetric) -> str:
    """All digits, with the largest decimal unit that fits: 2600000001 -> "2.600000001G"."""
    letters, suffix = ("_KMG", "B") if metric == "size" else ("_KMGT", "")
    power = min((len(str(amount)) - 1) // 3, len(letters) - 1)
    return _point(amount, 3 * power) + letters[power].strip("_") + suffix


def _rounded(amount: int, metric: CostMetric) -> str:
    """Three significant digits: 2604412345 -> "2.6G"."""
    step = _step(amount)
    return _exact(step * ((amount + step // 2) // step), metric)


def _round_up(amount: int) -> int:
    """To three significant digits, never below the amount."""
    step = _step(amount)
    return step * ceil(Fraction(amount, step))


def _step(amount: int) -> int:
    return int(10 ** max(len(str(amount)) - 3, 0))


def short(amount: int) -> str:
    """2604412345 -> "2.6 G"; three digits, and the unit that leaves one to three of them before the point."""
    value, units = float(amount), iter(("", " K", " M", " G", " T"))
    unit = next(units)
    while value >= 999.5 and unit != " T":
        value, unit = value / 1000, next(units)
    return f"{value:.3g}{unit}" if unit else str(amount)
