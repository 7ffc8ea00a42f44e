"""Where parts and exceptions come from: this distribution, a plugin, or a user. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gansdk.errors import GansdkError, GansdkWarning
from gansdk.runtime.signals import Stopped
from gansdk.text import one_line

BUILT_IN = {
    "adapters": "gansdk_adapters.plugin",
    "distillers": "gansdk_distillers.plugin",
    "metrics": "gansdk_metrics.plugin",
    "pruners": "gansdk_pruners.plugin",
}
"""Name -> module of the plugins that are part of this very distribution, whatever other ones call themselves."""
_OWN = frozenset({"gansdk", *(module.partition(".")[0] for module in BUILT_IN.values())})
MARK = "_gansdk_origin_of_part"
PASSES = "_gansdk_passes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The plugin that a part came from, and how it was asked for."""

    kind: str
    name: str
    """Of the part, as its spec says it."""
    plugin: str
    """The distribution."""
    version: str
    options: dict[str, Any]
    """As they were given, in JSON, with the defaults of those that were not."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({' '.join(filter(None, (self.plugin, self.version)))})"


def is_own(module: str) -> bool:
    """Whether a module is part of this distribution."""
    return module.partition(".")[0] in _OWN


def origin_of(part: object) -> Origin | None:
    """What `mark` noted; None of what a user made and passed."""
    origin = getattr(part, "__dict__", {}).get(MARK)
    return origin if isinstance(origin, Origin) else None


def text_of(error: BaseException) -> str:
    """What an exception says; nothing where even that fails."""
    try:
        return str(error)
    except BaseException as failure:  # a stranger's __str__
        if is_interruption(failure):
            raise
        return ""


def in_words(error: BaseException) -> str:
    """One line; our own errors explain themselves, others need their class."""
    text = text_of(error)
    if isinstance(error, GansdkError):
        return one_line(text, 3000)
    return f"{type(error).__name__}: {one_line(text)}".rstrip(": ")


def passes(error: BaseException) -> bool:
    """Whether an exception goes on as it is: our own errors, a caller's, and interruptions."""
    ours = isinstance(error, (GansdkError, GansdkWarning)) or getattr(error, PASSES, False)
    return ours or is_interruption(error)


def is_interruption(error: BaseException) -> bool:
    """Whether somebody wants the program to end: Ctrl-C or a signal, never a SystemExit."""
    return isinstance(error, (KeyboardInterrupt, Stopped))
