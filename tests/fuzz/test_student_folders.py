"""Folders of students from anybody: damaged, changed by hand, and made to run code or to cost hours."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import gansdk
from gansdk.recipe import read_recipe
from gansdk.saving.reading import load_generator
from gansdk.testing.fuzzing import CANARY, bounded, changed_json, contained, damaged, hostile_values
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

pytestmark = pytest.mark.filterwarnings("ignore")  # "was changed since it was saved" is what most cases say


class Painter(nn.Module):
    """A generator that no adapter builds, so that its program is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(self.tail(torch.relu(self.head(x))), scale_factor=2)


CONTRACT = gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16), scale=2)
FORMS = ("builder", "program")


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One saved student of either form."""
    nets = {
        "builder": randomise(SRResNet(SRResNetSizes(width=8, blocks=1, scale=2)), seed=0),
        "program": gansdk.wrap(randomise(Painter(), seed=0), contract=CONTRACT),
    }
    found = {}
    for form, net in nets.items():
        out = tmp_path_factory.mktemp(form)
        made = gansdk.compress(net, budget="2x", distiller=None)
        found[form] = replace(made, inputs={"a": torch.rand(1, 3, 20, 24)}).save(out / "student")
        assert (found[form] / "recipe.toml").is_file()
    return found


@pytest.fixture
def copied(students: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return {form: shutil.copytree(folder, tmp_path / form) for form, folder in students.items()}


def look(folder: Path, *, verify: bool) -> nn.Module | None:
    """What a user does with a folder: load it, or open it to compress it again, and run it."""
    student = None
    with contained():
        student = gansdk.load(folder, verify=verify)
    if student is not None:
        with contained():
            run(student, folder)
    with contained():
        load_generator(folder, verify=verify)
    return student


def run(student: nn.Module, folder: Path) -> None:
    """Errors of the operators themselves are the caller's: a folder may well hold another network than expected."""
    try:
        with torch.no_grad():
            student(torch.zeros(1, 3, 16, 16))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError):
        pass


NAMES = (
    *("config.json", "plan.json", "model.safetensors", "model.pt2"),
    *("inputs.safetensors", "recipe.toml", "report.json", "README.md", "report.html"),
)


@bounded(40)
@given(data=st.data(), form=st.sampled_from(FORMS), name=st.sampled_from(NAMES), verify=st.booleans())
def test_damaged_bytes_are_read_or_refused_in_words(
    students: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    form: str,
    name: str,
    verify: bool,
) -> None:
    file = students[form] / name
    if not file.exists():
        return
    content = file.read_bytes()
    try:
        file.write_bytes(data.draw(damaged(content)))
        look(students[form], verify=verify)
    finally:
        file.write_bytes(content)


@bounded(40)
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_damaged_recipes_are_read_or_refused_in_words(
    students: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: str
) -> None:
    file = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    file.write_bytes(data.draw(damaged((students[form] / "recipe.toml").read_bytes())))
    with contained():
        read_recipe(file)


@bounded(40)
@given(data=st.data(), form=st.sampled_from(FORMS), name=st.sampled_from(("config.json", "plan.json")))
def test_changed_values_are_read_or_refused_in_words(
    students: dict[str, Path], data: st.DataObject, form: str, name: str
) -> None:
    file = students[form] / name
    content = file.read_text(encoding="utf-8")
    changed = data.draw(changed_json(json.loads(content)))
    try:
        file.write_text(
            json.dumps(changed).encode("utf-8", "surrogatepass").decode("utf-8", "replace"), encoding="utf-8"
        )
        look(students[form], verify=False)
    except ValueError as error:  # numbers of more digits than json writes
        if "digits" not in str(error):
            raise
    finally:
        file.write_text(content, encoding="utf-8")


@bounded(40)
@given(data=st.data(), name=st.sampled_from(NAMES[:4]), form=st.sampled_from(FORMS))
def test_a_single_flipped_bit_never_passes_in_silence(
    students: dict[str, Path], data: st.DataObject, name: str, form: str
) -> None:
    file = students[form] / name
    if not file.exists():
        return
    content = file.read_bytes()
    expected = gansdk.load(students[form])(torch.ones(1, 3, 16, 16))
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))])
    try:
        file.write_bytes(content[:place] + flipped + content[place + 1 :])
        student = look(students[form], verify=True)
    finally:
        file.write_bytes(content)
    assert student is None or torch.equal(student(torch.ones(1, 3, 16, 16)), expected)


