"""What is remembered of parts: every option that was given, equal for equal values, and never an address."""

from __future__ import annotations

import enum
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

import gansdk
from gansdk.registry.parts import open_adapter, open_distillers, open_pruner
from gansdk.registry.records import described, recorded, said


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value

    def method(self) -> None: ...


def doubled(factor: int):
    return lambda x: x * factor


PAIRS = {
    "functions of other code": (lambda x: x + 1, lambda x: x + 2),
    "functions over other values": (doubled(2), doubled(3)),
    "partial functions": (partial(max, 1), partial(max, 2)),
    "tensors": (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])),
    "arrays": (np.array([1, 2]), np.array([1, 3])),
    "modules": (nn.Linear(1, 1), nn.Linear(1, 2)),
    "paths": (Path("a"), Path("b")),
    "sets": ({"a", "b"}, {"a", "c"}),
    "mappings": (MappingProxyType({"a": 1}), MappingProxyType({"a": 2})),
    "mappings by numbers": ({1: "a"}, {2: "a"}),
    "bytes": (b"a", b"b"),
    "enums": (Colour.RED, "RED"),
    "dataclasses": (Point(1), Point(2)),
    "objects": (Holder(1), Holder(2)),
    "methods": (Holder(1).method, Holder(2).method),
    "infinities": (math.inf, -math.inf),
    "classes": (int, float),
    "builtins": (max, min),
}


@pytest.mark.parametrize("case", PAIRS)
def test_other_values_are_told_apart_and_every_value_is_json_without_an_address(case: str) -> None:
    one, other = map(said, PAIRS[case])
    assert one != other
    for told in (one, other):
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert " at 0x" not in json.dumps(told)


def test_equal_values_are_told_alike_in_every_process() -> None:
    code = """
import json, torch
from pathlib import Path
from gansdk.registry.records import said
value = {"set": set("abcdef"), "f": lambda x: x in {"a", "b"}, "t": torch.arange(3.0), "p": Path("a"), 1: float("nan")}
print(json.dumps(said(value), sort_keys=True))
"""
    runs = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
        )
        runs.append(done.stdout)
    assert runs[0] == runs[1]


def test_a_value_that_holds_itself_comes_to_an_end() -> None:
    knot: list[object] = []
    knot.append(knot)
    assert json.dumps(said(knot))
    holder = Holder(None)
    holder.value = holder
    assert json.dumps(said(holder))


def test_a_part_that_was_asked_for_by_name_has_plugin_version_and_all_options() -> None:
    told = recorded(open_pruner({"name": "one-step", "multiple_of": 8}))
    assert (told["name"], told["plugin"], told["version"]) == ("one-step", "gansdk", gansdk.__version__)
    assert told["options"]["multiple_of"] == 8
    assert told["options"]["allocation"] == "auto"
    assert recorded(open_pruner("gansdk:one-step")) == recorded(open_pruner("one-step"))
    assert recorded(open_distillers({"name": "pixel", "weight": 2})[0])["options"] == {"norm": "l1", "weight": 2}
    assert recorded(open_adapter("sr"))["plugin"] == "gansdk"
    square = open_adapter({"name": "pix2pix", "size": np.int64(64)})
    assert recorded(square)["options"]["size"] == 64
    assert square.options()["size"] == [64, 64]


def test_an_instance_is_told_by_its_class_and_what_its_attributes_say() -> None:
    class Mine(gansdk.Pruner):
        def __init__(self, path: Path, rank: object, learns: nn.Module) -> None:
            self.path, self.rank, self.learns, self._private = path, rank, learns, 1

        def search(self, *_: object) -> object:  # type: ignore[override]
            raise NotImplementedError

    told = described(Mine(PurePosixPath("a"), doubled(2), nn.Linear(1, 1)))  # type: ignore[arg-type]
    assert told["part"].endswith("Mine")
    assert told["path"] == "a"
    assert told["rank"] == said(doubled(2))
    assert {"learns", "_private"}.isdisjoint(told)
