"""The plain options of a run, refused before any work where they make none."""

from __future__ import annotations

import math

from gansdk.errors import InvalidOption


def check_numbers(
    *, steps: int | None, seed: int, batch_size: int, patch: int | None, learning_rate: float | None
) -> None:
    """Raise InvalidOption for a number that is out of its range; None is the default of what may be left out."""
    for name, value in {"steps": steps, "batch_size": batch_size, "patch": patch}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            hint = "; use distiller=None to prune without training" if name == "steps" else ""
            raise InvalidOption(f"{name}={value!r} must be a whole number from 1{hint}.")
    if not isinstance(seed, int) or seed < 0:
        raise InvalidOption(f"seed={seed!r} must be a whole number from 0.")
    if learning_rate is not None and not (isinstance(learning_rate, (int, float)) and 0 < learning_rate < math.inf):
        raise InvalidOption(f"learning_rate={learning_rate!r} must be a finite number above zero.")


def check_choices(*, resume: str, device: str) -> None:
    """Raise InvalidOption for a word that is none of the choices."""
    for name, value, choices in (("resume", resume, ("auto", "never")), ("device", device, ("auto", "cpu"))):
        if value not in choices:
            raise InvalidOption(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, choices))}.")
