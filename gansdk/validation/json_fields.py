"""JSON from somebody else's file, read once into values of known types and sizes; an error names the field.

Everything here raises ValueError with the name of the field; whoever opened the file adds its path. Torch-free.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from gansdk.errors import InvalidOption
from gansdk.text import quoted

MOST_BYTES = 8 * 2**20
"""Of a JSON file; its values may take twenty times as much memory."""
DEEPEST = 64
"""Lists and objects inside one another, at most."""
LARGEST = 2**63
"""Whole numbers lie below it, and above its negative."""
LONGEST = 1000
"""Characters of a name, at most."""


def parse(content: bytes | str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is no JSON or too long, repeats a key, is nested too deeply, or holds a number beyond 64 bits.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has {len(content):,} bytes of JSON, more than {MOST_BYTES:,}")
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_whole, parse_float=_number, parse_constant=_number
        )
    except RecursionError:
        depth = DEEPEST + 1
    else:
        depth = _depth(value)
    if depth > DEEPEST:
        raise ValueError(f"it nests lists and objects more than {DEEPEST} deep")
    return value


def _depth(value: Any) -> int:
    """Lists and objects inside one another; counted without recursion."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, (dict, list))]:
        depth += 1
        level = [below for part in level for below in (part.values() if isinstance(part, dict) else part)]
    return depth


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object of it has a key twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or not -LARGEST <= int(text) < 2 * LARGEST:  # seeds go that far
        raise ValueError(f"it holds the number {quoted(text)}, which has more than 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds the number {quoted(text)}, which is not finite")
    return number


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a parsed document, and its place there: "contract.size[0]"."""

    value: Any
    name: str

    def refused(self, expected: str) -> ValueError:
        """The error for a value that is not `expected`."""
        return ValueError(f"{self.name or 'it'} is {quoted(self.value)}, but {expected} was expected")

    def __contains__(self, key: str) -> bool:
        return key in self._object()

    def __getitem__(self, key: str) -> Field:
        if key not in self._object():
            raise ValueError(f"{self._below(key)} is missing")
        return Field(self.value[key], self._below(key))

    def get(self, key: str, default: Any) -> Field:
        """The field `key`, or one with the default in its place."""
        return Field(self._object().get(key, default), self._below(key))

    def only(self, keys: Iterable[str]) -> Field:
        """This object, if it has no other keys."""
        if unknown := self._object().keys() - set(keys):
            raise ValueError(f"{self._below(min(unknown))} is unknown")
        return self

    def items(self, most: int = 10**6) -> Iterator[tuple[str, Field]]:
        """Keys and fields of an object; keys are names."""
        if len(self._object()) > most:
            raise self.refused(f"an object of at most {most:,}")
        for key, value in self._object().items():
            yield Field(key, f"a key of {self.name or 'it'}").text(), Field(value, self._below(key))

    def list(self, most: int = 10**6) -> list[Field]:
        """The fields of a list."""
        if not isinstance(self.value, (list, tuple)) or len(self.value) > most:
            raise self.refused("a list" if not isinstance(self.value, (list, tuple)) else f"a list of at most {most:,}")
        return [Field(value, f"{self.name}[{index}]") for index, value in enumerate(self.value)]

    def single(self) -> tuple[str, Field]:
        """Key and field of an object that has one key."""
        if len(self._object()) != 1:
            raise self.refused("an object with one key")
        [(key, value)] = self._object().items()
        return key, Field(value, self._below(key))

    def text(self, longest: int = LONGEST) -> str:
        """A text without control characters."""
        if not isinstance(self.value, str):
            raise self.refused("a text")
        if len(self.value) > longest or not self.value.isprintable():
            raise self.refused(f"at most {longest:,} printable characters")
        return self.value

    def words(self, longest: int = 10_000) -> str:
        """A text for people, with spaces for its control characters."""
        if not isinstance(self.value, str) or len(self.value) > longest:
            raise self.refused(f"a text of at most {longest:,} characters")
        return "".join(character if character.isprintable() else " " for character in self.value)

    def whole(self, low: int = 0, high: int = LARGEST - 1) -> int:
        """An integer from `low` to `high`."""
        if type(self.value) is not int or not low <= self.value <= high:
            raise self.refused(f"an integer from {low:,} to {high:,}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if type(self.value) not in (int, float) or not math.isfinite(self.value):
            raise self.refused("a number")
        return float(self.value)

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.refused("true or false")
        return self.value

    def one_of(self, choices: Iterable[Any]) -> Any:
        """One of the choices, types compared too."""
        if not any(type(self.value) is type(choice) and self.value == choice for choice in choices):
            raise self.refused(" or ".join(map(repr, choices)))
        return self.value

    def plain_object(self) -> dict[str, Any]:
        """An object of any JSON values, as `plain`."""
        return dict(Field(self.plain(), self.name)._object())

    def plain(self, most: int = 100_000) -> Any:
        """Any JSON value with at most that many values inside, and texts as `text` allows them."""
        if (count := sum(1 for _ in self._leaves())) > most:
            raise ValueError(f"{self.name} holds {count:,} values, more than {most:,}")
        return self.value

    def _leaves(self) -> Iterator[None]:
        if isinstance(self.value, dict):
            for field in dict(self.items()).values():
                yield from field._leaves()
        elif isinstance(self.value, (list, tuple)):
            for field in self.list():
                yield from field._leaves()
        elif isinstance(self.value, str):
            self.text()
        yield None

    def _object(self) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            raise self.refused("an object")
        return self.value

    def _below(self, key: str) -> str:
        return f"{self.name}.{quoted(key)[1:-1]}" if self.name else quoted(key)[1:-1]


LONGEST_JSON = 2**20
"""Characters."""


def read_json(text: str) -> Any:
    """What a JSON text says, if it says it in one way only.

    Raises:
        ValueError: it is no JSON.
        InvalidOption: it is too long or too deep to be an option, or a key is given twice.
    """
    if len(text) > LONGEST_JSON:
        raise InvalidOption(
            f"{quoted(text)} has {len(text):,} characters. Options in JSON may have at most {LONGEST_JSON:,}."
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
    raise ValueError(f"{name} is not a JSON value")
