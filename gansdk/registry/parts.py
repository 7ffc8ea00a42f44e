"""Parts: from a name with options, or an instance, to what a run works with."""

from __future__ import annotations

import inspect as introspection
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gansdk.errors import GansdkError, InvalidOption, PluginLoadError
from gansdk.interfaces import AUTO, Adapter, Distiller, Metric, Pruner
from gansdk.registry.discovery import registry
from gansdk.registry.distributions import FIRST_PARTY
from gansdk.registry.isolation import failed, left_out, mark
from gansdk.registry.origins import Origin, origin_of, passes
from gansdk.registry.records import DEPTH, said
from gansdk.text import quoted
from gansdk.validation.json_fields import read_json
from gansdk.validation.signatures import defaults_of, fitting


def open_adapter(adapter: str | Mapping[str, Any] | Adapter) -> Adapter:
    """An adapter from its name, from {"name": ..., option: value}, or itself."""
    made = open_part("adapter", adapter, Adapter)
    assert isinstance(made, Adapter)
    asked = adapter if isinstance(adapter, str) else adapter["name"] if isinstance(adapter, Mapping) else None
    if asked is not None and made.name != (known := registry().spec("adapter", asked).name):
        raise PluginLoadError(
            f"The adapter {known!r} calls itself {made.name!r}, so what its spec says would not be found. Give the "
            f"class {type(made).__name__} the spec's name."
        )
    return made


def open_adapters(adapter: str | Mapping[str, Any] | Adapter) -> dict[str, Adapter]:
    """Name -> adapter: every installed one for "auto", else the one that is given."""
    if isinstance(adapter, str) and adapter == "auto":
        opened: dict[str, Adapter] = {}
        for name in registry().names("adapter"):
            entry = registry().find("adapter", name)
            who, of = f"adapter {name!r}", f"{entry.origin} {entry.version}"
            with left_out(who, of, is_ours=entry.origin == FIRST_PARTY):
                opened[name] = open_adapter(name)
        return opened
    made = open_adapter(adapter)
    return {made.name or type(made).__name__: made}


def open_pruner(pruner: str | Mapping[str, Any] | Pruner) -> Pruner:
    """A pruner from its name, from {"name": ..., option: value}, or itself."""
    made = open_part("pruner", pruner, Pruner)
    assert isinstance(made, Pruner)
    return made


def open_distillers(distiller: Any) -> list[Distiller]:
    """Distillers from a name, a mapping, an instance, or a list of them; [] for None."""
    if distiller is None:
        return []
    made = [open_part("distiller", item, Distiller) for item in listed(distiller)]
    return [item for item in made if isinstance(item, Distiller)]


def asks_auto(distiller: Any) -> bool:
    """Whether the family and its teacher shall say what a student learns from: "auto", alone and without options.

    Raises:
        InvalidOption: it stands beside other distillers, or has options.
    """
    names = [item.get("name") if isinstance(item, Mapping) else item for item in listed(distiller)]
    if not any(isinstance(name, str) and name == AUTO for name in names):
        return False
    if len(names) > 1:
        raise InvalidOption(
            f"distiller={quoted(distiller)}: 'auto' chooses all distillers of a run. Leave the others out, or name all "
            "that you want in its place."
        )
    only = listed(distiller)[0]
    if isinstance(only, Mapping) and len(only) > 1:
        raise InvalidOption(
            f"distiller={quoted(distiller)}: 'auto' has no options. Name the distiller whose option you want to set."
        )
    return True


def open_metrics(metrics: Any) -> list[Metric]:
    """Metrics from a name, a mapping, an instance, or a list of them."""
    made = [open_part("metric", item, Metric) for item in listed(metrics)]
    return [item for item in made if isinstance(item, Metric)]


def listed(asked: Any) -> Sequence[Any]:
    """What was asked for as a list; one thing alone is a list of one."""
    return asked if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]


def name_of(part: Any) -> str:
    """The name that a part was requested by; "" for an instance."""
    name = part.get("name") if isinstance(part, Mapping) else part
    return name if isinstance(name, str) else ""


