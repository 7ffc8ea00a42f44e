"""What a check of a student found, and how it is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gansdk.contracts import MAIN, Route
from gansdk.errors import StudentWarning

TEACHER, FINITE, RANGE, BASELINE, TRAINING, ACTIVATIONS = (
    "teacher",
    "finite",
    "range",
    "baseline",
    "training",
    "activations",
)
CHECKS = {
    TEACHER: "the teacher's own images are finite, vary, lie in the contract's range and are no worse than bicubic",
    FINITE: "all values of the student's images are finite",
    RANGE: "the student's images exceed the contract's output range hardly more than the teacher's",
    BASELINE: "the student is nearer to the teacher than bicubic enlargement, or than its input left as it is",
    TRAINING: "training brought the student nearer to the teacher, or kept it there",
    ACTIVATIONS: "no feature map of the student is many times as large as the teacher's",
}
"""Every check by its name, and what holds where it is passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """One of `CHECKS`."""
    passed: bool | None
    """None: it was not made, and `text` says why."""
    text: str
    """One sentence or two: what was found and, where it is out of line, what to try."""
    route: Route = MAIN
    image: str = ""
    """The worst image, where one is to blame."""
    measured: Mapping[str, float] = field(default_factory=dict)


def passed(check: str, text: str, measured: Mapping[str, float] | None = None) -> Finding:
    """A check that holds."""
    return Finding(check=check, passed=True, text=text, measured=measured or {})


def out_of_line(check: str, text: str, image: str = "", measured: Mapping[str, float] | None = None) -> Finding:
    """A check that failed; `image`: the worst one, where one is to blame."""
    return Finding(check=check, passed=False, text=text, image=image, measured=measured or {})


def left_out(check: str, reason: str) -> Finding:
    """A check that was not made."""
    return Finding(check=check, passed=None, text=f"Not checked: {reason}.")


def warn_of(findings: Sequence[Finding]) -> None:
    """Say what is out of line, once for each finding, with its route where there are several."""
    for finding in findings:
        if finding.passed is False:
            route = "" if finding.route == MAIN else f"{finding.route}: "
            warnings.warn(f"{route}{finding.text}", StudentWarning, stacklevel=3)
