"""Budgets: what the student may cost. Torch-free."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import NoReturn, get_args

from gansdk.budget.cost import _DECIMALS, _LARGEST, _METRICS, Cost, CostMetric, Counting, Limits, _decimal, _exact
from gansdk.errors import BudgetSyntaxError
from gansdk.text import quoted
from gansdk.validation.signatures import plain_number

SPELLINGS = '"10x", "macs/10", "macs<=2.6G", "flops<=5.2G", "params<=25%", "size<=5MB", comma-separated'

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS = {"macs": _COUNTS, "flops": _COUNTS, "params": _COUNTS, "size": {"": 1, **_BYTES}}
_COMPARED: dict[str, CostMetric] = {"macs": "macs", "flops": "macs", "params": "params", "size": "size"}
_MEASURED = ("latency", "peak_memory")
_LONGEST = 300  # characters
_SEVERAL = "For several students pass a list to gansdk.ladder, or --budget several times to `gansdk compress`"

_NUMBER = r"[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?"
_TIMES = re.compile(rf"({_NUMBER})\s*[xX]")
_TERM = re.compile(r"([A-Za-z_]+)\s*(/|<=)\s*(.*)")
_AMOUNT = re.compile(rf"({_NUMBER})\s*(%|[A-Za-z]*)")
_BARE = re.compile(r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]{1,2})?)\s*(%?)\s*[xX]?")


@dataclass(frozen=True, slots=True)
class Share:
    """At most `kept` of what the teacher has; 0 < kept <= 1."""

    metric: CostMetric
    kept: Fraction

    def resolve(self, full: int) -> int:
        """Rounded down, so that a quarter is never more than a quarter."""
        return floor(self.kept * full)

    @property
    def label(self) -> str:
        """As in `Budget.label`."""
        times = _decimal(1 / self.kept)
        return f"{times}x" if self.metric == "macs" and times is not None else _spelled_out(self)

    def __str__(self) -> str:
        percent = _decimal(100 * self.kept)
        if self.kept.numerator == 1 or percent is None:
            return f"{self.metric}/{_decimal(1 / self.kept)}"
        return f"{self.metric}<={percent}%"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """At most `amount` MACs, parameters or bytes, whatever the teacher has."""

    metric: CostMetric
    amount: int

    def resolve(self, full: int) -> int:
        """The amount itself."""
        return self.amount

    @property
    def label(self) -> str:
        """As in `Budget.label`."""
        return _spelled_out(self)

    def __str__(self) -> str:
        return f"{self.metric}<={_exact(self.amount, self.metric)}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What the student may cost; all bounds hold together. Made by `Budget.parse`.

    Equal meanings are equal budgets: "10x", "macs/10", "flops<=10%" and {"macs": "10%"}.
    """

    bounds: tuple[Share | Ceiling, ...]
    counting: Counting = "true"

    def __post_init__(self) -> None:
        if not self.bounds:
            raise BudgetSyntaxError(f"The budget has no bound; write one of {SPELLINGS}.")
        if not isinstance(self.counting, str) or self.counting not in get_args(Counting):
            raise BudgetSyntaxError(
                f'counting={quoted(self.counting)} is unknown; choose "true" (what a device executes), "paper" (what '
                f'GAN Compression and CAT print) or "omgd" (what OMGD prints, without norms).'
            )

    @classmethod
    def parse(cls, given: str | Mapping[str, str | int | float] | Budget, *, counting: Counting = "true") -> Budget:
        """Read `"10x"`, `"macs/10"`, `"macs<=2.6G, params<=25%"`, `"size<=5MB"` or `{"macs": "10%"}`.

        `10x` and `/10` allow at most a tenth of the teacher; `flops` are 2 x `macs`. Units are K, M, G, T
        (thousands) for counts and B, KB, MB, GB, KiB, MiB, GiB for sizes. A `Budget` is returned as it is.

        Raises:
            BudgetSyntaxError: the text cannot be read, or could be read in two ways ("0.1", "2x,4x").
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, str):
            _check_length(given)
            terms = [term.strip() for term in given.split(",")]
            if not all(terms) and len(terms) > 1:
                raise BudgetSyntaxError(f"The budget {given!r} has a comma with nothing before or after it. Remove it.")
            _refuse_several([term for term in terms if is_ratio(term)], given)
            bounds = [_read_term(term) for term in terms]
        elif isinstance(given, Mapping):
            bounds = [_read_item(metric, limit) for metric, limit in given.items()]
        elif isinstance(given, Sequence):
            raise BudgetSyntaxError(
                f"{quoted(given)} is a list of budgets, but one student has one budget. {_SEVERAL}; for one student "
                'with several limits, write "macs<=2.6G, params<=25%".'
            )
        else:
            _refuse_bare(quoted(given))
        return cls(tuple(sorted(set(bounds), key=lambda bound: (_METRICS.index(bound.metric), str(bound)))), counting)

    @property
    def label(self) -> str:
        """Short, and fit for a file's name: "4x", "macs-at-most-2.6G_params-over-4"."""
        return "_".join(bound.label for bound in self.bounds)

    def resolve(self, full: Cost) -> Limits:
        """The numbers that hold for a teacher that costs `full`."""
        tightest: dict[CostMetric, int] = {}
        for bound in self.bounds:
            limit = bound.resolve(full.of(bound.metric, self.counting))
            tightest[bound.metric] = min(limit, tightest.get(bound.metric, limit))
        return Limits(
            macs=tightest.get("macs"),
            params=tightest.get("params"),
            bytes=tightest.get("size"),
            counting=self.counting,
        )

    def __str__(self) -> str:
        """The canonical spelling, without the counting: `Budget.parse(str(b), counting=b.counting) == b`."""
        return ", ".join(map(str, self.bounds))


