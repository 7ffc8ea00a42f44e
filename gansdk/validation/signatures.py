"""Values against the types that a signature states for them, as far as these are plain. Torch-free.

pydantic does the checks, and is imported with the first of them.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gansdk.errors import GansdkError, InvalidOption, suggestion
from gansdk.text import one_line, quoted

MOST_BITS = 10_000
"""Of an integer. Python prints no number that is much longer."""
_LONGEST_NAME = 100
"""Characters of a text that similar names are looked for."""
_NONE = "None"


@dataclass(frozen=True)
class Expected:
    """Metadata of an annotated type: how messages and `gansdk plugins NAME` call what it takes."""

    words: str
    """As in "weight=0 must be a finite number above zero"."""
    otherwise: str = ""
    """What to do instead of giving such a value: "to do without, leave it out"."""


@dataclass(frozen=True)
class _Kind:
    """What a plain annotation takes."""

    one: tuple[str, ...]
    """How messages call its alternatives."""
    several: str
    type: Any
    """The annotation, as pydantic reads it: strict, and numbers of any library become Python's own."""
    otherwise: str = ""
    choices: tuple[Any, ...] = ()
    """Of literals."""


def fitting(
    function: Callable[..., Any], given: Mapping[str, Any], *, whose: str = "", error: type[GansdkError] = InvalidOption
) -> dict[str, Any]:
    """The values, each as the annotation of the parameter of its name wants it.

    Plain annotations are numbers, bool, str, Path, Literal, None, callables, and sequences, mappings and unions of
    those; `Annotated` adds bounds and whatever else pydantic knows. A value of numpy comes back as Python's own, and a
    list as a tuple where one is wanted: JSON has none. What is annotated otherwise, or not at all, is not looked at,
    and a default always fits. A value that came out of here goes through unchanged.

    `whose` begins the message: "The pruner 'one-step'".

    Raises:
        InvalidOption: a value is of another type, or out of bounds; or `error`, if that is given.
    """
    wanted, defaults = annotations_of(function), defaults_of(function)
    fitted = dict(given)
    for name, value in given.items():
        if name not in wanted or (name in defaults and value is defaults[name]):
            continue
        try:
            fitted[name] = fit(wanted[name], value, name, may_be_left_out=defaults.get(name, ...) is None)
        except InvalidOption as refusal:
            raise error(f"{whose}: {refusal}" if whose else str(refusal)) from None
    return fitted


def fit(annotation: Any, value: Any, name: str, *, may_be_left_out: bool = False) -> Any:
    """The value as an annotation wants it; itself where the annotation is not plain.

    `may_be_left_out`: the default is None, so that messages need not speak of None.

    Raises:
        InvalidOption: the value is of another type, or out of bounds.
    """
    kind, validate = _checks(annotation)
    if kind is None:
        return value
    try:
        return validate(value)
    except ValueError as error:
        raise InvalidOption(f"{name}={quoted(value)}{_refusal(kind, value, error, may_be_left_out)}") from None


def bounds_of(metadata: Sequence[Any]) -> str:
    """The bounds of an annotated number, by pydantic's Field or by annotated_types: ">= 0 and <= 1"; "" for none."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    plain = [one for item in metadata for one in getattr(item, "metadata", None) or [item]]
    bounds = [(sign, getattr(one, name, None)) for one in plain for name, sign in signs.items()]
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds if isinstance(bound, (int, float)))


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


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What the parameters are where they are left out; a function without a signature does not say."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def _checks(annotation: Any) -> tuple[_Kind | None, Callable[[Any], Any]]:
    """What an annotation takes, and the check; None where it is not plain, or pydantic knows nothing of it."""
    try:
        return _known_checks(annotation)
    except TypeError:  # its metadata cannot be hashed
        return _known_checks.__wrapped__(annotation)


@functools.lru_cache(maxsize=1024)
def _known_checks(annotation: Any) -> tuple[_Kind | None, Callable[[Any], Any]]:
    if (kind := _kind_of(annotation)) is not None:
        from pydantic import TypeAdapter

        try:
            return kind, TypeAdapter(kind.type).validate_python
        except Exception:  # a stranger's metadata may be any object
            pass
    return None, lambda value: value


def _refusal(kind: _Kind, value: Any, error: ValueError, may_be_left_out: bool) -> str:
    """What is wrong, behind the option and its value."""
    if reason := _reason(error):
        return f": {reason}."
    if len(kind.choices) == len(kind.one):
        choices = [choice for choice in kind.choices if not (choice is None and may_be_left_out)]
        texts = [choice for choice in choices if isinstance(choice, str)]
        hint = suggestion(value, texts) if isinstance(value, str) and len(value) < _LONGEST_NAME else ""
        return f" is not known; choose one of {', '.join(map(repr, choices))}.{hint}"
    alternatives = [word for word in kind.one if word != _NONE] or [_NONE]
    advice = f"; {kind.otherwise}" if kind.otherwise else ""
    if _NONE in kind.one:
        advice = "; to do without, omit it" if may_be_left_out else "; to do without, give None"
    return f" must be {_or(alternatives)}{advice}."


def _reason(error: ValueError) -> str:
    """What a check that has no words of ours says itself; "" where the expected type explains it."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return ""
    found = error.errors(include_url=False, include_input=False)[0]
    if found["type"] in _EXPLAINED:
        return ""
    try:
        return one_line(str(found.get("ctx", {}).get("error", found["msg"]))).rstrip(".")
    except Exception:  # a stranger's error without words
        return ""


