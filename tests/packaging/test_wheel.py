"""The wheel: what is in it, and that it works far away from the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"gansdk", "gansdk_pruners", "gansdk_distillers", "gansdk_adapters", "gansdk_metrics"}
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Built from a copy, so that nothing is left behind in the repository."""
    pytest.importorskip("setuptools", reason="setuptools builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "target"
    for name in ("gansdk", "plugins", "adapters", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target.mkdir()
    built = subprocess.run([sys.executable, "-c", BUILD, str(target)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.Path(next(target.glob("*.whl")))


def names(wheel: zipfile.Path) -> list[str]:
    return wheel.root.namelist()


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_module_of_the_repository(wheel: zipfile.Path) -> None:
    packages = [ROOT / "gansdk", *(ROOT / "plugins").glob("gansdk_*"), *(ROOT / "adapters").glob("gansdk_*")]
    modules = {str(path.relative_to(package.parent)) for package in packages for path in package.rglob("*.py")}
    assert modules <= set(names(wheel))


def test_every_package_is_marked_as_typed(wheel: zipfile.Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names(wheel))


def test_the_licence_is_in_the_wheel(wheel: zipfile.Path) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in names(wheel))


def test_the_unpacked_wheel_finds_its_own_plugins(wheel: zipfile.Path, tmp_path: Path) -> None:
    wheel.root.extractall(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import gansdk
from gansdk.registry import Registry
assert gansdk.__file__.startswith({str(tmp_path)!r}), gansdk.__file__
rows = Registry(only=(), strict=True).listing()
assert {{"one-step", "gka", "sr", "folder", "kid"}} <= {{row.name for row in rows}}, rows
import gansdk_pruners.plugin, gansdk_distillers.plugin, gansdk_adapters.plugin, gansdk_metrics.plugin
assert gansdk_adapters.plugin.__file__.startswith({str(tmp_path)!r})
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