def _check_length(text: str) -> None:
    if len(text) > _LONGEST:
        raise BudgetSyntaxError(f"The budget {quoted(text)} is too long; write it like one of {SPELLINGS}.")


def is_ratio(term: str) -> bool:
    """Whether the text is a bare ratio, "4x"."""
    return _TIMES.fullmatch(term) is not None


def _refuse_several(ratios: Sequence[str], text: str) -> None:
    if len(ratios) > 1:
        raise BudgetSyntaxError(
            f"The budget {text!r} has several ratios ({', '.join(ratios)}), but one student has one. {_SEVERAL}; for "
            "one student, keep the largest ratio."
        )


def _spelled_out(bound: Share | Ceiling) -> str:
    return str(bound).replace("<=", "-at-most-").replace("/", "-over-")


def _read_term(term: str) -> Share | Ceiling:
    if times := _TIMES.fullmatch(term):
        return _divided("macs", times[1], term)
    if parts := _TERM.fullmatch(term):
        metric, sign, amount = parts.groups()
        read = _divided if sign == "/" else _at_most
        return read(_known(metric.lower(), term), amount, term)
    if _BARE.fullmatch(term):
        _refuse_bare(term)
    raise BudgetSyntaxError(f"The budget term {term!r} cannot be read; write it like one of {SPELLINGS}.")


def _read_item(metric: object, limit: object) -> Share | Ceiling:
    """One item of a mapping: an amount without a sign means "at most"."""
    limit = plain_number(limit)
    if not isinstance(metric, str) or not isinstance(limit, (str, int, float)):
        raise BudgetSyntaxError(
            f"The budget {{{quoted(metric)}: {quoted(limit)}}} cannot be read; write a metric and a number or text, as "
            'in {"macs": "10%"}.'
        )
    if isinstance(limit, float):
        limit = f"{limit:f}".rstrip("0").rstrip(".")
    text = limit.strip() if isinstance(limit, str) else quoted(limit)  # more digits than Python prints are no budget
    _check_length(metric + text)
    return _read_term(f"{metric}{text}" if text.startswith(("/", "<=")) else f"{metric}<={text}")


