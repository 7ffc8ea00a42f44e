"""Hostile values for every argument of the public functions and of the command line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gansdk
from gansdk.cli.app import main
from gansdk.testing.fuzzing import HOSTILE_TEXTS, bounded, contained, hostile_values
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

pytestmark = pytest.mark.filterwarnings("ignore")

NET = randomise(SRResNet(SRResNetSizes(width=8, blocks=1, scale=2)), seed=0)


class Awkward:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__
    __bool__ = __str__  # type: ignore[assignment]


OBJECTS: dict[str, Any] = {
    "awkward": Awkward(),
    "bytes": b"x",
    "set": {1},
    "lambda": lambda: 0,
    "class": Awkward,
    "tensor": torch.zeros(3),
    "generator": (x for x in ()),
    "array": np.zeros(3),
    "numpy whole": np.int64(2),
    "numpy real": np.float32(0.5),
    "path": Path("nowhere"),
    "path of nothing": Path("a\0b"),
    "mapping": {"name": "one-step", 3: 4},
    "pairs": [("a", 1)],
    "deep": {"name": {"name": {"name": {}}}},
    "module": torch.nn.Identity(),
    "complex": 1j,
    "ellipsis": ...,
}
values = st.one_of(hostile_values(), st.sampled_from(sorted(OBJECTS)).map(OBJECTS.__getitem__))
NAMES = [name for name in inspect.signature(gansdk.compress).parameters if name != "model"]


def run(**given: Any) -> None:
    """A run that stops before it trains, whatever the arguments are."""
    # Without trials, which may take what 100 training steps do: minutes where a source takes patches of 200 pixels.
    small = {"model": NET, "budget": "2x", "distiller": "pixel", "pruner": {"name": "one-step", "trials": 0}}
    arguments = {**small, "data": "photos", "steps": 1, "patch": 8, **given}
    if set(given) <= {"dry_run", "out_dir", "resume", "device"}:
        arguments |= {"distiller": None}
    with contained():
        gansdk.compress(**{**arguments, "dry_run": given.get("dry_run", True)})


@bounded(60)
@given(name=st.sampled_from(NAMES), value=values)
def test_one_hostile_argument(name: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    if name in ("out_dir", "resume", "dry_run"):
        value = (
            value
            if not isinstance(value, (str, Path))
            else str(tmp_path_factory.mktemp("out") / "x" / str(value)[:300])
        )
    run(**{name: value})


@bounded(40)
@given(value=values)
def test_a_hostile_model(value: Any) -> None:
    with contained():
        gansdk.inspect(value)


@bounded(40)
@given(value=values, more=values)
def test_hostile_budgets(value: Any, more: Any) -> None:
    with contained():
        gansdk.plan(NET, value)
    with contained():
        gansdk.ladder(NET, budgets=[value, more], distiller=None, dry_run=True)


@bounded(60)
@given(text=st.text(alphabet="0123456789.xX%<=>,macsprgGMKeE+- @:", max_size=24))
def test_texts_like_budgets(text: str) -> None:
    with contained():
        gansdk.Budget.parse(text)


FIELDS = list(inspect.signature(gansdk.Contract).parameters)


@bounded(60)
@given(name=st.sampled_from(FIELDS), value=values)
def test_hostile_contracts(name: str, value: Any) -> None:
    with contained():
        contract = gansdk.Contract(**{"channels_in": 3, "channels_out": 3, "size": (16, 16), name: value})
        gansdk.wrap(torch.nn.Conv2d(3, 3, 1), contract=contract)


PARTS = (
    ("pruner", "one-step"),
    ("pruner", "uniform"),
    ("pruner", "once-for-all"),
    ("distiller", "gka"),
    ("adapter", "sr"),
    ("distiller", "pixel"),
    ("distiller", "wavelet"),
    ("distiller", "omgd"),
    ("distiller", "data-free"),
    ("distiller", "feature"),
    ("data", "folder"),
    ("data", "photos"),
    ("metrics", "kid"),
    ("metrics", "fid"),
    ("metrics", "miou"),
)

SMALL = {"once-for-all": {"population": 4, "iterations": 1}}
"""With steps=0 it searches in a dry run too, for as long as it is told to: nothing hostile."""


@bounded(60)
@given(data=st.data(), part=st.sampled_from(PARTS))
def test_hostile_options_of_parts(data: st.DataObject, part: tuple[str, str]) -> None:
    from gansdk.registry.discovery import registry

    argument, name = part
    kind: Any = {"data": "source", "metrics": "metric"}.get(argument, argument)
    options = list(inspect.signature(registry().load(kind, name)).parameters)
    option = data.draw(st.sampled_from([*options, "nonsense", "name"]))
    run(**{argument: {**SMALL.get(name, {}), "name": name, option: data.draw(values)}})


COMMANDS = {
    "inspect": ["inspect", "demo"],
    "plan": ["plan", "demo", "--budget", "4x"],
    "compress": ["compress", "demo", "--budget", "4x", "--data", "photos", "--dry-run"],
    "export": ["export", "nowhere", "onnx"],
    "eval": ["eval", "nowhere", "--data", "photos"],
    "train-teacher": ["train-teacher", "pix2pix", "--data", "nowhere"],
    "plugins": ["plugins"],
}
OPTIONS = (
    "--budget",
    "--adapter",
    "--adapter-option",
    "--pruner",
    "--pruner-option",
    "--distiller",
    "--distiller-option",
    "--data",
    "--eval-data",
    "--steps",
    "--batch-size",
    "--patch",
    "--learning-rate",
    "--discriminator",
    "--transform",
    "--seed",
    "--device",
    "--quality",
    "--metric",
    "--metric-option",
    "--model",
    "--size",
    "--architecture",
)


def _arguments() -> st.SearchStrategy[str]:
    texts = st.sampled_from([text for text in HOSTILE_TEXTS if "\0" not in text])
    brackets = st.sampled_from(
        ("[" * 100_000, '{"a":' * 100_000, '{"name": ' + "[" * 5000 + "]" * 5000 + "}", '{"name": NaN}')
    )
    pairs = st.tuples(st.sampled_from(("keep", "name", "path", "pixel.weight", "a.b.c", "")), texts | brackets)
    return st.one_of(texts, brackets, pairs.map("=".join), hostile_values().map(_written), st.text(max_size=9))


def _written(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # of more digits than Python writes
        return "9" * 5000


@bounded(40)
@given(command=st.sampled_from(list(COMMANDS)), option=st.sampled_from(OPTIONS), value=_arguments())
def test_the_command_line_ends_in_words(
    command: str, option: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with contained():
        code = _exit_code([*COMMANDS[command], option, value])
    assert code in (0, 2, 3)
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert len(told.err) < 20_000
    assert "\x1b" not in told.err


def _exit_code(arguments: list[str]) -> object:
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0
    return 0
