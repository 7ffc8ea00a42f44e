"""The plain options of a run, refused before any work where they make none; JSON of the command line. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.options import LARGEST_SIDE, one_of, positive

LARGEST_SEED = 2**64 - 1
"""What torch's generators take."""
MOST_STEPS = 10**9
"""Steps from here on have other uses: probe batches and sample sheets are batches of steps no training reaches."""
MOST_IMAGES = 2**16
"""Images of a step."""
LONGEST_JSON = 2**20
"""Characters."""


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


def read_json(text: str) -> Any:
    """What a JSON text says, if it says it in one way only.

    Raises:
        ValueError: it is no JSON.
        InvalidOption: it is too long or too deep to be an option, or a key is given twice.
    """
    if len(text) > LONGEST_JSON:
        raise InvalidOption(
            f"{quoted(text)} has {len(text):,} characters. Options in JSON have {LONGEST_JSON:,} at most."
        )
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidOption(f"{quoted(text)} is nested too deeply for an option. Write it flat.") from error


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidOption(f"The JSON gives {quoted(name)} twice. Give every key once.")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
