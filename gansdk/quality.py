"""A floor under the student's quality: "psnr-y>=29.5"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gansdk.errors import GansdkError
from gansdk.interfaces import Quality

_FORM = re.compile(r"\s*([a-z0-9-]+)\s*(>=|<=)\s*([0-9.]+)\s*")


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
            GansdkError: the text has another form.
        """
        if text is None:
            return None
        match = _FORM.fullmatch(text)
        if match is None:
            raise GansdkError(
                f"quality={text!r} is not understood. Write a metric and a bound, such as 'psnr-y>=29.5'."
            )
        return cls(match[1], match[2], float(match[3]))

    def missed(self, qualities: Sequence[Quality]) -> str:
        """A sentence saying by how much the floor is missed; empty if it is met.

        Raises:
            GansdkError: the metric was not measured.
        """
        found = [quality for quality in qualities if quality.metric == self.metric]
        if not found:
            measured = ", ".join(sorted({quality.metric for quality in qualities})) or "nothing"
            raise GansdkError(f"quality asks for {self.metric}, but {measured} was measured.")
        best = min(found, key=lambda quality: quality.reference != "ground-truth")
        met = best.student >= self.value if self.sign == ">=" else best.student <= self.value
        if met:
            return ""
        wanted = f"{self.sign} {self.value:g}"
        return f"The student's {best.metric} to the {best.reference} is {best.student:.4g}, not {wanted}."
