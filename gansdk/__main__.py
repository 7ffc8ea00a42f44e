"""`gansdk` and `python -m gansdk`: signals are taken care of before anything else is imported."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line."""
    _hold_signals(True)
    from gansdk.runtime.signals import stoppable

    with stoppable(sys.argv[1:], for_good=True):
        _hold_signals(False)
        from gansdk.cli.app import main as run

        run()


def _hold_signals(held: bool) -> None:
    """Let signals wait until there is somebody to take them, where the system can."""
    if hasattr(signal, "pthread_sigmask"):
        how = signal.SIG_BLOCK if held else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, (signal.SIGINT, signal.SIGTERM))


if __name__ == "__main__":
    main()
