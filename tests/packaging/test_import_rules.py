"""Who may import whom, and what a name in the repository must never leak into."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_core_knows_no_plugin_and_plugins_do_not_know_each_other() -> None:
    if find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    done = run("-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["plugins", "adapters", "tests", "docs", "benchmarks"])
def test_folders_of_the_repository_are_no_packages_for_others(name: str, tmp_path: Path) -> None:
    done = run("-c", f"import {name}; print({name}.__path__)", cwd=tmp_path)
    assert "ModuleNotFoundError" in done.stderr or str(ROOT) not in done.stdout
