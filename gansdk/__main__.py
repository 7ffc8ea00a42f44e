"""`gansdk` and `python -m gansdk`: what is imported first takes care of Ctrl-C while everything else is."""

from __future__ import annotations

import sys

from gansdk.stopping import stoppable


def main() -> None:
    """Run the command line."""
    with stoppable(sys.argv[1:], for_good=True):
        from gansdk.cli import main as run

        run()


if __name__ == "__main__":
    main()
