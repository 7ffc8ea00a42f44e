import json
import os
import random
import resource
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from gansdk.errors import CheckpointError, IntegrityError, OutputError, ResumeMismatch, RunInUse
from gansdk.files import UNFINISHED, move_aside, remove, unfinished_name
from gansdk.training.run_folder import RunFolder, open_run

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
    with pytest.raises(OutputError, match="is not a folder"):
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
    for number in (1, 2):
        opened(tmp_path).save_stage("distil-0", {"step": number})
        fresh = opened(tmp_path, resume="never", seed=number)
        assert fresh.load_stage("distil-0") is None
        assert not (tmp_path / "run").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run.old-1", "run.old-2"}
    for number in (1, 2):
        (tmp_path / f"run.old-{number}").rename(tmp_path / "run")
        assert opened(tmp_path).load_stage("distil-0") == {"step": number}
        (tmp_path / "run").rename(tmp_path / f"run.old-{number}")


def test_never_resuming_keeps_what_else_a_run_had_written(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1.png").write_text("mine")
    with open_run(tmp_path, SETTINGS, resume="never", others=["samples", "ladder.html"]):
        assert (tmp_path / "samples.old-1" / "1.png").read_text() == "mine"
        assert not (tmp_path / "samples").exists()


def test_what_cannot_be_moved_aside_is_an_error_in_words(tmp_path, monkeypatch):
    opened(tmp_path).save_stage("distil-0", {"step": 1})

    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(OutputError, match="cannot be moved aside"):
        opened(tmp_path, resume="never")
    assert opened(tmp_path).load_stage("distil-0") == {"step": 1}


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


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_state_that_cannot_be_written_is_an_error_and_the_old_one_stays(call, tmp_path, monkeypatch):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
        with pytest.raises(OutputError, match="previous state is kept"):
            folder.save_stage("distil-0", {"step": 2})
    assert folder.load_stage("distil-0") == {"step": 1}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["distil-0.pt", "settings.json"]


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
    with pytest.raises(CheckpointError, match="scores"):
        folder.append_row("scores", {})


def test_a_row_that_no_space_is_left_for_leaves_the_lines_before(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {}, resume="auto")
    folder.append_row("scores", {"a": 1})
    file = tmp_path / "run" / "scores.jsonl"
    before = file.read_bytes()
    limit = len(before) + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        with pytest.raises(OutputError, match="Earlier lines are kept"):
            folder.append_row("scores", {"a": 2})
    finally:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["settings.json", "distil-0.pt", "4x/search.pt", "scores.jsonl"])
def test_a_bit_that_flipped_is_noticed_before_any_compute_or_changes_nothing(damage, tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", STATE)
    folder.save_stage("4x/search", STATE)
    for number in range(3):
        folder.append_row("scores", {"config": [number], "score": 0.5 * number})
    file = tmp_path / "run" / damage
    whole = file.read_bytes()
    rng, refused = random.Random(0), 0
    for position in rng.sample(range(8 * len(whole)), 60):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        try:
            found = opened(tmp_path)
        except (CheckpointError, ResumeMismatch):
            refused += 1
            continue
        assert same_state(found.load_stage("distil-0"), STATE)
        assert same_state(found.load_stage("4x/search"), STATE)
        rows = found.rows("scores")
        assert rows == [{"config": [number], "score": 0.5 * number} for number in range(len(rows))]
    assert refused >= 50


def same_state(found, expected):
    return json.dumps(found, default=lambda x: x.tolist()) == json.dumps(expected, default=lambda x: x.tolist())


def test_checksums_that_are_wrong_have_an_error_of_their_own(tmp_path):
    opened(tmp_path).save_stage("distil-0", STATE)
    file = tmp_path / "run" / "distil-0.pt"
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(IntegrityError, match="distil-0"):
        opened(tmp_path)


def test_without_its_settings_a_run_takes_the_same_ones_and_no_others(tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", {"step": 1})
    folder.append_row("scores", {"a": 1})
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(ResumeMismatch, match="resume='never'"):
        opened(tmp_path, seed=1)
    (tmp_path / "run" / "distil-0.pt").rename(tmp_path / "aside")
    with pytest.raises(ResumeMismatch, match="resume='never'"):
        opened(tmp_path, seed=1)
    (tmp_path / "aside").rename(tmp_path / "run" / "distil-0.pt")
    assert opened(tmp_path).load_stage("distil-0") == {"step": 1}
    assert opened(tmp_path).rows("scores") == [{"a": 1}]


def test_settings_that_were_changed_by_hand_do_not_take_over_the_states(tmp_path):
    opened(tmp_path).save_stage("distil-0", {"step": 1})
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"seed": 1, "patch": [8, 8]}))
    with pytest.raises(ResumeMismatch):
        opened(tmp_path, seed=1)
    with pytest.raises(IntegrityError, match=r"settings\.json"):
        opened(tmp_path)


