"""recipe.toml of a student's folder: what was requested, as a file that makes the student again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import PurePath
from typing import Any

from gansdk.budget.budget import Budget
from gansdk.recipe import MISSING_FIELD, Recipe, is_missing
from gansdk.text import one_line
from gansdk.validation.signatures import plain_number

LONGEST = 2**16
"""Characters of a field."""
_DEEPEST = 8
"""Lists and tables inside one another."""
_HEAD = """\
# The recipe of this student, by gansdk {version}. Relative paths start from the folder that the run was started in.
"""
_AGAIN = """\
# Make it again:
#     gansdk compress --recipe recipe.toml
"""
_LADDER = """\
# The student is one of a ladder: {budgets}. Made without the others, it may differ
# where the pruner trains for all of them at once.
"""
_LEFT_OUT = """\
# {problem}, which no file can hold. Pass it again:
#     gansdk.compress(recipe="recipe.toml", {argument}=...)
"""


class _Unwritable(ValueError):
    """What of a field no TOML file can hold; says what it is."""


def recipe_text(recipe: Recipe, *, ladder: Sequence[str] = ()) -> str:
    """The TOML file of a recipe, which `gansdk.recipe.read_recipe` reads: all fields that have a value.

    Paths are as they were given. A field that no file can hold (a module, a DataSource, a pruner's instance, None as an
    option of a part) says what it was, and is refused unless it is passed beside the recipe. `ladder`: all budgets of
    the run, where the student is one of several.
    """
    import tomli_w

    from gansdk import __version__

    values: dict[str, Any] = {}
    comments = [_HEAD.format(version=__version__)]
    if ladder:
        comments.append(_LADDER.format(budgets=one_line(", ".join(ladder))))
    for name, value in _requested(recipe).items():
        try:
            values[name] = _writable(value, name)
        except _Unwritable as problem:
            text = str(problem).encode(errors="backslashreplace").decode()
            values[name] = {MISSING_FIELD: text}
            comments.append(_LEFT_OUT.format(problem=text, argument="budget" if name == "budgets" else name))
    if not any(map(is_missing, values.values())):
        comments.insert(1, _AGAIN)
    return f"{''.join(comments)}\n{tomli_w.dumps(values)}"


def _requested(recipe: Recipe) -> dict[str, Any]:
    """The fields that have a value; TOML has no None, which the distiller has a word for."""
    found = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    return {
        name: value for name, value in {**found, "distiller": found["distiller"] or "none"}.items() if value is not None
    }


def _writable(value: object, name: str) -> Any:
    """The value of a field as TOML has it.

    Raises:
        _Unwritable: it has no such form, or a very long one.
    """
    import tomli_w

    try:
        plain = _plain(value, name)
        length = len(tomli_w.dumps({name: plain}))
    except UnicodeError:
        raise _Unwritable(f"{name} had text that is no Unicode") from None
    except ValueError as error:
        problem = error if isinstance(error, _Unwritable) else f"{name} had a number of thousands of digits"
        raise _Unwritable(problem) from None
    if length > LONGEST:
        raise _Unwritable(f"{name} had more than {LONGEST} characters")
    return plain


def _plain(value: object, name: str, depth: int = _DEEPEST) -> Any:
    """The value as TOML has it.

    Raises:
        ValueError: it has no such form; `_Unwritable` where that is for its type.
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
    was = "None" if value is None else f"a {kind.__module__}.{kind.__qualname__}"
    raise _Unwritable(one_line(f"{name} was {was}"))