def open_part(kind: Any, asked: Any, base: type) -> object:
    """A part from its name, from {"name": ..., option: value}, or itself."""
    if isinstance(asked, base):
        for part in _parts(asked):
            mark(part, origin_of(part))
        return asked
    options = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise GansdkError(
            f"{kind}={quoted(asked)} is neither a name, nor {{'name': ..., option: value}}, nor a {base.__name__}."
        )
    return instantiate(kind, name, registry().load(kind, name), options, base)


def instantiate(
    kind: Any,
    name: str,
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    base: type,
    known: Mapping[str, Any] | None = None,
) -> object:
    """What a factory makes of the options that were given, and of those that are `known` without; it knows its origin.

    Raises:
        InvalidOption: it has no such option, or refuses a value.
        PluginLoadError: it makes something else.
        PluginFailed: it raised anything but an error of ours.
    """
    known = known or {}
    entry = registry().find(kind, name)
    # Recorded as users gave them and before the factory has them, which gets copies: it may change what it is given.
    asked = {**defaults_of(factory), **options}
    origin = Origin(
        kind=kind,
        name=entry.spec.name,
        plugin=entry.origin,
        version=entry.version,
        options={name: said(value) for name, value in asked.items() if name not in known},
    )
    with _whose_fault(origin, "the check of its options"):
        given = _fitting_options(kind, name, factory, {**known, **options})
    with _whose_fault(origin, "its factory"):
        try:
            made = factory(**{name: _copied(value) for name, value in given.items()})
        except InvalidOption as error:  # several parts may have an option of that name
            raise InvalidOption(f"The {kind} {name!r}: {error}") from error
    if not isinstance(made, base):
        raise PluginLoadError(f"The factory of {origin} made a {type(made).__name__}, not a {base.__name__}.")
    for part in _parts(made):
        mark(part, origin)
    return made


@contextmanager
def _whose_fault(origin: Origin, what: str) -> Iterator[None]:
    """Name the plugin in whatever a stranger's code raises."""
    try:
        yield
    except BaseException as error:
        if passes(error) or origin.plugin == FIRST_PARTY:
            raise
        raise failed(origin, what, error) from error


def _parts(made: object) -> Sequence[object]:
    """A part, and what a distiller is made of."""
    own = (*made.terms, made.regime) if isinstance(made, Distiller) else ()
    return (made, *(part for part in own if part is not None))


def _copied(value: Any, depth: int = DEPTH) -> Any:
    """Lists and mappings anew, and those inside them; whatever else they hold stays the very same."""
    if not depth:
        return value
    if type(value) is dict:
        return {key: _copied(item, depth - 1) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_copied(item, depth - 1) for item in value)
    return value


def _fitting_options(kind: str, name: str, factory: Callable[..., Any], options: Mapping[Any, Any]) -> dict[str, Any]:
    """Options that exist, of the types that the factory states, and all that have no default.

    A factory without a signature is simply called.
    """
    if strange := [option for option in options if not isinstance(option, str)]:
        raise InvalidOption(f"The {kind} {name!r} has no option {quoted(strange[0])}: the names of options are text.")
    try:
        parameters = introspection.signature(factory).parameters
    except (TypeError, ValueError):
        return dict(options)
    named = {option: p for option, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in named and not takes_any:
            raise InvalidOption(
                f"The {kind} {name!r} has no option {quoted(option)}. Its options: {', '.join(named) or 'none'}."
            )
    missing = [option for option, p in named.items() if p.default is p.empty and option not in options]
    if missing:
        raise InvalidOption(
            f"The {kind} {name!r} has no default for {', '.join(missing)}. Pass {{'name': {name!r}, "
            f"{missing[0]!r}: value}}."
        )
    return fitting(factory, options, whose=f"The {kind} {name!r}")


def from_json(given: Any, option: str) -> Any:
    """The mapping of a command line's JSON text; anything else as it is.

    Raises:
        InvalidOption: it begins as one, but is none.
    """
    if not isinstance(given, str) or not given.lstrip().startswith("{"):
        return given
    try:
        return read_json(given)
    except ValueError as error:
        raise InvalidOption(
            f'{option}={quoted(given)} is not valid JSON: {error}. Write {{"key": "value", ...}}.'
        ) from error


def takes(factory: Callable[..., Any], option: str) -> bool:
    """Whether a factory has such an option, or takes any; one without a signature is given all."""
    try:
        parameters = introspection.signature(factory).parameters
    except (TypeError, ValueError):
        return True
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
