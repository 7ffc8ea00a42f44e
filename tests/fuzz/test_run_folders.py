"""Folders of runs that were killed, then damaged or tampered with: refused in words, or the very student of before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gansdk
from gansdk.events import Event, StepDone
from gansdk.testing.fuzzing import bounded, contained, damaged
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

pytestmark = pytest.mark.filterwarnings("ignore")

NET = randomise(SRResNet(SRResNetSizes(width=8, blocks=1, scale=2)), seed=0)
SETTINGS: dict[str, Any] = {
    "budget": "2x",
    "pruner": {
        "name": "once-for-all",
        "steps": 2,
        "space": "groups",
        "population": 4,
        "iterations": 2,
        "scored_images": 2,
        "calibration": 1,
    },
    "distiller": "pixel",
    "data": "photos",
    "steps": 3,
    "batch_size": 1,
    "patch": 8,
}


class Killed(BaseException):
    """What a kill does to a run, as far as its folder is concerned."""


def killing(event: Event) -> None:
    if isinstance(event, StepDone) and event.stage.startswith("distil") and event.step == 2:
        raise Killed


def student(out: Path, **changes: Any) -> dict[str, Tensor]:
    return gansdk.compress(NET, **{**SETTINGS, **changes}, out_dir=out).student.state_dict()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A run that was killed in its last stage, and the student of one that was not."""
    expected = student(tmp_path_factory.mktemp("straight"))
    out = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        student(out, observers=[killing])
    return out, expected


def files(out: Path) -> list[Path]:
    return sorted(path.relative_to(out) for path in (out / "run").rglob("*") if path.is_file())


@bounded(8)
@given(data=st.data())
def test_a_damaged_run_is_refused_or_gives_the_same_student(
    killed: tuple[Path, dict[str, Tensor]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out, expected = killed
    copy = tmp_path_factory.mktemp("copy") / "out"
    shutil.copytree(out, copy)
    file = copy / data.draw(st.sampled_from(files(out)))
    change = data.draw(st.sampled_from(("bytes", "bytes", "bit", "remove", "swap", "empty", "folder")))
    content = file.read_bytes()
    if change == "bytes":
        file.write_bytes(data.draw(damaged(content)))
    elif change == "bit" and content:
        place = data.draw(st.integers(0, len(content) - 1))
        file.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))]) + content[place + 1 :]
        )
    elif change == "swap":
        other = copy / data.draw(st.sampled_from(files(out)))
        file.write_bytes(other.read_bytes())
    elif change == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
        if change == "folder":
            file.mkdir()
    found = None
    with contained():
        found = student(copy)
    shutil.rmtree(copy.parent)
    assert found is None or all(torch.equal(value, expected[name]) for name, value in found.items())


@bounded(4)
@given(
    changes=st.fixed_dictionaries(
        {}, optional={"seed": st.integers(0, 2), "steps": st.integers(2, 4), "budget": st.sampled_from(("2x", "2.5x"))}
    ),
    lost=st.lists(st.sampled_from(("settings.json", "search.pt", "distil-0.pt")), max_size=2),
)
def test_states_of_other_settings_are_never_used(
    killed: tuple[Path, dict[str, Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
    changes: dict[str, Any],
    lost: list[str],
) -> None:
    out, _ = killed
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(out, folder / "out")
    for name in lost:
        (folder / "out" / "run" / name).unlink(missing_ok=True)
    found = None
    with contained():
        found = student(folder / "out", **changes)
    if found is not None:
        expected = student(folder / "straight", **changes)
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    shutil.rmtree(folder)
