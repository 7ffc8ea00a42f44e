"""recipe.toml of a student's folder: what was requested, as a file that makes the student again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import PurePath
from typing import Any

from gansdk.budget.budget import Budget
from gansdk.recipe import Recipe
from gansdk.text import one_line
from gansdk.validation.signatures import plain_number

LONGEST = 2**16
"""Characters of a field."""
_DEEPEST = 8
"""Lists and tables inside one another."""
_LEFT_OUT = """\
# {problem}, so it is missing here. Pass it again:
#     gansdk.compress(recipe="recipe.toml", {name}=...)
"""


class _Unwritable(ValueError):
    """What of a field no TOML file can hold; says what it is."""


def recipe_text(recipe: Recipe, *, ladder: Sequence[str] = ()) -> str:
    """The TOML file of a recipe, which `gansdk.recipe.read_recipe` reads: all fields that have a value.

    Paths are as they were given. Of a field that no file can hold (a module, a DataSource, a pruner's instance) a
    comment says what it was. `ladder`: all budgets of the run, where the student is one of several.
    """
    import tomli_w

    from gansdk import __version__

    lines = [
        f"# The recipe of this student, by gansdk {__version__}. Make it again:\n",
        "#     gansdk compress --recipe recipe.toml\n",
        "# Relative paths start from the folder that the run was started in.\n",
    ]
    if ladder:
        lines.append(
            f"# The student is one of a ladder: {one_line(', '.join(ladder))}. Made without the others, it may differ\n"
            "# where the pruner trains for all of them at once.\n"
        )
    written: dict[str, Any] = {}
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name == "distiller" and value is None:
            value = "none"
        if value is None:
            continue
        try:
            plain = _plain(value, field.name)
            if len(tomli_w.dumps({field.name: plain})) > LONGEST:
                raise _Unwritable(f"{field.name} had more than {LONGEST} characters")
        except ValueError as error:  # also of text that is no Unicode, and of numbers with thousands of digits
            problem = str(error) if isinstance(error, _Unwritable) else f"{field.name} cannot be written as text"
            name = "budget" if field.name == "budgets" else field.name
            lines.append(_LEFT_OUT.format(problem=problem, name=name))
        else:
            written[field.name] = plain
    return f"{''.join(lines)}\n{tomli_w.dumps(written)}"


def _plain(value: object, name: str, depth: int = _DEEPEST) -> Any:
    """The value as TOML has it.

    Raises:
        ValueError: it has no such form.
    """
    value = plain_number(value)
    if isinstance(value, PurePath) or (isinstance(value, Budget) and value.counting == "true"):
        value = str(value)
    if isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum):
        str(value).encode()  # file names may have bytes that are no Unicode
        return value
    if isinstance(value, Mapping) and depth and all(isinstance(key, str) for key in value):
        return {_plain(key, name): _plain(item, f"{name}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [_plain(item, f"{name}[{index}]", depth - 1) for index, item in enumerate(value)]
    kind = type(value)
    raise _Unwritable(one_line(f"{name} was a {kind.__module__}.{kind.__qualname__}"))
