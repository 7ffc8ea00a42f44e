"""Values against the types that a signature states for them, as far as these are plain. Torch-free."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gansdk.errors import GansdkError, InvalidOption
from gansdk.text import quoted


@dataclass(frozen=True)
class _Kind:
    """A plain type: how messages call it, and the value it takes another for, which raises ValueError for none."""

    one: tuple[str, ...]
    """Its alternatives."""
    several: str
    take: Callable[[Any], Any]


def fitting(
    function: Callable[..., Any], given: Mapping[str, Any], *, whose: str = "", error: type[GansdkError] = InvalidOption
) -> dict[str, Any]:
    """The values, each as the annotation of the parameter of its name wants it.

    Plain annotations are numbers, bool, str, Path, Literal, None, callables, and sequences, mappings and unions of
    those. A value of numpy comes back as Python's own, and a list as a tuple where one is wanted: JSON has none. What
    is annotated otherwise, or not at all, is not looked at, and a default always fits.

    `whose` begins the message: "The pruner 'one-step'".

    Raises:
        InvalidOption: a value is of another type; or `error`, if that is given.
    """
    wanted, defaults = annotations_of(function), _defaults(function)
    fitted = dict(given)
    for name, value in given.items():
        kind = _kind(wanted[name]) if name in wanted else None
        if kind is None or (name in defaults and value is defaults[name]):
            continue
        try:
            fitted[name] = kind.take(value)
        except ValueError:
            begun = f"{whose}: " if whose else ""
            raise error(f"{begun}{name}={quoted(value)} is {_none_of(kind.one)}.") from None
    return fitted


def plain_number(value: Any) -> Any:
    """A number of any library as Python's own int or float; anything else as it is, bool too."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> annotation, without those that only a type checker can resolve."""
    while isinstance(function, functools.partial):
        function = function.func
    called: Any = function
    if isinstance(function, type):
        called = called.__init__
    elif not inspect.isroutine(function):
        called = type(function).__call__
    called = inspect.unwrap(called)
    names = getattr(called, "__globals__", {})
    found = {}
    for name, annotation in getattr(called, "__annotations__", {}).items():
        try:
            found[name] = eval(annotation, names) if isinstance(annotation, str) else annotation
        except Exception:  # a stranger's annotation may be any code
            continue
    return found


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _kind(annotation: Any) -> _Kind | None:
    """What an annotation takes; None if it is not plain."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, types.UnionType):
        return _any_of([_kind(argument) for argument in arguments])
    if origin is Literal:
        return _choice(arguments)
    container = origin or annotation
    if container is collections.abc.Callable:
        return _Kind(("a function",), "functions", _if(callable))
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        return _row([_kind(argument) for argument in arguments])
    if container in (list, tuple, Sequence):
        items = _kind(arguments[0]) if arguments else None
        of = "" if items is None else f" of {items.several}"
        kept = tuple if container is tuple else list
        return _Kind((f"a list{of}",), f"lists{of}", lambda value: _listed(value, items, kept))
    if container in (dict, Mapping):
        keys, values = map(_kind, arguments) if arguments else (None, None)
        return _Kind(("a mapping",), "mappings", lambda value: _mapped(value, keys, values))
    return next((kind for known, kind in _SIMPLE.items() if annotation is known), None)


def _any_of(kinds: Sequence[_Kind | None]) -> _Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None

    def take(value: Any) -> Any:
        for kind in known:
            try:
                return kind.take(value)
            except ValueError:
                continue
        raise ValueError

    return _Kind(sum((kind.one for kind in known), ()), _or([kind.several for kind in known]), take)


def _choice(choices: Sequence[Any]) -> _Kind:
    def take(value: Any) -> Any:
        for choice in choices:
            alike = isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool)
            if alike and value == choice:
                return choice
        raise ValueError

    named = tuple(repr(choice) for choice in choices)
    return _Kind(named, _or(named), take)


def _row(kinds: Sequence[_Kind | None]) -> _Kind:
    """A tuple of so many."""
    words = ", ".join("anything" if kind is None else _or(kind.one) for kind in kinds)

    def take(value: Any) -> tuple[Any, ...]:
        items = _items(value)
        if len(items) != len(kinds):
            raise ValueError
        return tuple(item if kind is None else kind.take(item) for item, kind in zip(items, kinds, strict=True))

    return _Kind((f"a list of {len(kinds)} ({words})",), f"lists of {len(kinds)} ({words})", take)


def _listed(value: Any, kind: _Kind | None, container: type) -> Any:
    taken = [item if kind is None else kind.take(item) for item in _items(value)]
    return tuple(taken) if container is tuple or isinstance(value, tuple) else taken


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
        raise ValueError
    return value


def _mapped(value: Any, keys: _Kind | None, values: _Kind | None) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    return {
        key if keys is None else keys.take(key): item if values is None else values.take(item)
        for key, item in value.items()
    }


def _if(fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def take(value: Any) -> Any:
        if not fits(value):
            raise ValueError
        return value

    return take


def _of(kind: type) -> Callable[[Any], Any]:
    return _if(lambda value: isinstance(value, kind))


def _number(kind: type) -> Callable[[Any], Any]:
    """A number, if whole of fewer digits than Python refuses to print: ranges are for the part itself to check."""

    def take(value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError
        number = plain_number(value)
        if isinstance(number, int) and abs(number) >= 10**1000:
            raise ValueError
        return number

    return take


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _none_of(words: Sequence[str]) -> str:
    return f"neither {' nor '.join(words)}" if len(words) > 1 else f"not {words[0]}"


_SIMPLE = {
    int: _Kind(("an integer",), "integers", _number(Integral)),
    float: _Kind(("a number",), "numbers", _number(Real)),
    bool: _Kind(("true or false",), "true or false", _of(bool)),
    str: _Kind(("text",), "texts", _of(str)),
    Path: _Kind(("a path",), "paths", _of(Path)),
    None: _Kind(("None",), "None", _if(lambda value: value is None)),
    type(None): _Kind(("None",), "None", _if(lambda value: value is None)),
}