def test_a_state_in_the_place_of_another_stage_is_refused(tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", {"step": 1})
    shutil.copy(tmp_path / "run" / "distil-0.pt", tmp_path / "run" / "search.pt")
    with pytest.raises(IntegrityError, match="written as 'distil-0'"):
        folder.load_stage("search")


def test_states_and_rows_can_be_read_without_gansdk(tmp_path):
    folder = opened(tmp_path)
    folder.save_stage("distil-0", STATE)
    folder.append_row("scores", {"score": 0.5})
    assert same_state(torch.load(tmp_path / "run" / "distil-0.pt", weights_only=True), STATE)
    assert json.loads((tmp_path / "run" / "scores.jsonl").read_text())["score"] == 0.5


def test_a_row_of_other_notes_is_refused(tmp_path):
    folder = opened(tmp_path)
    folder.append_row("scores", {"a": 1})
    shutil.copy(tmp_path / "run" / "scores.jsonl", tmp_path / "run" / "others.jsonl")
    with pytest.raises(IntegrityError, match="written as 'scores 0'"):
        folder.rows("others")


def test_states_of_the_version_before_are_refused_in_words(tmp_path):
    opened(tmp_path).save_stage("distil-0", {"step": 1})
    torch.save({"step": 1}, tmp_path / "run" / "distil-0.pt")
    with pytest.raises(CheckpointError, match=r"no checksum where this version.*resume='never'"):
        opened(tmp_path)


@pytest.mark.parametrize("file", ["distil-0.pt", "scores.jsonl", "settings.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "huge", "nested"])
def test_what_is_no_file_of_a_run_is_refused_at_once(file, kind, tmp_path):
    opened(tmp_path).save_stage("search", {"step": 1})
    path = tmp_path / "run" / file
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b'{"seed": ' + b"[" * (100_000 if kind == "nested" else 1) + b"\n")
    if kind == "huge":
        os.truncate(path, 2**36)
    with pytest.raises(CheckpointError, match="resume='never'"):
        opened(tmp_path)


def test_settings_that_are_equal_as_numbers_are_the_same(tmp_path):
    opened(tmp_path, rate=1).save_stage("distil-0", {"step": 1})
    assert opened(tmp_path, rate=1.0).load_stage("distil-0") == {"step": 1}


def test_a_difference_is_shown_short_and_without_terminal_codes(tmp_path):
    opened(tmp_path).save_stage("distil-0", {"step": 1})
    strange = {f"key {n} \x1b[31m": "\x1b[31m" + "x" * 10**4 for n in range(1000)}
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"seed": 0, "patch": [8, 8], **strange}))
    with pytest.raises(ResumeMismatch) as refused:
        opened(tmp_path, seed=3)
    assert len(str(refused.value)) < 5000
    assert str(refused.value).isprintable()


