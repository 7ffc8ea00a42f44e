"""Foreign code that hostile files name lies on the path here, and a hook sees whatever is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gansdk.testing import fuzzing

fuzzing.register_profiles()
fuzzing.watch()


@pytest.fixture(autouse=True, scope="session")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that anybody could import by its name."""
    folder: Path = tmp_path_factory.mktemp("canary")
    (folder / f"{fuzzing.CANARY}.py").write_text("def boom(*args, **kwargs):\n    raise SystemExit('foreign code')\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    assert fuzzing.CANARY not in sys.modules


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fuzzing.FIGURES.cases:
        terminalreporter.write_line(str(fuzzing.FIGURES))
