"""What there is to know of a part before it is used: its options with types and defaults, its paper and its needs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from gansdk.errors import AmbiguousPlugin, PluginNotFound
from gansdk.registry.discovery import KINDS, Registry
from gansdk.text import quoted
from gansdk.validation.signatures import annotations_of, bounds_of

BY_THE_RUN = frozenset({"contract", "degrade", "default_patch", "split"})
"""Parameters of sources that the run fills in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a part."""

    name: str
    type: str
    """As the factory annotates it; "" if it does not."""
    default: str
    """"" where it must be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A part as `gansdk plugins NAME` shows it."""

    kind: str
    name: str
    origin: str
    version: str
    summary: str
    source: str
    """Paper or address."""
    needs: tuple[str, ...]
    provides: tuple[str, ...]
    options: tuple[Option, ...]
    about: str
    """The docstring of the factory."""


def descriptions(plugins: Registry, name: str) -> list[Description]:
    """Every usable part of that name ("name" or "distribution:name"), of whatever kind; imports them."""
    parts = []
    for kind in KINDS:
        try:
            entry = plugins.find(kind, name)
        except (PluginNotFound, AmbiguousPlugin):
            continue
        factory = plugins.load(kind, name)
        parts.append(
            Description(
                kind=kind,
                name=entry.spec.name,
                origin=entry.origin,
                version=entry.version,
                summary=entry.spec.summary,
                source=entry.spec.source,
                needs=tuple(sorted(entry.spec.needs)),
                provides=tuple(sorted(getattr(entry.spec, "provides", ()))),
                options=options_of(factory),
                about=_about(factory),
            )
        )
    return parts


def _about(factory: Callable[..., Any]) -> str:
    while isinstance(factory, functools.partial):
        factory = factory.func
    try:
        return str(inspect.getdoc(factory) or "")
    except Exception:  # a stranger's __doc__
        return ""


def options_of(factory: Callable[..., Any]) -> tuple[Option, ...]:
    """The options of a factory by its signature; none where it has no signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except Exception:  # a stranger's __signature__ may be any code
        return ()
    types = annotations_of(factory)
    named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    return tuple(
        Option(name=one.name, type=_type_of(types.get(one.name, one.annotation)), default=_default_of(one))
        for one in named
        if one.name not in BY_THE_RUN
    )


def _type_of(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    try:
        return _written(annotation)
    except Exception:  # a stranger's __repr__
        return type(annotation).__name__


def _written(annotation: Any) -> str:
    """A type as Python writes it, with the bounds of numbers instead of what checks them: "int >= 1 | None"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is Annotated:
        return " ".join(filter(None, (_written(arguments[0]), bounds_of(arguments[1:]))))
    if origin in (Union, UnionType):
        return " | ".join(map(_written, arguments))
    if origin in (Sequence, Mapping, list, tuple, dict) and arguments:
        return f"{origin.__name__}[{', '.join(map(_written, arguments))}]"
    return inspect.formatannotation(annotation).replace("collections.abc.", "")


def _default_of(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is parameter.empty else quoted(parameter.default)
