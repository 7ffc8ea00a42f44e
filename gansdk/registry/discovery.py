"""Finding plugins, keeping a broken one from breaking the rest, and looking parts up by name. Torch-free."""

from __future__ import annotations

import functools
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any, Literal, cast, get_args, overload

import pluggy

from gansdk import hooks
from gansdk.errors import AmbiguousPlugin, InvalidSpec, PluginLoadError, PluginNotFound, PluginWarning, suggestion
from gansdk.events import Event
from gansdk.registry.distributions import FIRST_PARTY, Offer, Unreadable, canonical, offers
from gansdk.registry.origins import in_words, is_interruption, is_own
from gansdk.runtime.deadline import Late, within
from gansdk.specs import PLUGIN_API, AdapterSpec, DistillerSpec, MetricSpec, PrunerSpec, SourceSpec, Spec
from gansdk.text import one_line, quoted

Kind = Literal["adapter", "pruner", "distiller", "source", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)

DISCOVERY_S = 10.0
"""Seconds that the module of a plugin and its hooks may take, which name parts and import nothing heavy."""
MOST_PARTS = 100
"""Parts of one plugin, of all kinds together."""

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
    is_plugin: bool = True
    """Whether it is one for certain; other distributions with unreadable metadata are listed, but not warned of."""


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
        self._block = frozenset(map(canonical, block))
        self._only = None if only is None else frozenset(map(canonical, only))
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
        return tuple(name for name, _ in self._named(kind))

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
        return {name: entry.spec for name, entry in self._named(kind)}

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
                status=status,
                summary=entry.spec.summary,
            )
            for kind in KINDS
            for entry, status in self._statuses(kind)
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
        if ":" in name:
            matches = [entry for entry in self._usable(kind) if canonical(name) == entry.identity]
        else:
            matches = self._meant(kind).get(name, [])
        if not matches:
            raise PluginNotFound(self._not_found(kind, one_line(name, 100)))
        if len(matches) > 1:
            choices = ", ".join(entry.identity for entry in matches)
            raise AmbiguousPlugin(f"{kind} {name!r} is offered by several plugins; pick one of: {choices}")
        return matches[0]

    def load(self, kind: Kind, name: str) -> Callable[..., Any]:
        """Import the factory of the part called `name`; nobody else's code is imported.

        Raises:
            PluginLoadError: its module cannot be imported or lacks the factory.
            PluginNotFound, AmbiguousPlugin: as `find` does.
        """
        entry = self.find(kind, name)
        what = f"{kind} {entry.spec.name!r} of {' '.join(filter(None, (entry.origin, entry.version)))}"
        try:
            factory = pkgutil.resolve_name(entry.spec.factory)
        except ModuleNotFoundError as error:
            missing = one_line(error.name or in_words(error), 100)
            raise PluginLoadError(_missing_module(what, entry, missing)) from error
        except BaseException as error:  # a stranger's module may raise anything at import
            if is_interruption(error):
                raise
            raise PluginLoadError(f"{what}: {entry.spec.factory} cannot be imported: {in_words(error)}") from error
        if not callable(factory):
            raise PluginLoadError(f"{what}: {entry.spec.factory} is a {type(factory).__name__}, which is not callable.")
        return cast("Callable[..., Any]", factory)

    def owner(self, module: str) -> Entry | None:
        """The part of an installed or registered plugin that a module belongs to: the one whose factory is nearest.

        Nothing is discovered for it.
        """
        top = module.partition(".")[0]
        if is_own(module) or top in _EVERYBODYS or top in sys.stdlib_module_names:
            return None
        near = [(_shared(entry.spec.factory.partition(":")[0], module), entry) for entry in self._entries]
        steps, entry = max(near, key=lambda pair: pair[0], default=(0, None))
        return entry if steps else None

    def register(self, module: object, name: str = "local") -> None:
        """Add the hooks of a module or object under the origin `name`, after all installed plugins.

        Raises:
            PluginLoadError: it is no valid plugin, or the name is taken.
        """
        self._discover()
        origin = canonical(name)
        try:
            self._add(module, plugin=origin, version="")
        except BaseException as error:  # a stranger's hook may raise anything
            if is_interruption(error):
                raise
            raise PluginLoadError(f"{name!r} cannot be registered: {in_words(error)}") from error

    def unregister(self, name: str = "local") -> None:
        """Forget what `register` added under `name`; nothing happens if there is no such plugin."""
        self._drop(canonical(name))

    def emit(self, event: Event) -> None:
        """Tell all observers. One that raises is reported as a PluginWarning and not asked again.

        Raises:
            PluginLoadError: an observer raised and the registry is strict.
        """
        self._discover()
        for plugin, module in list(self._observers.items()):
            try:
                self._hook_of("gansdk_event", module)(event=event)
            except BaseException as error:  # an observer must not stop a run
                if is_interruption(error):
                    raise
                del self._observers[plugin]
                self._report(f"The observer {plugin} failed and is not called again: {in_words(error)}", error)

    def _discover(self) -> None:
        if not self._undiscovered:
            return
        self._undiscovered = False
        try:
            for offer in offers(hooks.PROJECT):
                self._discover_one(offer)
        except BaseException:  # Ctrl-C: the next use finds everything
            self._forget()
            raise
        # Only now: a warning may be turned into an error, and the rest must be there all the same.
        for skipped in self.broken:
            if skipped.is_plugin:
                self._report(f"The plugin {skipped.plugin} is skipped: {skipped.reason}", skipped.error)

    def _discover_one(self, offer: Offer | Unreadable) -> None:
        plugin, version = offer.plugin, offer.version
        if self._is_blocked_whole(plugin):
            self._skipped.append(Skipped(plugin=plugin, reason="blocked", version=version))
            return
        if isinstance(offer, Unreadable):
            error: BaseException = InvalidSpec(offer.reason)
            skipped = Skipped(
                plugin=plugin, reason=offer.reason, version=version, error=error, is_plugin=offer.is_plugin
            )
            self._skipped.append(skipped)
            return
        try:
            # What a module does to the filters of warnings is for itself.
            with within(DISCOVERY_S), warnings.catch_warnings():
                self._add(offer.load(), plugin=plugin, version=version)
        except Late as late:
            reason = (
                f"it took longer than {DISCOVERY_S:.0f} s; its module should only name parts and import nothing heavy"
            )
            self._skipped.append(Skipped(plugin=plugin, reason=reason, version=version, error=late))
        except BaseException as error:  # a stranger's module may do anything at import
            if is_interruption(error):
                raise
            self._skipped.append(Skipped(plugin=plugin, reason=in_words(error), version=version, error=error))

    def _forget(self) -> None:
        for plugin in {entry.plugin for entry in self._entries} | set(self._observers):
            self._drop(plugin)
        self._skipped.clear()
        self._undiscovered = True

    def _add(self, module: object, *, plugin: str, version: str) -> None:
        """All of a plugin's parts or, if anything about it is wrong, none."""
        self._manager.register(module, name=plugin)
        try:
            self._manager.check_pending()
            if not self._manager.get_hookcallers(module):
                raise InvalidSpec("it has no hook; decorate its functions with @gansdk.hookimpl.")
            offered = chain.from_iterable(self._offered(kind, module, plugin, version) for kind in KINDS)
            # Exhausted here: a hook may be a generator that fails half way, or never ends.
            entries = list(islice(offered, MOST_PARTS + 1))
            if len(entries) > MOST_PARTS:
                raise InvalidSpec(f"it offers more than {MOST_PARTS} parts; offer them in several plugins.")
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

    def _offered(self, kind: Kind, module: object, plugin: str, version: str) -> Iterator[Entry]:
        hook = f"gansdk_{kind}s"
        origin = plugin.partition(":")[0]
        for answer in self._hook_of(hook, module)():
            for offered in answer:
                if not isinstance(offered, _SPECS[kind]):
                    raise InvalidSpec(
                        f"{hook} returned a {type(offered).__name__}; only {_SPECS[kind].__name__} is allowed."
                    )
                spec = _plain(offered, _SPECS[kind])
                if note := check_api(spec):
                    warnings.warn(f"{plugin}: {note}", PluginWarning, stacklevel=2)
                yield Entry(kind=kind, spec=spec, origin=origin, plugin=plugin, version=version)

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
        entries = [entry for entry in self._entries if entry.kind == kind and not self._is_blocked(entry)]
        return _detection_order(entries) if kind == "adapter" else entries

    def _named(self, kind: Kind) -> list[tuple[str, Entry]]:
        """Every usable part with the shortest name that finds it."""
        meant = self._meant(kind)
        return [
            (entry.spec.name if meant[entry.spec.name] == [entry] else entry.identity, entry)
            for entry in self._usable(kind)
        ]

    def _meant(self, kind: Kind) -> dict[str, list[Entry]]:
        """Bare name -> whom it means: the built-in part if there is one, else all that have it."""
        by_name: dict[str, list[Entry]] = {}
        for entry in self._usable(kind):
            by_name.setdefault(entry.spec.name, []).append(entry)
        return {
            name: [entry for entry in entries if entry.origin == FIRST_PARTY] or entries
            for name, entries in by_name.items()
        }

    def _statuses(self, kind: Kind) -> Iterator[tuple[Entry, str]]:
        """Every part of a kind, usable or not, and what its row says of that."""
        meant = self._meant(kind)
        for entry in (entry for entry in self._entries if entry.kind == kind):
            entries = meant.get(entry.spec.name, [])
            if self._is_blocked(entry):
                yield entry, "blocked"
            elif entries == [entry]:
                yield entry, "ok"
            else:
                state = "ambiguous" if entry in entries else f"shadowed by {entries[0].origin}"
                yield entry, f"{state}: use {entry.identity}"

    def _not_found(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        available = f" Available: {', '.join(names)}." if names else f" No {kind} is available."
        reasons = [f"{skipped.plugin} ({skipped.reason})" for skipped in self._skipped if skipped.is_plugin]
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
    module = entry.spec.factory.partition(":")[0]
    if module == missing or module.startswith(f"{missing}."):
        return f"{what}: its module {module!r} does not exist (no module {missing!r}); the plugin's spec is wrong."
    return f"{what} needs {missing!r}, which is not installed: pip install {entry.spec.install or missing}"


_EVERYBODYS = frozenset({"torch", "torchvision", "numpy", "__main__"})
"""Packages that a factory may name, but that belong to no plugin."""


def _shared(one: str, other: str) -> int:
    """Packages that two dotted names have in common, from the outermost."""
    steps = 0
    for left, right in zip(one.split("."), other.split("."), strict=False):
        if left != right:
            break
        steps += 1
    return steps


def _plain(spec: Spec, kind: type[Spec]) -> Spec:
    """What a spec says now, checked: one of a class of somebody's own may say something else every time."""
    return kind(**{item.name: getattr(spec, item.name) for item in fields(kind)})


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
