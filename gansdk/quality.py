"""A floor under the student's quality: "psnr-y>=29.5", "kid(efficientnet-lite0)<=0.05"; and how it was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from gansdk.errors import InvalidOption
from gansdk.interfaces import Quality
from gansdk.words import quoted

_FORM = re.compile(r"\s*([a-z0-9-]+(?:\([^()\s]+\))?)\s*(>=|<=)\s*(-?\d+(?:\.\d*)?(?:e-?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class QualityFloor:
    """One metric and the value the student must reach, measured against the ground truth where there is one."""

    metric: str
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str | None) -> QualityFloor | None:
        """Read "metric>=value" or "metric<=value"; None stays None.

        Raises:
            InvalidOption: the text has another form.
        """
        if text is None:
            return None
        match = _FORM.fullmatch(text)
        if match is None or not isfinite(float(match[3])):
            raise InvalidOption(
                f"quality={quoted(text)} is not understood. Write a metric and a bound, such as 'psnr-y>=29.5' or "
                "'kid(efficientnet-lite0)<=0.05'."
            )
        return cls(match[1], match[2], float(match[3]))

    def check(self, metrics: Sequence[str]) -> None:
        """See that the metric is one of those that will be measured.

        Raises:
            InvalidOption: it is not.
        """
        if self.metric not in metrics:
            raise InvalidOption(
                f"quality asks for {self.metric!r}, which is not measured for this generator; choose one of "
                f"{', '.join(metrics)}."
            )

    def missed(self, qualities: Sequence[Quality]) -> str:
        """A sentence saying by how much the floor is missed; empty if it is met."""
        found = [quality for quality in qualities if quality.metric == self.metric]
        if not found:
            return f"The student's {self.metric} could not be measured."
        best = min(found, key=lambda quality: quality.reference != "ground-truth")
        met = best.student >= self.value if self.sign == ">=" else best.student <= self.value
        if met:
            return ""
        wanted = f"{self.sign} {self.value:g}"
        return f"The student's {best.metric} to the {best.reference} is {best.student:.4g}, not {wanted}."


def protocols(qualities: Sequence[Quality]) -> list[str]:
    """How the qualities were measured: one sentence without a full stop for all metrics that share it."""
    metrics: dict[str, list[str]] = {}
    for quality in qualities:
        named = metrics.setdefault(quality.protocol, [])
        if quality.metric not in named:
            named.append(quality.metric)
    return [f"{', '.join(named)}: {protocol}" for protocol, named in metrics.items()]
