"""A file is replaced whole, or stays as it was."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from gansdk import files
from gansdk.files import clear_unfinished, put, replacing, sync_tree, temporary_folder, unfinished_name


def test_what_was_there_stays_if_the_new_content_cannot_be_put_in_its_place(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    put(path, "old äöü")
    assert path.read_bytes() == "old äöü".encode()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space"):
        put(path, b"new")
    assert path.read_bytes() == "old äöü".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_file_reaches_the_disk_before_its_name_does_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append(kind(descriptor)), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    put(tmp_path / "state.pt", b"state")
    assert done == ["file", "rename", "folder"]


def test_all_files_of_a_tree_reach_the_disk_and_then_their_folders(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_text("")
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    sync_tree(tmp_path)
    assert sorted(done) == sorted(map(str, (tmp_path, *tmp_path.rglob("*"))))
    assert done[-1] == str(tmp_path)


def kind(descriptor):
    return "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "state.pt"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_disk_takes_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 127)
    put(path, "content")
    assert list(tmp_path.iterdir()) == [path]


def left_by(pid: int, folder: Path, *, name: str = "state.pt", machine: str | None = None) -> Path:
    """A file that a process was writing."""
    front, number, here = unfinished_name(folder / name).name.removesuffix(".unfinished").rsplit("-", 2)
    path = folder / f"{front.removesuffix(str(os.getpid()))}{pid}-{number}-{machine or here}.unfinished"
    path.write_text("half of it")
    return path


@pytest.fixture
def ended():
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


@pytest.mark.parametrize("name", ["state.pt", 100 * "lo" + ".pt"])
def test_what_a_killed_writer_left_is_removed_by_the_next_one_of_that_file(name, ended, tmp_path):
    left_by(ended, tmp_path, name=name)
    other = left_by(ended, tmp_path, name="other.pt")
    put(tmp_path / name, b"state")
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


def test_what_somebody_is_writing_is_left_alone(ended, tmp_path):
    kept = [left_by(os.getpid(), tmp_path), left_by(os.getppid(), tmp_path), left_by(ended, tmp_path, machine="0" * 8)]
    for name in (".state.unfinished", ".state.1-1-1.unfinished", f".state.pt.{ended}.bak", "state.unfinished"):
        kept.append(tmp_path / name)
        kept[-1].mkdir()
    clear_unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)


def test_what_other_machines_left_is_removed_after_a_day(tmp_path):
    left = left_by(1, tmp_path, machine="0" * 8)
    os.utime(left, (time.time() - 1.1 * files.DAY_S,) * 2)
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_process_of_this_number_left_is_removed(tmp_path):
    """Containers begin to count anew."""
    left = left_by(os.getpid(), tmp_path)
    os.utime(left, (1, 1))
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_a_kill_left_is_removed_by_the_next(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path))
    left = left_by(ended, tmp_path, name="gansdk")
    left.unlink()
    left.mkdir()
    (left / "state.pt").write_text("large")
    (tmp_path / "gansdk-out").mkdir()
    with temporary_folder() as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, "gansdk-out"}
    assert [path.name for path in tmp_path.iterdir()] == ["gansdk-out"]
