"""The example plugin, built and used as a stranger's package would be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gansdk-plugin-magnitude"
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def run(*arguments: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel of the example."""
    pytest.importorskip("setuptools", reason="setuptools builds the wheel")
    folder = tmp_path_factory.mktemp("example")
    source, target = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    target.mkdir()
    built = run("-c", BUILD, str(target), cwd=source, path=target)
    assert built.returncode == 0, built.stderr
    zipfile.ZipFile(next(target.glob("*.whl"))).extractall(target)
    return target


def test_the_installed_example_is_listed_without_torch(site: Path) -> None:
    code = """
import sys
from gansdk.registry import Registry
registry = Registry(only=("gansdk-plugin-magnitude",), strict=True)
entry = registry.find("pruner", "magnitude")
assert (entry.identity, entry.version) == ("gansdk-plugin-magnitude:magnitude", "0.1.0"), entry
assert "torch" not in sys.modules
assert registry.load("pruner", "magnitude").__name__ == "Magnitude"
"""
    done = run("-W", "error", "-c", code, cwd=site, path=site)
    assert done.returncode == 0, done.stderr


def test_the_tests_of_the_example_pass(site: Path) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=site.parent / "source", path=site)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pruner_of_the_example_is_short() -> None:
    lines = (EXAMPLE / "gansdk_plugin_magnitude" / "pruner.py").read_text().splitlines()
    assert len(lines) <= 50
