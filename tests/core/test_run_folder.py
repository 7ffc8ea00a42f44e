import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from gansdk.errors import CheckpointError, OutputError, ResumeMismatch
from gansdk.run_folder import RunFolder, move_aside

SETTINGS = {"seed": 0, "patch": (8, 8)}
STATE = {"step": 3, "weights": {"a": torch.arange(4.0)}, "rng": torch.Generator().get_state(), "history": [{"x": 1.0}]}


def opened(path: Path | None, resume: str = "auto", **changes) -> RunFolder:
    return RunFolder(path, {**SETTINGS, **changes}, resume=resume)


def test_a_saved_stage_comes_back_as_it_was(tmp_path):
    opened(tmp_path).save_stage("distil-0", STATE)
    found = opened(tmp_path).load_stage("distil-0")
    assert found["step"] == 3
    assert found["history"] == [{"x": 1.0}]
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert torch.equal(found["rng"], STATE["rng"])


def test_a_stage_that_was_never_saved_is_none(tmp_path):
    assert opened(tmp_path).load_stage("distil-0") is None


def test_saving_again_replaces_the_state_and_leaves_nothing_beside_it(tmp_path):
    folder = opened(tmp_path)
    for step in (1, 2):
        folder.save_stage("distil-0", {"step": step})
    assert folder.load_stage("distil-0") == {"step": 2}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["distil-0.pt", "settings.json"]


def test_without_an_output_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = opened(None)
    folder.save_stage("distil-0", STATE)
    assert folder.load_stage("distil-0") is None
    assert list(tmp_path.iterdir()) == []


def test_settings_are_compared_as_the_json_they_become(tmp_path):
    opened(tmp_path).save_stage("distil-0", STATE)
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"seed": 0, "patch": [8, 8]}
    opened(tmp_path)


def test_nothing_is_there_before_something_was_done(tmp_path):
    folder = opened(tmp_path)
    assert (folder.load_stage("distil-0"), folder.rows("scores")) == (None, [])
    assert list(tmp_path.iterdir()) == []
    folder.append_row("scores", {"a": 1})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["scores.jsonl", "settings.json"]


def test_a_file_in_the_place_of_the_run_is_refused_at_once(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("changes", "shown"), [({"seed": 1}, "seed: 0 there, 1 now"), ({"new": True}, "new: None there, True now")]
)
def test_other_settings_are_refused_with_their_difference_and_change_nothing(changes, shown, tmp_path):
    opened(tmp_path).save_stage("distil-0", STATE)
    before = (tmp_path / "run" / "settings.json").read_bytes()
    with pytest.raises(ResumeMismatch) as refused:
        opened(tmp_path, **changes)
    assert f"({shown})" in str(refused.value)
    assert (tmp_path / "run" / "settings.json").read_bytes() == before


def test_never_resuming_keeps_everything_that_was_there_under_another_name(tmp_path):
    target = tmp_path / "out"
    for number in (1, 2):
        opened(target).save_stage("distil-0", {"step": number})
        fresh = opened(target, resume="never", seed=number)
        assert fresh.load_stage("distil-0") is None
        assert not target.exists()
        fresh.save_stage("distil-0", {"step": 10 * number})
        shutil.rmtree(target)
    states = [torch.load(tmp_path / f"out.old-{n}" / "run" / "distil-0.pt", weights_only=True) for n in (1, 2)]
    assert states == [{"step": 1}, {"step": 2}]


def test_nothing_is_moved_where_there_is_nothing(tmp_path):
    assert move_aside(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert move_aside(tmp_path / "empty") is None


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_cut_state_is_refused_in_one_paragraph(keep, tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", STATE)
    path = tmp_path / "run" / "distil-0.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="resume='never'") as refused:
        folder.load_stage("distil-0")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_settings_that_cannot_be_read_are_refused(text, tmp_path):
    opened(tmp_path).save_stage("distil-0", STATE)
    (tmp_path / "run" / "settings.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"settings\.json"):
        opened(tmp_path)


def test_a_state_that_cannot_be_written_is_an_error_and_the_old_one_stays(tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", {"step": 1})
    (tmp_path / "run" / "distil-0.partial").mkdir()
    with pytest.raises(OutputError, match="previous state is kept"):
        folder.save_stage("distil-0", {"step": 2})
    assert folder.load_stage("distil-0") == {"step": 1}


@pytest.mark.parametrize("below", ["out", "a/b/out"])
def test_a_folder_below_a_file_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="Choose another folder"):
        opened(tmp_path / "file" / below)


def test_a_full_disk_is_refused_before_the_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(OutputError, match="10 bytes left"):
        opened(tmp_path)


def test_rows_come_back_in_order_and_only_ever_grow(tmp_path):
    folder = RunFolder(tmp_path, {}, resume="auto")
    assert folder.rows("scores") == []
    folder.append_row("scores", {"config": (1, 2), "score": 0.1})
    before = (tmp_path / "run" / "scores.jsonl").read_bytes()
    RunFolder(tmp_path, {}, resume="auto").append_row("scores", {"config": (3,), "score": None})
    assert (tmp_path / "run" / "scores.jsonl").read_bytes().startswith(before)
    assert folder.rows("scores") == [{"config": [1, 2], "score": 0.1}, {"config": [3], "score": None}]


@pytest.mark.parametrize("cut", [1, 5])
def test_a_row_that_a_kill_left_unfinished_is_taken_off_and_written_again(cut, tmp_path):
    folder = RunFolder(tmp_path, {}, resume="auto")
    folder.append_row("scores", {"a": 1})
    folder.append_row("scores", {"a": 2})
    file = tmp_path / "run" / "scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert folder.rows("scores") == [{"a": 1}]
    folder.append_row("scores", {"a": 2})
    assert file.read_bytes() == whole


@pytest.mark.parametrize("line", ["{no json}", "[1, 2]", "7"])
def test_a_damaged_row_is_refused_in_words(line, tmp_path):
    folder = RunFolder(tmp_path, {}, resume="auto")
    folder.append_row("scores", {})
    (tmp_path / "run" / "scores.jsonl").write_text(f'{line}\n{{"a": 1}}\n')
    with pytest.raises(CheckpointError, match="resume='never'"):
        folder.rows("scores")


def test_rows_that_cannot_be_written_are_an_error(tmp_path):
    folder = RunFolder(tmp_path, {}, resume="auto")
    (tmp_path / "run" / "scores.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match="scores"):
        folder.append_row("scores", {})


def test_without_an_output_folder_rows_are_kept_in_memory_as_a_file_would_give_them(tmp_path):
    folder = RunFolder(None, {}, resume="auto")
    folder.append_row("scores", {"a": (1, 2)})
    assert folder.rows("scores") == [{"a": [1, 2]}]
    assert folder.rows("others") == []
