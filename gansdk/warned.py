"""Our warnings, collected for a result while they go on to whoever shows them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gansdk.errors import GansdkWarning


@contextmanager
def collected(told: list[str], tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Add every warning of ours to `told`, once, and call `tell` with it."""
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, GansdkWarning):
            if str(message) not in told:
                told.append(str(message))
            if tell is not None:
                tell(str(message))
        show(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.showwarning = note
        yield
