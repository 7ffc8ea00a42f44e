"""What a plugin says about itself: data only, so that listing plugins imports nothing heavy. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from gansdk.errors import InvalidSpec
from gansdk.text import quoted

PLUGIN_API = 1
"""Version of the interfaces that plugins implement; a spec states the one it was written for."""

DistillerKind = Literal["term", "regime", "both"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = {"name": 64, "factory": 200, "summary": 200, "source": 300, "advice": 600, "install": 200}
"""Characters of each text, at most."""
_MOST_TAGS = 64
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What every kind of part says about itself.

    Raises:
        InvalidSpec: a field is malformed; the message says how it should look.
    """

    name: str
    """What users type: lower case, digits and hyphens."""
    factory: str
    """`"package.module:attribute"`, a class or function; imported on first use."""
    summary: str
    """One line for `gansdk plugins`."""
    source: str = ""
    """Paper or address."""
    needs: frozenset[str] = field(default=frozenset())
    """Capabilities that adapter or data must provide; see `gansdk.registry.compatibility`."""
    advice: str = ""
    """What to do where something it needs is missing: the end of the refusal."""
    install: str = ""
    """What to `pip install` if the factory's module misses a dependency: `"acme-gan[ofa]"`."""
    api: int = PLUGIN_API
    """The `gansdk.PLUGIN_API` this was written for."""

    def __post_init__(self) -> None:
        _check_name(self, "name", self.name)
        for label in ("factory", "summary", "source", "advice", "install"):
            _check_text(self, label, getattr(self, label))
        if not _FACTORY.fullmatch(self.factory):
            raise InvalidSpec(f"{_who(self)} has factory={self.factory!r}; write 'package.module:attribute'.")
        if not self.summary.strip():
            raise InvalidSpec(f"{_who(self)} has summary={self.summary!r}; write one line of text.")
        _check_tags(self, "needs", self.needs)
        if type(self.api) is not int or self.api < 1:
            raise InvalidSpec(
                f"{_who(self)} has api={quoted(self.api)}; write the gansdk.PLUGIN_API it was written for."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec(Spec):
    """A family of generators; the factory makes a `gansdk.Adapter`."""

    provides: frozenset[str] = frozenset()
    """Of taps, channel-groups, rebuild, discriminator, degrade, paired, or an own word."""
    before: tuple[str, ...] = ()
    """Adapters that must not be asked before this one whether they accept a module."""

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        _check_tags(self, "provides", self.provides)
        if type(self.before) is not tuple or len(self.before) > _MOST_TAGS:
            raise InvalidSpec(f"{_who(self)} has before={quoted(self.before)}; write a tuple of adapter names.")
        for name in self.before:
            _check_name(self, "before", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunerSpec(Spec):
    """A way to choose channels; the factory makes a `gansdk.Pruner`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillerSpec(Spec):
    """A way to teach; the factory makes a `gansdk.Distiller`."""

    data: bool = True
    """Whether it needs images; a data-free regime makes its own."""
    kind: DistillerKind = "term"
    """What it brings: terms of the loss, the regime of the run, or both. A run has one regime."""

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        _check_flag(self, "data", self.data)
        if type(self.kind) is not str or self.kind not in get_args(DistillerKind):
            raise InvalidSpec(
                f"{_who(self)} has kind={quoted(self.kind)}; write one of {', '.join(get_args(DistillerKind))}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec(Spec):
    """Where images come from; the factory makes a `gansdk.DataSource`."""

    provides: frozenset[str] = frozenset({"images"})
    """Of images, paired, unpaired, or an own word."""

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        _check_tags(self, "provides", self.provides)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec(Spec):
    """A measure of image quality; the factory makes a `gansdk.Metric`."""

    lower_is_better: bool = False

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        _check_flag(self, "lower_is_better", self.lower_is_better)


def _who(spec: Spec) -> str:
    return f"The {type(spec).__name__} {quoted(spec.name)}"


def _check_name(spec: Spec, label: str, name: object) -> None:
    if type(name) is not str or len(name) > _LONGEST["name"] or not _NAME.fullmatch(name):
        raise InvalidSpec(
            f"{_who(spec)} has {quoted(name)} in {label}; write lower-case words joined by hyphens, at most "
            f"{_LONGEST['name']} characters."
        )


def _check_flag(spec: Spec, label: str, flag: object) -> None:
    if type(flag) is not bool:
        raise InvalidSpec(f"{_who(spec)} has {label}={quoted(flag)}; write True or False.")


# Exact types: one derived from them may say something else every time, or raise when it is compared or shown.
def _check_text(spec: Spec, label: str, text: object) -> None:
    """One line that a terminal can show: no control characters, which could rewrite what else it shows."""
    longest = _LONGEST[label]
    if type(text) is not str or len(text) > longest or not text.isprintable():
        raise InvalidSpec(
            f"{_who(spec)} has {label}={quoted(text)}; write one line of text, at most {longest} characters."
        )


def _check_tags(spec: Spec, label: str, tags: object) -> None:
    if type(tags) is not frozenset or len(tags) > _MOST_TAGS:
        raise InvalidSpec(
            f"{_who(spec)} has {label}={quoted(tags)}; write a frozenset of at most {_MOST_TAGS} capabilities."
        )
    for tag in tags:
        _check_name(spec, label, tag)