def test_a_run_whose_folder_was_deleted_writes_it_again(tmp_path):
    with open_run(tmp_path, SETTINGS, resume="auto") as folder:
        folder.save_stage("search", {"step": 1})
        for gone in ("run", "run/settings.json"):
            remove(tmp_path / gone)
            folder.save_stage("distil-0", {"step": 2})
    assert opened(tmp_path).load_stage("distil-0") == {"step": 2}
    with pytest.raises(ResumeMismatch):
        opened(tmp_path, seed=1)


@pytest.mark.parametrize("save", ["stage", "row"])
def test_a_run_whose_place_another_took_ends_and_writes_nothing(save, tmp_path):
    """Where nothing can be locked, the settings tell."""
    first, second = opened(tmp_path), opened(tmp_path, seed=1)
    first.save_stage("search", {"step": 1})
    shutil.rmtree(tmp_path / "run")
    second.save_stage("search", {"step": 2})
    with pytest.raises(OutputError, match="another run may be using the folder"):
        first.save_stage("search", {"step": 3}) if save == "stage" else first.append_row("scores", {"a": 1})
    assert opened(tmp_path, seed=1).load_stage("search") == {"step": 2}


def test_a_run_whose_output_folder_was_deleted_ends_and_leaves_the_next_one_alone(tmp_path):
    target = tmp_path / "out"
    with open_run(target, SETTINGS, resume="auto") as first:
        first.save_stage("search", {"step": 1})
        shutil.rmtree(target)
        with open_run(target, {"seed": 1}, resume="auto") as second:
            second.save_stage("search", {"step": 2})
            with pytest.raises(OutputError, match="deleted or moved"):
                first.save_stage("search", {"step": 3})
            assert second.load_stage("search") == {"step": 2}
    assert {path.name for path in target.iterdir()} == {"run"}


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_second_run_in_the_folder_is_refused_and_moves_nothing(resume, tmp_path):
    with open_run(tmp_path, SETTINGS, resume="auto") as first:
        first.save_stage("search", {"step": 1})
        with pytest.raises(RunInUse, match=f"process {os.getpid()} "), open_run(tmp_path, SETTINGS, resume=resume):
            pass
        assert first.load_stage("search") == {"step": 1}
    with open_run(tmp_path, SETTINGS, resume=resume):
        pass


def test_folders_of_a_ladders_students_are_held_too_and_not_left_empty(tmp_path):
    ladder = open_run(tmp_path, SETTINGS, resume="auto", students=[tmp_path / "2x" / "student"])
    with ladder, pytest.raises(RunInUse, match="2x"), open_run(tmp_path / "2x", SETTINGS, resume="auto"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(tmp_path):
    ours = [
        "run/4x/.search.pt.{}.unfinished",
        "run/distil-0.partial",
        ".student.{}.unfinished",
        "student/.A2B.{}.unfinished",
    ]
    theirs = [
        ".student.unfinished",
        "notes.partial",
        ".student.1-1-0000000g.unfinished",
        "student/.thesis.unfinished.txt",
    ]
    dead = (
        unfinished_name(tmp_path / "x")
        .name.removeprefix(".x.")
        .replace(str(os.getpid()), str(ended()))
        .removesuffix(UNFINISHED)
    )
    earlier = f".student.unfinished-{ended()}"
    for name in (*ours, *theirs, f"{earlier}/inside"):
        path = tmp_path / name.format(dead)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with open_run(tmp_path, SETTINGS, resume="auto", students=[tmp_path / "student"]):
        pass
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(theirs)
    assert not (tmp_path / earlier).exists()


def ended() -> int:
    """The number of a process that is over."""
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_without_an_output_folder_rows_are_kept_in_memory_as_a_file_would_give_them(tmp_path):
    folder = RunFolder(None, {}, resume="auto")
    folder.append_row("scores", {"a": (1, 2)})
    assert folder.rows("scores") == [{"a": [1, 2]}]
    assert folder.rows("others") == []
