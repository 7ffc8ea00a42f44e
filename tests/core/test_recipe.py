"""Recipes: one definition of what decides a student."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gansdk
from gansdk.cli.app import main
from gansdk.errors import GansdkError, InvalidOption
from gansdk.recipe import (
    Call,
    Compression,
    Recipe,
    Rungs,
    Settings,
    TeacherTraining,
    changed,
    deciding,
    read_recipe,
    recipe_of,
    says_of,
)

RUN = {"model": "demo", "distiller": None, "data": "photos", "device": "cpu", "dry_run": True}
DECIDES = (
    "model adapter budgets pruner distiller data eval_data metrics steps batch_size patch learning_rate task_weight "
    "seed discriminator transform quality"
)


def test_a_recipe_has_everything_that_decides_a_student_and_nothing_else():
    assert {one.name for one in fields(Recipe)} == set(DECIDES.split())


@pytest.mark.parametrize("kind", [Recipe, Compression, Rungs, TeacherTraining])
def test_every_field_says_what_it_is_for_in_a_sentence(kind):
    assert set(says_of(kind)) == {one.name for one in fields(kind)}
    for says in says_of(kind).values():
        assert says.text
        assert not says.text.endswith(".")


@pytest.mark.parametrize(
    ("function", "kind"), [("compress", Compression), ("ladder", Rungs), ("train_teacher", TeacherTraining)]
)
def test_the_functions_take_the_fields_as_keywords_and_say_so(function, kind):
    found = getattr(gansdk, function)
    shown, made = inspect.signature(found).parameters, inspect.signature(kind).parameters
    assert [(one.name, one.kind, one.default) for one in shown.values()] == [
        (one.name, one.kind, one.default) for one in made.values()
    ]
    assert get_type_hints(found)["seed"] is int
    for name, says in says_of(kind).items():
        assert f"{name}: {says.text}" in " ".join(found.__doc__.split()) or says.text in found.__doc__
    assert "{arguments}" not in found.__doc__


def test_what_never_changes_a_result_is_not_in_a_recipe():
    outside = {one.name for one in fields(Call)} - {one.name for one in fields(Settings)}
    assert outside == {"recipe", "out_dir", "resume", "device", "dry_run", "observers"}
    assert not outside & {one.name for one in fields(Recipe)}


def test_a_recipe_file_makes_the_same_plan_as_its_fields_as_arguments(tmp_path: Path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'model = "demo"\nbudgets = ["4x"]\ndata = "photos"\n[pruner]\nname = "one-step"\nmultiple_of = 8\ntrials = 0\n'
    )
    pruner = {"name": "one-step", "multiple_of": 8, "trials": 0}
    by_file = gansdk.compress(recipe=file, distiller=None, device="cpu", dry_run=True)
    by_name = gansdk.compress(**RUN, budget="4x", pruner=pruner)
    by_object = gansdk.compress(recipe=Recipe("demo", budgets=["4x"], pruner=pruner), **{**RUN, "model": "demo"})
    assert by_file.plan == by_name.plan == by_object.plan


def test_arguments_given_besides_a_recipe_take_precedence():
    recipe = Recipe("demo", budgets=["2x"], pruner="uniform", data="photos")
    found = gansdk.compress(recipe=recipe, budget="4x", distiller=None, device="cpu", dry_run=True)
    assert found.budget == "macs/4"
    assert found.settings["pruner"]["part"].endswith("Uniform")


def test_a_recipe_with_several_budgets_is_for_a_ladder():
    recipe = Recipe("demo", budgets=["2x", "4x"], pruner="uniform", distiller=None)
    with pytest.raises(InvalidOption, match=r"2 budgets.*gansdk\.ladder"):
        gansdk.compress(recipe=recipe)
    made = gansdk.ladder(recipe=recipe, data="photos", device="cpu", dry_run=True)
    assert [result.budget for result in made.results] == ["macs/2", "macs/4"]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"modle": "demo"}, r"has the field 'modle'\. Known fields are adapter, batch_size"),
        ("nowhere.toml", r"'nowhere\.toml' cannot be read"),
        ({"model": "demo", "budgets": "4x", "steps": -1}, r"steps=-1 must be an integer from 0 to"),
        ({"model": "demo", "budgets": "4x", "seed": "x"}, r"seed='x' must be an integer"),
        ({"budgets": "4x"}, r"No model was given"),
        ({"model": "demo"}, r"No budget was given"),
        (5, r"recipe=5 is neither a gansdk\.Recipe"),
        (np.zeros(2), r"is neither a gansdk\.Recipe"),
        ({"model": "demo", "budgets": "4x", "learning_rate": 10**400}, r"learning_rate=.* must be a number > 0"),
        ({"model": "demo", "budgets": "4x", "task_weight": float("inf")}, r"task_weight=inf must be a number >= 0"),
    ],
)
def test_a_recipe_that_is_none_is_refused_with_what_to_do(recipe, says):
    with pytest.raises(InvalidOption, match=says):
        gansdk.compress(recipe=recipe)


@pytest.mark.parametrize("text", ["model = ", "data = " + "[" * 3000 + "]" * 3000])
def test_a_recipe_that_is_no_toml_is_refused(text: str, tmp_path: Path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InvalidOption, match=r"cannot be read.*TOML"):
        gansdk.compress(recipe=tmp_path / "r.toml")


@given(st.dictionaries(st.sampled_from(["steps", "batch_size", "patch"]), st.integers(1, 1000)))
def test_the_fields_that_a_recipe_sets_are_those_that_differ_from_the_defaults(values):
    recipe = Recipe("demo", **values)
    found = read_recipe(recipe)
    assert found == changed(recipe)
    assert found == {
        "model": "demo",
        **{name: value for name, value in values.items() if (name, value) != ("batch_size", 8)},
    }


def test_the_command_line_takes_a_recipe_and_options_besides_it_win(tmp_path: Path, capsys):
    file = tmp_path / "recipe.toml"
    file.write_text('model = "demo"\nbudgets = ["2x"]\npruner = "uniform"\ndistiller = "none"\nseed = 3\n')
    with pytest.raises(SystemExit) as left:
        main(
            [
                "compress",
                "--recipe",
                str(file),
                "-b",
                "4x",
                "--data",
                "photos",
                "--device",
                "cpu",
                "--dry-run",
                "--json",
            ]
        )
    found = json.loads(capsys.readouterr().out)
    assert left.value.code == 0
    assert (found["budget"], found["settings"]["seed"]) == ("macs/4", 3)


def test_recipes_need_no_torch():
    code = "import sys, gansdk; gansdk.Recipe('demo', budgets=['4x']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_budget_given_besides_a_recipe_stands_for_all_of_its_budgets():
    recipe = Recipe("demo", budgets=["2x", "4x"], pruner="uniform", distiller="none", data="photos")
    assert gansdk.compress(recipe=recipe, budget="8x", device="cpu", dry_run=True).budget == "macs/8"


def test_only_the_model_is_positional():
    with pytest.raises(TypeError):
        gansdk.compress("demo", "4x")
    with pytest.raises(TypeError):
        Recipe("demo", ["4x"])


@pytest.mark.parametrize("distiller", ["none", ["none"], ("none",), None])
def test_none_prunes_only_however_it_is_said(distiller):
    assert Recipe("demo", distiller=distiller).distiller is None


def test_a_distiller_that_cannot_be_compared_is_refused_in_words():
    with pytest.raises(GansdkError):
        gansdk.compress(**{**RUN, "distiller": [np.array([1, 2])]}, budget="4x")


def test_options_besides_a_recipe_are_for_the_recipes_parts(tmp_path: Path, capsys):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'model = "demo"\nbudgets = ["4x"]\ndistiller = ["pixel", "ssim"]\ndata = "photos"\n'
        '[pruner]\nname = "one-step"\ntrials = 0\n'
    )
    shown = ("--device", "cpu", "--dry-run", "--json")
    options = ("--pruner-option", "multiple_of=8", "--distiller-option", "ssim.weight=2")
    with pytest.raises(SystemExit) as left:
        main(["compress", "--recipe", str(file), *options, *shown])
    found = json.loads(capsys.readouterr().out)["settings"]
    assert left.value.code == 0
    assert (found["pruner"]["multiple_of"], found["pruner"]["trials"]) == (8, 0)
    assert found["given"]["distiller"][1]["options"]["weight"] == 2


def test_a_run_is_continued_only_with_what_decides_a_student():
    scoring = {"eval_data", "metrics", "quality"}
    assert set(deciding(Recipe("demo", seed=7))) == {one.name for one in fields(Settings)} - scoring
    assert deciding(Recipe("demo", seed=7))["seed"] == 7


def test_a_recipe_of_a_call_has_its_fields_and_the_budgets_of_its_students():
    call = Rungs("demo", budgets="2x,4x", seed=7, out_dir="out", distiller="none")
    assert recipe_of(call, ["2x", "4x"]) == Recipe("demo", budgets=["2x", "4x"], seed=7, distiller=None)


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("pruner = 5", "--pruner-option trials=0"),
        ("distiller = [1]", "--distiller-option gka.weight=1"),
        ('distiller = [["gka"]]', "--distiller-option gka.weight=1"),
        ("pruner = {}", "--pruner-option trials=0"),
        ("seed = 0", "--distiller none --distiller-option gka.weight=1"),
    ],
)
def test_options_for_what_is_no_part_are_refused_in_words(field, option, tmp_path: Path, capsys):
    (tmp_path / "recipe.toml").write_text(field)
    run = ["compress", "demo", "-b", "4x", "--dry-run", "--recipe", str(tmp_path / "recipe.toml"), *option.split()]
    with pytest.raises(SystemExit) as left:
        main(run)
    assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