_EXPLAINED = frozenset("callable_type none_required greater_than greater_than_equal less_than less_than_equal".split())
"""Errors of pydantic that the words of the type say all about; our own checks raise ValueErrors without words."""


def _kind_of(annotation: Any) -> _Kind | None:
    """What an annotation takes; None if it is not plain."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _refined(*arguments)
    if origin in (Union, types.UnionType):
        return _any_of([_kind_of(argument) for argument in arguments])
    if origin is Literal:
        named = tuple(repr(choice) for choice in arguments)
        return _Kind(named, _or(named), _plain(_one_of(arguments)), choices=arguments)
    container = origin or annotation
    if container is collections.abc.Callable:
        return _Kind(("a function",), "functions", Callable)
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        return _row([_kind_of(argument) for argument in arguments])
    if container in (list, tuple, Sequence):
        return _listed(tuple if container is tuple else Sequence, _kind_of(arguments[0]) if arguments else None)
    if container in (dict, Mapping):
        return _mapped(*(map(_kind_of, arguments) if arguments else (None, None)))
    return next((kind() for known, kind in _SIMPLE.items() if annotation is known), None)


def _refined(base: Any, *metadata: Any) -> _Kind | None:
    """A type with bounds, and whatever else pydantic makes of the metadata."""
    kind = _kind_of(base)
    expected = next((one for one in reversed(metadata) if isinstance(one, Expected)), None)
    if kind is None and (expected is None and not any(map(_is_check, metadata))):
        return None
    kind = kind or _Kind(("a value that its check accepts",), "values that its check accepts", Any)
    for one in metadata:
        kind = replace(kind, type=Annotated[kind.type, one])
    if expected is not None:
        return _Kind((expected.words,), f"each {expected.words}", kind.type, expected.otherwise)
    bounds = bounds_of(metadata)
    if not bounds:
        return kind
    words = tuple(word if word == _NONE else f"{word} {bounds}" for word in kind.one)
    return _Kind(words, f"{kind.several} {bounds}", kind.type)


def _is_check(metadata: Any) -> bool:
    return hasattr(metadata, "__get_pydantic_core_schema__")


def _any_of(kinds: Sequence[_Kind | None]) -> _Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    return _Kind(
        sum((kind.one for kind in known), ()),
        _or([kind.several for kind in known]),
        Union[tuple(kind.type for kind in known)],  # noqa: UP007 - they are known at run time only
        choices=sum((kind.choices or ((None,) if kind.one == (_NONE,) else ()) for kind in known), ()),
    )


def _row(kinds: Sequence[_Kind | None]) -> _Kind:
    """A tuple of so many."""
    words = ", ".join("anything" if kind is None else _or(kind.one) for kind in kinds)
    items = tuple(Any if kind is None else kind.type for kind in kinds)
    check = functools.partial(_items, length=len(kinds))
    return _Kind(
        (f"a list of {len(kinds)} ({words})",),
        f"lists of {len(kinds)} ({words})",
        _before(check, types.GenericAlias(tuple, items)),
    )


def _listed(container: Any, items: _Kind | None) -> _Kind:
    of = "" if items is None else f" of {items.several}"
    inner = Any if items is None else items.type
    type_ = types.GenericAlias(container, (inner, ...) if container is tuple else inner)
    return _Kind((f"a list{of}",), f"lists{of}", _before(_items, type_))


def _mapped(keys: _Kind | None, values: _Kind | None) -> _Kind:
    inner = tuple(Any if kind is None else kind.type for kind in (keys, values))
    of = "" if keys is None or values is None else f" of {keys.several} to {values.several}"
    return _Kind((f"a mapping{of}",), f"mappings{of}", _before(_of(Mapping), types.GenericAlias(dict, inner)))


def _items(value: Any, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
        raise ValueError
    if length is not None and len(value) != length:
        raise ValueError
    return value


def _of(kind: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return check


def _one_of(choices: Sequence[Any]) -> Callable[[Any], Any]:
    """One of the choices: unlike pydantic's, not True for 1, nor 1.0."""

    def check(value: Any) -> Any:
        plain = plain_number(value)
        for choice in choices:
            alike = isinstance(plain, type(choice)) and isinstance(plain, bool) == isinstance(choice, bool)
            if alike and plain == choice:
                return choice
        raise ValueError

    return check


def _number(kind: type) -> Callable[[Any], Any]:
    """A number, if an integer of fewer digits than Python refuses to print."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError
        number = plain_number(value)
        if isinstance(number, int) and number.bit_length() > MOST_BITS:
            raise ValueError
        return number

    return check


def _before(check: Callable[[Any], Any], annotation: Any) -> Any:
    from pydantic import BeforeValidator

    return Annotated[annotation, BeforeValidator(check)]


def _plain(check: Callable[[Any], Any]) -> Any:
    from pydantic import PlainValidator

    return Annotated[Any, PlainValidator(check)]


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


_SIMPLE: dict[Any, Callable[[], _Kind]] = {
    int: lambda: _Kind(("an integer",), "integers", _plain(_number(Integral))),
    float: lambda: _Kind(("a number",), "numbers", _plain(_number(Real))),
    bool: lambda: _Kind(("true or false",), "true or false", _plain(_of(bool))),
    str: lambda: _Kind(("text",), "texts", _plain(_of(str))),
    Path: lambda: _Kind(("a path",), "paths", _plain(_of(Path))),
    None: lambda: _Kind((_NONE,), _NONE, None),
    type(None): lambda: _Kind((_NONE,), _NONE, None),
}
