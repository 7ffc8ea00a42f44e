"""A time limit for code that is not ours, where one can be set. Torch-free."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 1.0
"""Seconds after which code that swallowed the interruption is interrupted again."""


class Late(BaseException):
    """What interrupts code that takes too long; not an Exception, which a loop may catch and go on."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt the block by `Late` once it took so long, in the main thread of POSIX systems; elsewhere never.

    The alarm of whoever else set one goes off when it should, but not before the block ends.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM) if usable else None
    if before is None:  # another thread, another system, or a handler that Python cannot put back
        yield
        return
    is_over = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not is_over:
            raise Late

    began = time.monotonic()
    signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)
