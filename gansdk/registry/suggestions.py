"""Installed parts by what they can do, for the advice in messages: the core names no plugin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

from gansdk.interfaces import Distiller, Pruner
from gansdk.registry.discovery import registry
from gansdk.registry.origins import is_interruption

MOST = 3
"""Names that a message gives."""


def pruners_such_as(fits: Callable[[Pruner], bool]) -> str:
    """What follows "a pruner" in a message: " (such as 'a' or 'b')", or "" if no installed one fits."""
    return _such_as("pruner", fits)


def distillers_such_as(fits: Callable[[Distiller], bool]) -> str:
    """What follows "a distiller" in a message: " (such as 'a' or 'b')", or "" if no installed one fits."""
    return _such_as("distiller", fits)


def is_term(distiller: Distiller) -> bool:
    """Whether it stands beside the family's own loss."""
    return distiller.regime is None


def anchors(distiller: Distiller) -> bool:
    """Whether it alone fixes colours and brightness."""
    return distiller.regime is None and any(term.anchors_low_frequencies for term in distiller.terms)


def _such_as(kind: Literal["pruner", "distiller"], fits: Callable[[Any], bool]) -> str:
    """The first few parts that fit, of those that can be made without options."""
    fitting = (repr(name) for name in registry().names(kind) if _holds(kind, name, fits))
    found = list(islice(fitting, MOST))
    names = " or ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))
    return f" (such as {names})" if found else ""


def _holds(kind: Literal["pruner", "distiller"], name: str, fits: Callable[[Any], bool]) -> bool:
    """Advice never fails, whatever a stranger's factory raises."""
    try:
        return bool(fits(registry().load(kind, name)()))
    except BaseException as error:
        if is_interruption(error):
            raise
        return False
