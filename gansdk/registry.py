"""Finding plugins, keeping a broken one from breaking the rest, and looking parts up by name. Torch-free."""

from __future__ import annotations

import functools
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, cast, get_args, overload

import pluggy

from gansdk import hooks
from gansdk.errors import (
    AmbiguousPlugin,
    GansdkError,
    InvalidSpec,
    PluginLoadError,
    PluginNotFound,
    PluginWarning,
    quoted,
    suggestion,
)
from gansdk.events import Event
from gansdk.specs import PLUGIN_API, AdapterSpec, DistillerSpec, MetricSpec, PrunerSpec, SourceSpec, Spec

Kind = Literal["adapter", "pruner", "distiller", "source", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FIRST_PARTY = "gansdk"

_SPECS: dict[Kind, type[Spec]] = {
    "adapter": AdapterSpec,
    "pruner": PrunerSpec,
    "distiller": DistillerSpec,
    "source": SourceSpec,
    "metric": MetricSpec,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One part that a plugin offers."""

    kind: Kind
    spec: Spec
    origin: str
    """The distribution, or the name given to `Registry.register`."""
    plugin: str
    """`"distribution:entry-point"`, or the origin alone for what was registered in code."""
    version: str = ""

    @property
    def identity(self) -> str:
        """`"distribution:name"`, which always finds it."""
        return f"{self.origin}:{self.spec.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A plugin that offers nothing, and why."""

    plugin: str
    reason: str
    version: str = ""
    error: BaseException | None = None
    """What it raised; None if it was blocked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of `gansdk plugins`."""

    kind: str
    """Of `KINDS`; "plugin" for a whole plugin that was skipped."""
    name: str
    origin: str
    version: str
    status: str
    """"ok", "blocked", "shadowed: ...", "ambiguous: ..." or "broken: ..."."""
    summary: str


class Registry:
    """The parts that installed plugins offer, found on first use.

    `block` and `only` hold distributions ("acme-gan"), plugins ("acme-gan:entry-point") or parts
    ("acme-gan:slim"). `only` limits installed third parties; an empty one leaves the built-in parts. With `strict`
    the first plugin that fails raises PluginLoadError instead of giving a PluginWarning.
    """

    def __init__(
        self,
        *,
        block: Iterable[str] = (),
        only: Iterable[str] | None = None,
        strict: bool = False,
        discover: bool = True,
    ) -> None:
        self._block = frozenset(map(_canonical, block))
        self._only = None if only is None else frozenset(map(_canonical, only))
        self._strict = strict
        self._entries: list[Entry] = []
        self._skipped: list[Skipped] = []
        self._observers: dict[str, object] = {}
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._undiscovered = discover

    @classmethod
    def isolated(cls, *, strict: bool = False) -> Registry:
        """A registry for tests: it never looks at what is installed and holds only what is registered."""
        return cls(strict=strict, discover=False)

    @classmethod
    def from_environment(cls) -> Registry:
        """Settings from GANSDK_BLOCK_PLUGINS, GANSDK_PLUGINS (comma-separated) and GANSDK_STRICT_PLUGINS=1."""
        only = os.environ.get("GANSDK_PLUGINS")
        return cls(
            block=_words(os.environ.get("GANSDK_BLOCK_PLUGINS", "")),
            only=None if only is None else _words(only),
            strict=os.environ.get("GANSDK_STRICT_PLUGINS", "") not in ("", "0"),
        )

    @property
    def broken(self) -> tuple[Skipped, ...]:
        """Plugins that failed, each with its exception."""
        self._discover()
        return tuple(skipped for skipped in self._skipped if skipped.error is not None)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """The shortest name that finds each part: bare where it is unique, else "distribution:name"."""
        return tuple(self._shortest(entry) for entry in self._usable(kind))

    @overload
    def specs(self, kind: Literal["adapter"]) -> dict[str, AdapterSpec]: ...
    @overload
    def specs(self, kind: Literal["pruner"]) -> dict[str, PrunerSpec]: ...
    @overload
    def specs(self, kind: Literal["distiller"]) -> dict[str, DistillerSpec]: ...
    @overload
    def specs(self, kind: Literal["source"]) -> dict[str, SourceSpec]: ...
    @overload
    def specs(self, kind: Literal["metric"]) -> dict[str, MetricSpec]: ...
    def specs(self, kind: Kind) -> dict[str, Any]:
        """Shortest name -> spec, built-in parts first; adapters in the order they are asked for a module."""
        return {self._shortest(entry): entry.spec for entry in self._usable(kind)}

    @overload
    def spec(self, kind: Literal["adapter"], name: str) -> AdapterSpec: ...
    @overload
    def spec(self, kind: Literal["pruner"], name: str) -> PrunerSpec: ...
    @overload
    def spec(self, kind: Literal["distiller"], name: str) -> DistillerSpec: ...
    @overload
    def spec(self, kind: Literal["source"], name: str) -> SourceSpec: ...
    @overload
    def spec(self, kind: Literal["metric"], name: str) -> MetricSpec: ...
    def spec(self, kind: Kind, name: str) -> Any:
        """What the part says about itself; raises as `find` does."""
        return self.find(kind, name).spec

    def listing(self) -> tuple[Row, ...]:
        """Everything that was found, usable or not."""
        self._discover()
        parts = [
            Row(
                kind=entry.kind,
                name=entry.spec.name,
                origin=entry.origin,
                version=entry.version,
                status=self._status(entry),
                summary=entry.spec.summary,
            )
            for kind in KINDS
            for entry in self._entries
            if entry.kind == kind
        ]
        whole = [
            Row(
                kind="plugin",
                name=skipped.plugin.partition(":")[2],
                origin=skipped.plugin.partition(":")[0],
                version=skipped.version,
                status=f"broken: {skipped.reason}" if skipped.error else "blocked",
                summary="",
            )
            for skipped in self._skipped
        ]
        return (*parts, *whole)

    def find(self, kind: Kind, name: str) -> Entry:
        """The part called `name`, bare or as "distribution:name".

        A bare name that a built-in part has means that part.

        Raises:
            PluginNotFound: nothing usable has the name; nearest names and skipped plugins are in the message.
            AmbiguousPlugin: several third parties offer the name.
        """
        usable = self._usable(kind)
        if ":" in name:
            found = [entry for entry in usable if _canonical(name) == entry.identity]
        else:
            found = _bare(usable, name)
        if not found:
            raise PluginNotFound(self._not_found(kind, name))
        if len(found) > 1:
            choices = ", ".join(entry.identity for entry in found)
            raise AmbiguousPlugin(f"{kind} {name!r} is offered by several plugins; pick one of: {choices}")
        return found[0]

    def load(self, kind: Kind, name: str) -> Callable[..., Any]:
        """Import the factory of the part called `name`; nobody else's code is imported.

        Raises:
            PluginLoadError: its module cannot be imported or lacks the factory.
            PluginNotFound, AmbiguousPlugin: as `find` does.
        """
        entry = self.find(kind, name)
        what = f"{kind} {entry.spec.name!r} of {entry.origin}"
        try:
            factory = pkgutil.resolve_name(entry.spec.factory)
        except ModuleNotFoundError as error:
            raise PluginLoadError(_missing_module(what, entry, error.name or "")) from error
        except Exception as error:  # a stranger's module may raise anything at import
            raise PluginLoadError(f"{what}: {entry.spec.factory} cannot be imported: {_in_words(error)}") from error
        if not callable(factory):
            raise PluginLoadError(f"{what}: {entry.spec.factory} is a {type(factory).__name__}, which makes nothing.")
        return cast("Callable[..., Any]", factory)

    def register(self, module: object, name: str = "local") -> None:
        """Add the hooks of a module or object under the origin `name`, after all installed plugins.

        Raises:
            PluginLoadError: it is no valid plugin, or the name is taken.
        """
        self._discover()
        origin = _canonical(name)
        try:
            self._add(module, plugin=origin, version="")
        except Exception as error:  # a stranger's hook may raise anything
            raise PluginLoadError(f"{name!r} cannot be registered: {_in_words(error)}") from error

    def unregister(self, name: str = "local") -> None:
        """Forget what `register` added under `name`; nothing happens if there is no such plugin."""
        self._drop(_canonical(name))

    def emit(self, event: Event) -> None:
        """Tell all observers. One that raises is reported as a PluginWarning and not asked again.

        Raises:
            PluginLoadError: an observer raised and the registry is strict.
        """
        self._discover()
        for plugin, module in list(self._observers.items()):
            try:
                self._hook_of("gansdk_event", module)(event=event)
            except Exception as error:  # an observer must not stop a run
                del self._observers[plugin]
                self._report(f"The observer {plugin} failed and is not asked again: {_in_words(error)}", error)

    def _discover(self) -> None:
        if not self._undiscovered:
            return
        self._undiscovered = False
        for point in sorted(entry_points(group=hooks.PROJECT), key=_order):
            self._discover_one(point)
        # Only now: a warning may be turned into an error, and the rest must be there all the same.
        for skipped in self.broken:
            self._report(f"The plugin {skipped.plugin} is skipped: {skipped.reason}", skipped.error)

    def _discover_one(self, point: EntryPoint) -> None:
        plugin = f"{_origin(point)}:{point.name}"
        version = point.dist.version if point.dist else ""
        if self._is_blocked_whole(plugin):
            self._skipped.append(Skipped(plugin=plugin, reason="blocked", version=version))
            return
        try:
            self._add(point.load(), plugin=plugin, version=version)
        except (Exception, SystemExit) as error:  # a stranger's module may do anything at import
            self._skipped.append(Skipped(plugin=plugin, reason=_in_words(error), version=version, error=error))

    def _add(self, module: object, *, plugin: str, version: str) -> None:
        """All of a plugin's parts or, if anything about it is wrong, none."""
        self._manager.register(module, name=plugin)
        try:
            self._manager.check_pending()
            if not self._manager.get_hookcallers(module):
                raise InvalidSpec("it has no hook; decorate its functions with @gansdk.hookimpl.")
            entries = [entry for kind in KINDS for entry in self._offered(kind, module, plugin, version)]
            self._check_unique(entries)
        except BaseException:
            self._drop(plugin)
            raise
        self._entries += entries
        if _has_hook(self._manager, module, "gansdk_event"):
            self._observers[plugin] = module

    def _drop(self, plugin: str) -> None:
        if self._manager.has_plugin(plugin):
            self._manager.unregister(name=plugin)
        self._entries = [entry for entry in self._entries if entry.plugin != plugin]
        self._observers.pop(plugin, None)

    def _hook_of(self, hook: str, module: object) -> Callable[..., Any]:
        """The hook, answered by one plugin only."""
        return self._manager.subset_hook_caller(hook, remove_plugins=self._manager.get_plugins() - {module})

    def _offered(self, kind: Kind, module: object, plugin: str, version: str) -> list[Entry]:
        hook = f"gansdk_{kind}s"
        # Exhausted here: a hook may be a generator that fails half way.
        specs = [spec for answer in self._hook_of(hook, module)() for spec in answer]
        for spec in specs:
            if not isinstance(spec, _SPECS[kind]):
                raise InvalidSpec(f"{hook} gave {spec!r}; it takes only {_SPECS[kind].__name__}.")
            if note := check_api(spec):
                warnings.warn(f"{plugin}: {note}", PluginWarning, stacklevel=2)
        origin = plugin.partition(":")[0]
        return [Entry(kind=kind, spec=spec, origin=origin, plugin=plugin, version=version) for spec in specs]

    def _check_unique(self, entries: Sequence[Entry]) -> None:
        taken = {(entry.kind, entry.identity) for entry in self._entries}
        for entry in entries:
            if (entry.kind, entry.identity) in taken:
                raise InvalidSpec(f"{entry.origin} offers the {entry.kind} {entry.spec.name!r} twice; rename one.")
            taken.add((entry.kind, entry.identity))

    def _report(self, message: str, error: BaseException | None) -> None:
        if self._strict:
            raise PluginLoadError(message) from error
        warnings.warn(message, PluginWarning, stacklevel=2)

    def _is_blocked_whole(self, plugin: str) -> bool:
        origin = plugin.partition(":")[0]
        if {origin, plugin} & self._block:
            return True
        if self._only is None or origin == FIRST_PARTY:
            return False
        return not any(item == origin or item.startswith(f"{origin}:") for item in self._only)

    def _is_blocked(self, entry: Entry) -> bool:
        names = {entry.origin, entry.plugin, entry.identity}
        if names & self._block:
            return True
        if self._only is None or entry.origin == FIRST_PARTY or entry.plugin == entry.origin:
            return False
        return not names & self._only

    def _usable(self, kind: Kind) -> list[Entry]:
        self._discover()
        found = [entry for entry in self._entries if entry.kind == kind and not self._is_blocked(entry)]
        return _detection_order(found) if kind == "adapter" else found

    def _shortest(self, entry: Entry) -> str:
        found = _bare(self._usable(entry.kind), entry.spec.name)
        return entry.spec.name if found == [entry] else entry.identity

    def _status(self, entry: Entry) -> str:
        if self._is_blocked(entry):
            return "blocked"
        found = _bare(self._usable(entry.kind), entry.spec.name)
        if found == [entry]:
            return "ok"
        state = "ambiguous" if entry in found else f"shadowed by {found[0].origin}"
        return f"{state}: use {entry.identity}"

    def _not_found(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        available = f" Available: {', '.join(names)}." if names else f" No {kind} is available."
        reasons = [f"{skipped.plugin} ({skipped.reason})" for skipped in self._skipped]
        reasons += [f"{entry.identity} (blocked)" for entry in self._entries if self._is_blocked(entry)]
        skipped = f" Skipped: {'; '.join(reasons)}." if reasons else ""
        return f"No {kind} is called {quoted(name)}.{suggestion(name, names)}{available}{skipped}"


@functools.cache
def registry() -> Registry:
    """The registry of this process, with its settings from the environment."""
    return Registry.from_environment()


def emit(event: Event) -> None:
    """Tell the observers among the installed plugins."""
    registry().emit(event)


def check_api(spec: Spec, *, offered: int = PLUGIN_API) -> str:
    """A warning in words if the spec was written for the version before; empty if it is current.

    Raises:
        InvalidSpec: it was written for a newer version, or one that is no longer supported.
    """
    if spec.api > offered:
        raise InvalidSpec(f"{spec.name!r} needs plugin API {spec.api}; this gansdk has {offered}. Upgrade gansdk.")
    if spec.api < offered - 1:
        raise InvalidSpec(f"{spec.name!r} is for plugin API {spec.api}; this gansdk has {offered}. Upgrade the plugin.")
    if spec.api < offered:
        return f"{spec.name!r} is for plugin API {spec.api} of {offered}; the next gansdk will refuse it."
    return ""


def _bare(entries: Sequence[Entry], name: str) -> list[Entry]:
    """Who a bare name means: the built-in part if there is one, else all that have it."""
    found = [entry for entry in entries if entry.spec.name == name]
    return [entry for entry in found if entry.origin == FIRST_PARTY] or found


def _detection_order(entries: Sequence[Entry]) -> list[Entry]:
    """The same order, but each adapter ahead of those it names in `before`; a circle keeps the order given."""
    waiting, ordered = list(entries), list[Entry]()
    while waiting:
        free = (entry for entry in waiting if not any(_goes_before(other, entry) for other in waiting))
        entry = next(free, waiting[0])
        waiting.remove(entry)
        ordered.append(entry)
    return ordered


def _goes_before(one: Entry, other: Entry) -> bool:
    return isinstance(one.spec, AdapterSpec) and one is not other and other.spec.name in one.spec.before


def _has_hook(manager: pluggy.PluginManager, module: object, hook: str) -> bool:
    return any(caller.name == hook for caller in manager.get_hookcallers(module) or ())


def _missing_module(what: str, entry: Entry, missing: str) -> str:
    own = entry.spec.factory.partition(":")[0]
    if own == missing or own.startswith(f"{missing}."):
        return f"{what}: its module {own!r} does not exist (no module {missing!r}); the plugin's spec is wrong."
    return f"{what} needs {missing!r}, which is not installed: pip install {entry.spec.install or missing}"


def _in_words(error: BaseException) -> str:
    """One line; our own errors explain themselves, others need their class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GansdkError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _order(point: EntryPoint) -> tuple[bool, str, str]:
    """Built-in parts first, then by name: the order of installation never matters."""
    return (_origin(point) != FIRST_PARTY, _origin(point), point.name)


def _origin(point: EntryPoint) -> str:
    return _canonical(point.dist.name) if point.dist else "unknown"


def _canonical(name: str) -> str:
    """Distribution names compare as package indexes compare them: Acme_GAN is acme-gan."""
    origin, colon, rest = name.strip().partition(":")
    return re.sub(r"[-_.]+", "-", origin).lower() + colon + rest


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
