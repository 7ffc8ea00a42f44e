"""Messages speak of Python's arguments; the command line shows them as its options. Torch-free."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

NAMED_NONE = frozenset({"distiller"})
"""Arguments whose None is called "none" on the command line; without the others the option is not given."""
_VALUE = r"""'[^']*'|"[^"]*"|\[[^\]{}]*\]|[\w./+%-]*[\w%/]|\.\.\.|(?=[\s.,;:)]|$)"""


@dataclass(frozen=True)
class Flag:
    """An option of a command: `off` is set where it can be switched off, `is_switch` where it takes no value."""

    on: str
    off: str = ""
    is_switch: bool = False


def flags_of(command: Any) -> dict[str, Flag]:
    """The options of a click command by the names of its parameters."""
    return {
        one.name: Flag(one.opts[0], off=next(iter(one.secondary_opts), ""), is_switch=one.is_flag)
        for one in command.params
        if one.param_type_name == "option"
    }


def as_options(text: str, flags: Mapping[str, Flag]) -> str:
    """Write `out_dir='x'` as `--out x` and `resume='never'` as `--no-resume`; what is quoted stays as it is.

    Names with an underscore are no words of English and are replaced without a value, too.
    """
    if not flags:
        return text
    if part := _PART.search(text):  # what follows speaks of the part's own options
        return as_options(text[: part.start()], flags) + _of_part(part, text[part.end() :], flags)
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    bare = "|".join(name for name in flags if "_" in name)
    quotes = r"""(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|`[^`]*`"""
    # Not the keywords of a call, such as gansdk.load(directory, device="cpu").
    argument = rf"(?<![\w.\-/])(?<!\w\()(?P<name>{names})=(?P<value>{_VALUE})"
    word = rf"(?<![\w.\-/])(?P<bare>{bare})(?![\w=(/])" if bare else "(?!)"

    def written(match: re.Match[str]) -> str:
        if match["bare"]:
            return flags[match["bare"]].on
        if match["name"]:
            return _option(match["name"], match["value"], flags[match["name"]])
        return match[0]

    return re.sub(rf"{quotes}|{argument}|{word}", written, text)


_PART = re.compile(r"The (?P<kind>adapter|pruner|distiller|metric|source) '(?P<name>[^']*)':(?= )")


def _of_part(part: re.Match[str], rest: str, flags: Mapping[str, Flag]) -> str:
    """What is wrong with an option of a part, which begins with `name=value`, as the option of the command for it."""
    flag = flags.get(f"{_FIELDS.get(part['kind'])}_option")
    if flag is None or not re.match(r" \w+=", rest):
        return f"{part[0]}{rest}"
    name = f"{part['name']}." if part["kind"] in ("distiller", "metric") else ""
    return f"{part[0]} {flag.on} {name}{rest[1:]}"


_FIELDS = {"adapter": "adapter", "pruner": "pruner", "distiller": "distiller", "metric": "metrics"}
"""Kind of a part -> the argument that it is given by."""


def _option(name: str, value: str, flag: Flag) -> str:
    if flag.is_switch:
        is_on = value.strip("'\"") not in ("False", "None", "never")
        return flag.on if is_on else flag.off or f"no {flag.on}"
    if value == "None":
        return f"{flag.on} none" if name in NAMED_NONE else f"no {flag.on}"
    values = [value] if value else []
    if value[:1] in tuple("['\""):
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # something cut short
            return f"{flag.on} {value}"
        values = [shlex.quote(str(one)) for one in (read if isinstance(read, list) else [read])]
    return " ".join(f"{flag.on} {one}" for one in values) or flag.on


_translation: ContextVar[Callable[[str], str]] = ContextVar("_translation", default=str)


@contextmanager
def worded(translation: Callable[[str], str]) -> Iterator[None]:
    """Let `in_options` use that translation inside."""
    token = _translation.set(translation)
    try:
        yield
    finally:
        _translation.reset(token)


def in_options(text: str) -> str:
    """A message in the words of the command that is run."""
    return _translation.get()(text)
