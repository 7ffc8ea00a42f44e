"""Learning rates as functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi


def warmup_cosine(step: int, steps: int, *, warmup: float = 0.02, final: float = 0.01) -> float:
    """The factor of the learning rate at `step`, counted from 0, of `steps`.

    Rises linearly over the first `warmup` of the steps (at least one), reaches 1, and falls along half a
    cosine to `final`, which the last step has and keeps.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step + 1 - rising) / max(1, steps - rising))
    return final + (1.0 - final) * 0.5 * (1.0 + cos(pi * progress))


def constant_linear(step: int, steps: int) -> float:
    """1 over the first half of the steps, then linearly towards 0, which the step behind the last would have."""
    return min(1.0, 2.0 * (steps - step) / steps)


SCHEDULES: dict[str, Callable[[int, int], float]] = {"cosine": warmup_cosine, "constant-linear": constant_linear}
"""Name of a schedule (`gansdk.interfaces.Optimisation`) -> (step, steps) -> factor of the learning rate."""
