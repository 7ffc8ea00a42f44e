"""The plain options of a run, refused before any work where they make none; JSON of the command line. Torch-free."""

from __future__ import annotations

from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.options import LARGEST_SIDE, one_of, positive

LARGEST_SEED = 2**64 - 1
"""What torch's generators take."""
MOST_STEPS = 10**9
"""Steps from here on have other uses: probe batches and sample sheets are batches of steps no training reaches."""
MOST_IMAGES = 2**16
"""Images of a step."""


def check_numbers(
    *, steps: int | None, seed: int, batch_size: int, patch: int | None, learning_rate: float | None, least_steps: int
) -> None:
    """Raise InvalidOption for a number that is out of its range; None is the default of what may be left out."""
    for name, value, least, most in (
        ("steps", steps, least_steps, MOST_STEPS),
        ("batch_size", batch_size, 1, MOST_IMAGES),
        ("patch", patch, 1, LARGEST_SIDE),
        ("seed", seed, 0, LARGEST_SEED),
    ):
        if value is not None and not least <= value <= most:
            raise InvalidOption(f"{name}={quoted(value)} must be a whole number from {least} to {most}.")
    if learning_rate is not None:
        positive(learning_rate, "learning_rate", without=None)


def check_choices(*, resume: str, device: str) -> None:
    """Raise InvalidOption for a word that is none of the choices."""
    for name, value, choices in (("resume", resume, ("auto", "never")), ("device", device, ("auto", "cpu"))):
        one_of(choices, value, name)
