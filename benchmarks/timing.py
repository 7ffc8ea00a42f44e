"""Interleaved timing of two functions, and the versions that a measurement belongs to."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

_WARM_UP = 2


def ratio_of_times(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median over rounds of our time / their time, and both medians in milliseconds.

    Every round runs both, in alternating order, so that a machine that slows down slows both.
    """
    times: list[tuple[float, float]] = []
    for index in range(rounds + _WARM_UP):
        if index % 2:
            pair = seconds(ours), seconds(theirs)
        else:
            pair = seconds(theirs), seconds(ours)
            pair = pair[::-1]
        times.append(pair)
    measured = times[_WARM_UP:]
    return {
        "ratio": round(statistics.median(a / b for a, b in measured), 3),
        "sdk_ms": round(1e3 * statistics.median(a for a, _ in measured), 2),
        "hand_ms": round(1e3 * statistics.median(b for _, b in measured), 2),
    }


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call in all threads, so that neighbours on the machine count less."""
    start = time.process_time()
    call()
    return time.process_time() - start


def versions(*packages: str) -> dict[str, str]:
    """Of Python and the packages, and the kind of processor."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }
