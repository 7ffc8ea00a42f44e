"""Ctrl-C and SIGTERM on the command line: one line of what is kept, and the command that goes on. Torch-free."""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from gansdk.runtime.launch import is_main, process_count
from gansdk.text import visible

GRACE_S = 10.0
"""A command that has not ended this long after a signal is ended; whatever it does, a kill leaves no half file."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(BaseException):
    """A signal asks the command to end. Like KeyboardInterrupt it is no Exception, so that nobody handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = ""
        """What this start has saved, in words, told by whoever knows; empty if nothing."""


@contextmanager
def stoppable(arguments: Sequence[str], *, for_good: bool) -> Iterator[None]:
    """Let the first signal end what runs inside, with one line and exit code 128 + signal; a second ends it at once.

    `arguments` are those of the command line. `for_good` if nothing comes after it: then signals end the process
    without a word also while it shuts down. Does nothing within itself, or outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _stop:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with _watched(lambda number: _last_words(Stopped(number), arguments)):
            for number in SIGNALS:
                if before[number] is not signal.SIG_IGN:  # as under nohup
                    signal.signal(number, _stop)
            yield
    except Stopped as stopped:
        _say(_last_words(stopped, arguments))
        sys.exit(128 + stopped.number)
    finally:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL if for_good else handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def _watched(last_words: Callable[[int], str]) -> Iterator[None]:
    """A thread that sees signals even while the main one is busy outside Python, or where `Stopped` was swallowed."""
    here, there = socket.socketpair()
    there.setblocking(False)
    thread = threading.Thread(target=_watch, args=(here, last_words), daemon=True)
    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        there.close()
        thread.join()
        here.close()


def _watch(signals: socket.socket, last_words: Callable[[int], str]) -> None:
    """End the process at the second signal, or if it goes on for long after the first."""
    first = 0
    while True:
        ready, _, _ = select.select([signals], [], [], GRACE_S if first else None)
        numbers = signals.recv(1) if ready else b""
        if ready and not numbers:  # all is over
            return
        if numbers and numbers[0] not in SIGNALS:
            continue
        if not numbers:
            _say(last_words(first))
        if first or not numbers:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR.encode())  # a progress bar hides it
            os._exit(128 + (numbers[0] if numbers else first))
        first = numbers[0]


def _last_words(stopped: Stopped, arguments: Sequence[str]) -> str:
    """What is kept, and the command line that goes on."""
    by = "Ctrl-C" if stopped.number == signal.SIGINT else signal.Signals(stopped.number).name
    saved = f"Kept: {stopped.kept}." if stopped.kept else "Nothing has been saved yet."
    # Once something is saved, the same command again would move it aside.
    words = [text for text in arguments if text != "--no-resume"] if stopped.kept else arguments
    count = process_count()
    again = f", with {count} processes again" if count > 1 else ""
    return visible(f"Stopped by {by}. {saved} To continue{again}: {shlex.join(['gansdk', *words])}")


def _say(line: str) -> None:
    if is_main():
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - these are words of the command line
