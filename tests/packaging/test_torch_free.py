"""What must work without torch: the import, the public names, the plugins and their listing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gansdk
from gansdk.registry.discovery import registry

HEAVY = (
    "torch",
    "numpy",
    "torchvision",
    "torchmetrics",
    "timm",
    "matplotlib",
    "onnx",
    "pydantic",
    "pywt",
    "skimage",
    "sklearn",
)

NOTHING_HEAVY = f"assert not [name for name in {HEAVY} if name in sys.modules], sorted(sys.modules)"


def run_fresh(code: str) -> None:
    """Run in a new interpreter, away from this repository."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{code}\n{NOTHING_HEAVY}"],
        capture_output=True,
        text=True,
        cwd=Path(sys.prefix),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import gansdk",
        "import gansdk; gansdk.hookimpl; gansdk.Budget.parse('10x'); gansdk.__version__; dir(gansdk)",
        "from gansdk.registry.discovery import registry; registry().listing()",
        "from gansdk.registry.compatibility import matrix; assert matrix()",
        "import gansdk.errors, gansdk.specs, gansdk.hooks, gansdk.events, gansdk.registry.discovery",
        "import gansdk.budget.budget, gansdk.budget.order",
        "import gansdk_pruners.plugin, gansdk_distillers.plugin, gansdk_adapters.plugin, gansdk_metrics.plugin",
    ],
)
def test_nothing_heavy_is_imported_by(code: str) -> None:
    run_fresh(code)


def test_every_public_name_is_listed_and_lives_where_it_is_said_to() -> None:
    for module, names in gansdk._HOMES.items():
        assert find_spec(module) is not None, f"{module} does not exist"
        for name in names:
            assert getattr(gansdk, name) is getattr(importlib.import_module(module), name)
            assert name in dir(gansdk)


def test_no_submodule_can_take_the_place_of_a_public_name() -> None:
    folder = Path(str(gansdk.__file__)).parent
    submodules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    assert not submodules & set(gansdk._HOME_OF)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'gansdk' has no attribute 'compres'"):
        gansdk.compres  # noqa: B018 - the access is the test


def test_names_for_type_checkers_are_the_names_at_run_time() -> None:
    source = Path(str(gansdk.__file__)).read_text()
    typed = {line.split(" as ")[1] for line in source.splitlines() if line.startswith("    from gansdk")}
    assert typed == set(gansdk._HOME_OF)


BUILT_IN = [(row.kind, row.name) for row in registry().listing() if row.origin == "gansdk"]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_the_factory_of_a_built_in_part_can_be_loaded(kind: str, name: str) -> None:
    assert callable(registry().load(kind, name))  # type: ignore[arg-type]