def records(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archived(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def graph_in(parts: dict[str, bytes]) -> str:
    return next(name for name in parts if name.endswith("models/model.json"))


@bounded(40)
@given(data=st.data())
def test_changed_programs_are_read_or_refused_in_words(students: dict[str, Path], data: st.DataObject) -> None:
    file = students["program"] / "model.pt2"
    content = file.read_bytes()
    parts = records(file)
    name = data.draw(st.sampled_from([name for name in parts if name.endswith(".json")]))
    changed = data.draw(changed_json(json.loads(parts[name])))
    try:
        try:
            file.write_bytes(archived({**parts, name: json.dumps(changed).encode("utf-8", "replace")}))
        except ValueError:
            return
        look(students["program"], verify=False)
    finally:
        file.write_bytes(content)


def spec(kind: str, context: Any, *, escaped: bool) -> str:
    """A specification of inputs that makes its reader import a module."""
    text = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
    return text.replace("__enum__", "\\u005f_enum__").replace(CANARY, f"\\u0067{CANARY[1:]}") if escaped else text


SPECS = {
    "enumeration": lambda: {"__enum__": True, "fqn": f"{CANARY}:Boom", "name": "X"},
    "type": lambda: f"{CANARY}.Boom",
    "context in JSON": lambda: json.dumps({"__enum__": True, "fqn": f"{CANARY}:Boom", "name": "X"}),
    "list": lambda: [{"__enum__": True, "fqn": f"{CANARY}:Boom", "name": "X"}],
    "nested": lambda: {"a": [{"__enum__": True, "fqn": f"{CANARY}:Boom", "name": "X"}]},
}
KINDS = (
    "builtins.tuple",
    "builtins.dict",
    "builtins.list",
    "collections.namedtuple",
    "collections.defaultdict",
    "collections.OrderedDict",
    "collections.deque",
    "dataclass",
    f"{CANARY}.Boom",
    "torch.Size",
)


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("context", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_specification_imports_a_module(copied: dict[str, Path], kind: str, context: str, escaped: bool) -> None:
    file = copied["program"] / "model.pt2"
    parts = records(file)
    graph = json.loads(parts[graph_in(parts)])

    def put(tree: Any) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                if key in ("in_spec", "out_spec"):
                    tree[key] = spec(kind, SPECS[context](), escaped=escaped)
                put(value)
        elif isinstance(tree, list):
            for value in tree:
                put(value)

    put(graph)
    file.write_bytes(archived({**parts, graph_in(parts): json.dumps(graph).encode()}))
    look(copied["program"], verify=False)


EXPRESSIONS = (
    f"__import__('{CANARY}')",
    "Symbol('x').__class__.__mro__[1].__subclasses__()",
    "9**9**9**9",
    "Pow(9, 9**9**9)",
    "(" * 5000 + "s0" + ")" * 5000,
    "+".join(["s0"] * 100_000),
    "Pow(s0 + s1, 10**9)",
    "PowByNatural(3, 10**12)",
    "Integer(10)**Integer(10**9)",
    "Symbol('s0', **{'x': 1})",
    "Mod(10**100000, 3)",
    "Float('1e999999999')",
    "Integer('9' * 10**7)",
    "s0 if s0 else s1",
    "lambda: 0",
    "[s0 for s0 in s1]",
    "f'{s0}'",
    "s0; s1",
    "\0",
    "",
)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_no_size_expression_runs_code_or_takes_long(copied: dict[str, Path], expression: str) -> None:
    file = copied["program"] / "model.pt2"
    parts = records(file)
    graph = json.loads(parts[graph_in(parts)])
    changed = 0

    def put(tree: Any) -> None:
        nonlocal changed
        if isinstance(tree, dict):
            for key, value in tree.items():
                if key == "expr_str":
                    tree[key], changed = expression, changed + 1
                put(value)
        elif isinstance(tree, list):
            for value in tree:
                put(value)

    put(graph)
    assert changed
    file.write_bytes(archived({**parts, graph_in(parts): json.dumps(graph).encode()}))
    look(copied["program"], verify=False)


CLAIMS: dict[str, tuple[str, Any]] = {
    "200000 blocks": ("blocks", 200_000),
    "a width of 10 million": ("width", 10**7),
    "a width of many digits": ("width", 10**30),
    "a fraction of a block": ("blocks", 1.5),
    "no width": ("width", None),
    "a negative scale": ("scale", -2),
    "a scale of a million": ("scale", 2**20),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_descriptions_that_claim_more_than_the_folder_holds_are_refused_fast(
    copied: dict[str, Path], claim: str
) -> None:
    file = copied["builder"] / "config.json"
    config = json.loads(file.read_text())
    key, value = CLAIMS[claim]
    changed = [holder for holder in _holders(config["builder"], key)]
    assert changed
    for holder in changed:
        holder[key] = value
    file.write_text(json.dumps(config))
    assert look(copied["builder"], verify=False) is None


def _holders(tree: Any, key: str) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if key in tree:
            yield tree
        for value in tree.values():
            yield from _holders(value, key)


@bounded(20)
@given(value=hostile_values(), name=st.sampled_from(("config.json", "plan.json")))
def test_files_that_hold_any_other_json(students: dict[str, Path], value: Any, name: str) -> None:
    file = students["builder"] / name
    content = file.read_text(encoding="utf-8")
    try:
        file.write_text(json.dumps(value), encoding="utf-8")
        look(students["builder"], verify=False)
    except ValueError as error:
        if "digits" not in str(error):
            raise
    finally:
        file.write_text(content, encoding="utf-8")