def _known(metric: str, term: str) -> str:
    """The metric, if a plan's cost is known in it before the student exists."""
    if metric in _UNITS:
        return metric
    if metric in _MEASURED:
        raise BudgetSyntaxError(
            f"The budget term {term!r} limits {metric}, which must be measured on a device; such budgets are not "
            "supported. Limit macs, params or size instead, and read the measured value in the report."
        )
    nearest = difflib.get_close_matches(metric, _UNITS, n=1, cutoff=0.0)[0]
    raise BudgetSyntaxError(
        f"The budget term {term!r} names {metric!r}, which is not a metric; did you mean {nearest!r}?"
    )


def _divided(metric: str, divisor: str, term: str) -> Share:
    """`macs/10`: at most a tenth."""
    value = _number(divisor, term)
    if value < 1:
        _refuse_bare(divisor, _COMPARED[metric])
    return Share(_COMPARED[metric], 1 / value)


def _at_most(metric: str, amount: str, term: str) -> Share | Ceiling:
    """`macs<=10%` or `macs<=2.6G`."""
    if (parts := _AMOUNT.fullmatch(amount)) is None:
        raise BudgetSyntaxError(
            f"The budget term {term!r} has {amount!r} for its limit; write a positive number and a unit, as in one of "
            f"{SPELLINGS}."
        )
    number, unit = parts.groups()
    value = _number(number, term)
    if unit == "%":
        if value > 100:
            raise BudgetSyntaxError(f"The budget term {term!r} allows more than the teacher has; write at most 100%.")
        return Share(_COMPARED[metric], value / 100)
    if unit.upper() not in _UNITS[metric]:
        units = ", ".join(["%", *filter(None, _UNITS[metric])])
        raise BudgetSyntaxError(f"The budget term {term!r} has the unit {unit!r}; {metric} takes one of {units}.")
    if not unit and value.denominator != 1:
        _refuse_bare(number, _COMPARED[metric])
    return Ceiling(_COMPARED[metric], _amount(metric, value * _UNITS[metric][unit.upper()], term))


def _amount(metric: str, value: Fraction, term: str) -> int:
    """MACs, parameters or bytes as a whole number; 1 MAC is 2 FLOPs."""
    amount = floor(value / 2) if metric == "flops" else floor(value)
    if not 1 <= amount <= _LARGEST:
        raise BudgetSyntaxError(f"The budget term {term!r} must allow at least 1 and at most {_LARGEST:.0e}.")
    return amount


def _number(text: str, term: str) -> Fraction:
    """A positive decimal of moderate size, exactly."""
    value = Fraction(text.replace("_", "")) if re.fullmatch(_NUMBER, text) else Fraction(0)
    if not 0 < value <= _LARGEST or value * 10**_DECIMALS % 1:
        raise BudgetSyntaxError(
            f"The budget term {term!r} has {text!r}; write a number above zero, at most {_LARGEST:.0e}, with at most "
            f"{_DECIMALS} decimals."
        )
    return value


def _refuse_bare(text: str, metric: CostMetric = "macs") -> NoReturn:
    """Refuse a number without a meaning: "0.1" keeps a tenth for some and removes a tenth for others."""
    parts = _BARE.fullmatch(text)
    value = float(parts[1]) / (100 if parts[2] else 1) if parts else 0.0
    if 0 < value < 1:
        raise BudgetSyntaxError(
            f'The budget {text!r} could mean two things: write "{metric}<={100 * value:.6g}%" to keep that share of '
            f'the teacher, or "{metric}<={100 * (1 - value):.6g}%" to remove it.'
        )
    hint = f' Perhaps "{text}x" is meant.' if value > 1 and parts and not parts[2] else ""
    raise BudgetSyntaxError(f"The budget {text!r} cannot be read; write one of {SPELLINGS}.{hint}")
