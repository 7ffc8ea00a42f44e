"""A floor under the student's quality, "finite,psnr-y>=29.5": checks it must pass and bounds it must keep.

Also how quality was measured, in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from gansdk.errors import InvalidOption, suggestion
from gansdk.evaluation.findings import BASELINE, CHECKS, TRAINING, Finding
from gansdk.interfaces import GROUND_TRUTH, TEACHER, Quality
from gansdk.text import quoted

ALL_CHECKS = "checks"
"""The name for all checks that can be made of a student."""
NEED_IMAGES = (BASELINE, TRAINING)
"""Checks that noise cannot stand in for."""
WORST, TO_TEACHER = "worst-", "-to-teacher"
"""What names of metrics begin with for the worst image, and end in for the distance to the teacher."""

_BOUND = re.compile(r"([a-z0-9-]+(?:\([^()\s]+\))?)\s*(>=|<=)\s*(-?\d+(?:\.\d*)?(?:e-?\d+)?)")
_PARTS = re.compile(r",(?![^()]*\))")
"""Commas between parts, not those in the name of a network."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One metric and the value that the student must reach.

    It is the mean over all images against the ground truth where there is one, else against the teacher;
    "worst-METRIC" is that of the worst image, and "METRIC-to-teacher" against the teacher in any case.
    """

    metric: str
    sign: str
    value: float

    def missed(self, qualities: Sequence[Quality]) -> str:
        """A sentence saying by how much the bound is missed; empty if it is kept."""
        metric, is_worst = self.metric.removeprefix(WORST), self.metric.startswith(WORST)
        matches = [quality for quality in qualities if quality.metric == metric]
        if not matches and metric.endswith(TO_TEACHER):
            metric = metric.removesuffix(TO_TEACHER)
            matches = [quality for quality in qualities if (quality.metric, quality.reference) == (metric, TEACHER)]
        best = min(matches, key=lambda quality: quality.reference != GROUND_TRUTH, default=None)
        value = None if best is None else best.worst if is_worst else best.student
        if best is None or value is None:
            return f"The student's {self.metric} could not be measured."
        if value >= self.value if self.sign == ">=" else value <= self.value:
            return ""
        where = f" on its worst image, {best.worst_image!r}," if is_worst else ""
        return f"The student's {metric} to the {best.reference}{where} is {value:.4g}, not {self.sign} {self.value:g}."


@dataclass(frozen=True, slots=True)
class QualityFloor:
    """Bounds that the student must keep, and checks that it must pass."""

    bounds: tuple[Bound, ...] = ()
    checks: tuple[str, ...] = ()
    """Names of `gansdk.evaluation.self_checks.CHECKS`, or "checks" for all that can be made."""

    @classmethod
    def parse(cls, text: str | None) -> QualityFloor | None:
        """Read checks and "metric>=value" or "metric<=value", with commas between; None stays None.

        Raises:
            InvalidOption: a part has another form, or is the name of no check.
        """
        if text is None:
            return None
        bounds, checks = [], []
        for part in (part.strip() for part in _PARTS.split(text)):
            match = _BOUND.fullmatch(part)
            if match is not None and isfinite(float(match[3])):
                bounds.append(Bound(match[1], match[2], float(match[3])))
            elif part in (*CHECKS, ALL_CHECKS):
                checks.append(part)
            else:
                whole = "" if part == text.strip() else f", in {quoted(part)},"
                meant = suggestion(part, (*CHECKS, ALL_CHECKS))
                raise InvalidOption(
                    f"quality={quoted(text)}{whole} cannot be read.{meant} Write a metric and a bound, such as "
                    "'psnr-y>=29.5', 'worst-psnr-y>=25', 'psnr-y-to-teacher>=30' or 'kid(efficientnet-lite0)<=0.05', "
                    f"or a check: {', '.join(CHECKS)}, or {ALL_CHECKS} for all of them. Separate several with commas."
                )
        return cls(tuple(bounds), tuple(checks))

    def check(self, single: Sequence[str], others: Sequence[str] = ()) -> None:
        """See that every metric is one of those that will be measured: of `single` images, and of sets (`others`).

        Raises:
            InvalidOption: one is not.
        """
        names = (*single, *others)
        for bound in self.bounds:
            plain = bound.metric.removeprefix(WORST).removesuffix(TO_TEACHER)
            if bound.metric not in names and plain not in single:
                forms = f", or of {', '.join(single)} {WORST}NAME or NAME{TO_TEACHER}"
                raise InvalidOption(
                    f"quality names {bound.metric!r}, which is not measured for this generator; choose one of "
                    f"{', '.join(names)}{forms}."
                )

    @property
    def needs_images(self) -> tuple[str, ...]:
        """What it asks for that only held-out images can show."""
        return (*(bound.metric for bound in self.bounds), *(name for name in self.checks if name in NEED_IMAGES))

    def missed(self, qualities: Sequence[Quality], findings: Sequence[Finding] = ()) -> str:
        """Sentences saying what is missed, and by how much; empty if nothing is."""
        return " ".join(
            filter(
                None,
                (
                    *(bound.missed(qualities) for bound in self.bounds),
                    *dict.fromkeys(text for name in self.checks for text in _failed(name, findings)),
                ),
            )
        )


def _failed(name: str, findings: Sequence[Finding]) -> list[str]:
    """What is wrong with a check by its findings; one that was asked for by its own name must have been made."""
    if name == ALL_CHECKS:
        return [f"Check {finding.check!r}: {finding.text}" for finding in findings if finding.passed is False]
    results = [finding for finding in findings if finding.check == name]
    if not results:
        return [f"The check {name!r} was not run."]
    return [f"Check {name!r}: {finding.text}" for finding in results if not finding.passed]


def protocols(qualities: Sequence[Quality]) -> list[str]:
    """How the qualities were measured: one sentence without a full stop for all metrics that share it."""
    metrics: dict[str, list[str]] = {}
    for quality in qualities:
        named = metrics.setdefault(quality.protocol, [])
        if quality.metric not in named:
            named.append(quality.metric)
    return [f"{', '.join(named)}: {protocol}" for protocol, named in metrics.items()]
