"""The entry points of installed distributions, read one by one: a broken one costs the others nothing. Torch-free."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, DistributionFinder, EntryPoint, PackageNotFoundError, distribution

from gansdk import __version__
from gansdk.registry.origins import BUILT_IN, in_words, is_own
from gansdk.text import one_line

FIRST_PARTY = "gansdk"

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[\w.!+-]{1,64}", re.ASCII)
_POINT = re.compile(r"\w[\w .-]{0,99}")
_VALUE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(\s*:\s*[^\W\d]\w*(\.[^\W\d]\w*)*)?\s*(\[[\w\s,.-]*\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A plugin that a distribution names, not yet imported."""

    origin: str
    """Canonical name of the distribution."""
    version: str
    name: str
    """Of the entry point."""
    value: str
    """`"package.module"`."""

    @property
    def plugin(self) -> str:
        """`"distribution:entry-point"`."""
        return f"{self.origin}:{self.name}"

    def load(self) -> object:
        """Import it; raises whatever its module raises."""
        return EntryPoint(name=self.name, value=self.value, group=FIRST_PARTY).load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A distribution, or an entry point of one, that cannot be understood, and why."""

    plugin: str
    reason: str
    version: str = ""
    is_plugin: bool = True
    """Whether it says that it is a plugin of ours; the metadata of others may be as they like."""


def canonical(name: str) -> str:
    """Distribution names compare as package indexes compare them: Acme_GAN is acme-gan."""
    origin, colon, rest = name.strip().partition(":")
    return re.sub(r"[-_.]+", "-", origin).lower() + colon + rest


def offers(group: str) -> list[Offer | Unreadable]:
    """What is built in, then what installed distributions offer, by name: the order of installation never matters.

    Built-in parts are those of the packages beside this one, whichever distributions are called "gansdk".
    """
    ours = [
        Offer(origin=FIRST_PARTY, version=__version__, name=name, value=BUILT_IN[name]) for name in sorted(BUILT_IN)
    ]
    by_plugin: dict[str, list[Offer | Unreadable]] = {}
    unreadable: list[Unreadable] = []
    for dist in _distributions():
        if isinstance(dist, Unreadable):
            unreadable.append(dist)
            continue
        try:
            text = dist.read_text("entry_points.txt") or ""
        except Exception as error:  # whatever reading a stranger's file may raise
            unreadable.append(_unreadable(dist, "entry_points.txt", error, is_plugin=_mentions(dist, group)))
            continue
        if lines := _section(text, group):
            identity = _known(dist, text)
            if isinstance(identity, Unreadable):
                unreadable.append(identity)
            elif identity is not None:
                # The first on the path is the one that is imported.
                by_plugin.setdefault(identity[0], _read(lines, *identity))
    theirs = [item for name in sorted(by_plugin) for item in by_plugin[name]]
    return [*ours, *theirs, *sorted(unreadable, key=lambda item: item.plugin)]


def _distributions() -> Iterator[Distribution | Unreadable]:
    """All that can be found: a finder that fails ends its own list and nobody else's."""
    for finder in list(sys.meta_path):
        find: Callable[..., Iterable[Distribution]] | None = getattr(finder, "find_distributions", None)
        if find is None:
            continue
        try:
            yield from find(DistributionFinder.Context())
        except Exception as error:  # a stranger's finder
            yield Unreadable(plugin=one_line(type(finder).__name__), reason=in_words(error), is_plugin=False)


def _section(text: str, group: str) -> list[str]:
    """The lines below `[group]`, without comments."""
    lines, inside = list[str](), False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith(("#", ";")):
            lines.append(line)
    return lines


def _known(dist: Distribution, text: str) -> tuple[str, str] | Unreadable | None:
    """Canonical name and version; None if another distribution of that name comes before it."""
    try:
        metadata = dist.metadata
        read = dict(metadata.items())  # type: ignore[attr-defined] # an email.message.Message
        name, version = read.get("Name"), read.get("Version")
    except Exception as error:  # whatever reading a stranger's file may raise
        return _unreadable(dist, "METADATA", error)
    if not isinstance(name, str) or not _NAME.fullmatch(name.strip()):
        return _unreadable(dist, "METADATA", ValueError(f"it has the name {one_line(str(name))!r}"))
    if not isinstance(version, str) or not _VERSION.fullmatch(version.strip()):
        return _unreadable(dist, "METADATA", ValueError(f"it has the version {one_line(str(version))!r}"))
    try:
        first = distribution(name.strip()).read_text("entry_points.txt")
    except (PackageNotFoundError, OSError, ValueError):  # its folder is called otherwise, or the first is broken
        first = text
    return (canonical(name), version.strip()) if first == text or canonical(name) == FIRST_PARTY else None


def _read(lines: list[str], origin: str, version: str) -> list[Offer | Unreadable]:
    """Each entry point of a distribution, or why it is none; by name, and each name once."""
    by_name: dict[str, Offer | Unreadable] = {}
    for line in lines:
        name, sign, value = (part.strip() for part in line.partition("="))
        plugin = f"{origin}:{one_line(name, 100)}"
        if origin == FIRST_PARTY and BUILT_IN.get(name) == value:
            continue  # our own metadata
        if origin == FIRST_PARTY or is_own(value.partition(":")[0].strip()):
            reason = "it claims to be part of gansdk, which only the packages that come with gansdk are"
        elif not sign or not _POINT.fullmatch(name) or not _VALUE.fullmatch(value):
            reason = f"its entry point is {one_line(line, 100)!r}; write name = package.module"
        else:
            by_name.setdefault(name, Offer(origin=origin, version=version, name=name, value=value))
            continue
        by_name.setdefault(name, Unreadable(plugin=plugin, reason=reason, version=version))
    return [by_name[name] for name in sorted(by_name)]


def _unreadable(dist: Distribution, file: str, error: Exception, *, is_plugin: bool = True) -> Unreadable:
    # Its name may be what cannot be read, so it is called as its folder.
    folder = getattr(getattr(dist, "_path", None), "name", "") or type(dist).__name__
    return Unreadable(
        plugin=one_line(folder, 100),
        reason=f"its {file} cannot be read: {in_words(error)}",
        is_plugin=is_plugin,
    )


def _mentions(dist: Distribution, group: str) -> bool:
    """Whether a text that is no text mentions the group."""
    folder = getattr(dist, "_path", None)
    try:
        return folder is not None and f"[{group}]".encode() in folder.joinpath("entry_points.txt").read_bytes()
    except (AttributeError, OSError):
        return False
