"""The plain options of a run, refused before any work where they make none."""

from __future__ import annotations

import math

from gansdk.errors import InvalidOption
from gansdk.toolkit.options import one_of


def check_numbers(
    *, steps: int | None, seed: int, batch_size: int, patch: int | None, learning_rate: float | None, least_steps: int
) -> None:
    """Raise InvalidOption for a number that is out of its range; None is the default of what may be left out."""
    for name, value, least in (("steps", steps, least_steps), ("batch_size", batch_size, 1), ("patch", patch, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise InvalidOption(f"{name}={value!r} must be a whole number from {least}.")
    if not isinstance(seed, int) or seed < 0:
        raise InvalidOption(f"seed={seed!r} must be a whole number from 0.")
    if learning_rate is not None and not (isinstance(learning_rate, (int, float)) and 0 < learning_rate < math.inf):
        raise InvalidOption(f"learning_rate={learning_rate!r} must be a finite number above zero.")


def check_choices(*, resume: str, device: str) -> None:
    """Raise InvalidOption for a word that is none of the choices."""
    for name, value, choices in (("resume", resume, ("auto", "never")), ("device", device, ("auto", "cpu"))):
        one_of(choices, value, name)
