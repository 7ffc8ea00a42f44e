"""A folder is held by one run at a time, and by nobody once that is over or dead."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from gansdk.errors import GansdkWarning, OutputError, RunInUse
from gansdk.runtime.folder_lock import LOCK, FolderLock

HOLDER = """
import os, sys, time
from pathlib import Path
from gansdk.runtime.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.close(1)
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_the_folder_and_since_when(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(RunInUse, match=rf"process {process.pid} on .* since 20\d\d-") as refused:
            FolderLock(tmp_path)
        assert "choose another out_dir" in str(refused.value)
    finally:
        kill(process)


def test_a_kill_lets_the_folder_go_and_the_next_holder_leaves_nothing(tmp_path):
    kill(hold(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_killed_parent_does_not_keep_the_folder(tmp_path):
    process = hold(tmp_path, "fork")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    kill(process)
    with FolderLock(tmp_path):
        pass
    os.kill(int(children.stdout), signal.SIGKILL)


def test_threads_of_a_process_are_runs_of_their_own(tmp_path):
    found = []

    def second():
        try:
            FolderLock(tmp_path)
        except RunInUse as error:
            found.append(error)

    with FolderLock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(found) == 1


def test_a_folder_is_held_again_and_again(tmp_path):
    for _ in range(3):
        with FolderLock(tmp_path) as lock:
            lock.check()


@pytest.mark.parametrize("gone", ["lock", "folder", "moved"])
def test_a_folder_that_went_away_is_noticed_and_what_took_its_place_is_left_alone(gone, tmp_path):
    target = tmp_path / "out"
    with FolderLock(target) as lock:
        if gone == "lock":
            (target / LOCK).unlink()
        else:
            target.rename(tmp_path / "elsewhere")
        with pytest.raises(OutputError, match="deleted or moved"):
            lock.check()
        with FolderLock(target) as second:
            second.check()
            with pytest.raises(OutputError, match="deleted or moved"):
                lock.check()
        (target / LOCK).parent.mkdir(exist_ok=True)
        (target / LOCK).write_text("another's")
    assert (target / LOCK).read_text() == "another's"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_nothing_can_be_locked_a_run_goes_on_with_a_warning(number, tmp_path, monkeypatch):
    def impossible(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", impossible)
    with pytest.warns(GansdkWarning, match="cannot be locked"), FolderLock(tmp_path) as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 4000, b'{"pid": "\\u001b[31m"}'])
def test_a_holder_that_did_not_sign_is_refused_to_be_disturbed_too(content, tmp_path):
    with FolderLock(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(RunInUse, match="unidentified process"):
            FolderLock(tmp_path)


def test_what_a_holder_says_is_shown_short_and_without_terminal_codes(tmp_path):
    with FolderLock(tmp_path):
        facts = dict.fromkeys(("pid", "host", "user", "command", "since"), "\x1b[31m" + "x" * 700)
        (tmp_path / LOCK).write_text(json.dumps(facts))
        with pytest.raises(RunInUse) as refused:
            FolderLock(tmp_path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="cannot be written"):
        FolderLock(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        FolderLock(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("held", [True, False])
def test_a_lock_of_another_user_is_respected_while_it_is_held_and_replaced_after(held, tmp_path):
    process = hold(tmp_path)
    if not held:
        kill(process)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            with FolderLock(tmp_path):
                os._exit(0)
        except RunInUse:
            os._exit(3)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (3 if held else 0)
    if held:
        kill(process)
