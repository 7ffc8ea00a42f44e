"""recipe.toml: what was requested, written so that it can be read and run again."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gansdk
from gansdk.errors import InvalidOption
from gansdk.recipe import Recipe, changed, read_recipe
from gansdk.saving.recipe_file import LONGEST, recipe_text


class Color(StrEnum):
    RED = "red"


plain = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    model=st.text(),
    seed=st.integers(0, 2**64 - 1),
    options=st.dictionaries(st.text(), plain, max_size=3),
    distiller=st.none() | st.lists(st.text() | st.dictionaries(st.text(), plain, max_size=3), min_size=2, max_size=3),
)
def test_a_recipe_that_is_written_reads_back_as_itself(model: str, seed: int, options: Any, distiller: Any) -> None:
    recipe = Recipe(model, budgets=["4x"], seed=seed, pruner={**options, "name": "x"}, distiller=distiller)
    found = tomllib.loads(recipe_text(recipe))
    assert found.pop("metrics") == []
    assert changed(Recipe(**found)) == changed(recipe)


def test_every_field_that_has_a_value_is_written_also_where_it_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        recipe_text(Recipe("demo", budgets=["4x"], distiller="none", quality="psnr>=20"))
    )
    assert read_recipe(tmp_path / "recipe.toml") == {
        "model": "demo",
        "adapter": "auto",
        "pruner": "one-step",
        "distiller": "none",
        "metrics": [],
        "batch_size": 8,
        "seed": 0,
        "quality": "psnr>=20",
        "budgets": ["4x"],
    }


def test_paths_and_numbers_are_written_as_they_were_given() -> None:
    data = {"name": "folder", "path": Path("photos"), "patch": np.int64(8), "sides": (1, 2)}
    recipe = Recipe(Path("weights/x.pth"), budgets=[gansdk.Budget.parse("4x")], data=data)
    found = tomllib.loads(recipe_text(recipe))
    assert found["model"] == str(Path("weights/x.pth"))
    assert found["data"] == {"name": "folder", "path": "photos", "patch": 8, "sides": [1, 2]}
    assert found["budgets"] == ["macs/4"]


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", torch.nn.Conv2d(3, 3, 1), "model was a torch.nn.modules.conv.Conv2d"),
        ("model", {"A2B": "a.pth", "B2A": torch.nn.ReLU()}, "model.B2A was a torch.nn.modules.activation.ReLU"),
        ("model", type("A\nx = 1", (), {"__module__": "b"})(), "model was a b.A x = 1"),
        ("distiller", ["pixel", object()], r"distiller[1] was a builtins.object"),
        ("pruner", {"name": "x", "config": None}, "pruner.config was None"),
        ("pruner", {"name": "x", "a\nb = 1": None}, "pruner.a b = 1 was None"),
        ("pruner", {"name": "x", 1: 2}, "pruner was a builtins.dict"),
        ("pruner", {"name": Color.RED}, "pruner.name was a"),
        ("data", "photos/\udcff", "data had text that is no Unicode"),
        ("data", "x" * LONGEST, f"data had more than {LONGEST} characters"),
        ("data", {"name": "x", "n": 10**5000}, "data had a number of thousands of digits"),
        ("data", {"name": "x", "deep": nested(50)}, "data.deep[0][0][0][0][0][0][0] was a builtins.list"),
        ("budgets", [gansdk.Budget.parse("4x", counting="paper")], "budgets[0] was a gansdk.budget.budget.Budget"),
    ],
    ids=range(13),
)
def test_what_no_file_can_hold_says_what_it_was(field: str, value: Any, says: str) -> None:
    text = recipe_text(Recipe(**{"model": "demo", "budgets": ["4x"], field: value}))
    found = tomllib.loads(text)
    assert found[field]["missing"].startswith(says)
    assert "Make it again" not in text
    assert set(found) <= set(Recipe.__dataclass_fields__)
    name = "budget" if field == "budgets" else field
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any(line.startswith(f"# {says}") for line in comments)
    assert any(f'gansdk.compress(recipe="recipe.toml", {name}=...)' in line for line in comments)
    assert text == recipe_text(Recipe(**{"model": "demo", "budgets": ["4x"], field: value}))


def test_a_student_of_a_ladder_says_which_budgets_there_were() -> None:
    text = recipe_text(Recipe("demo", budgets=["4x"]), ladder=["macs/2", "macs/4"])
    assert "one of a ladder: macs/2, macs/4." in text
    assert tomllib.loads(text)["budgets"] == ["4x"]


def test_a_recipe_that_lacks_a_field_runs_only_with_it(tmp_path: Path) -> None:
    text = recipe_text(Recipe("demo", budgets=["4x"], distiller=[{"name": "gka", "taps": None}, "pixel"]))
    (tmp_path / "recipe.toml").write_text(text)
    settings = {"recipe": tmp_path / "recipe.toml", "data": "photos", "dry_run": True, "device": "cpu"}
    with pytest.raises(InvalidOption, match=r"no distiller: 'distiller\[0\]\.taps was None'.* Pass distiller="):
        gansdk.compress(**settings)
    assert gansdk.compress(**settings, distiller=None, pruner="uniform").plan
