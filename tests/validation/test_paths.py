"""Paths are refused in words before anything is computed for them."""

import os
from pathlib import Path

import pytest

from gansdk.errors import OutputError
from gansdk.testing import hostile
from gansdk.validation.paths import as_utf8, check_file, check_folder, given_path, output_path


def test_a_name_that_is_not_utf_8_can_be_printed_and_told_apart():
    assert as_utf8("café.png") == "café.png"
    assert as_utf8(Path(os.fsdecode(b"caf\xe9.png"))) == r"caf\udce9.png"
    assert as_utf8("\ud800") == r"\ud800"


FOLDERS = {
    "link": None,
    "others": None,
    "link to a folder of others": None,
    "loop": "a symbolic link",
    "dangling": "a symbolic link",
    "file": "is a file",
    "fifo": "no regular file",
    "socket": "no regular file",
    "below a file": "is a file, but",
    "below a loop": "leads back to itself",
    "too long a name": "too long",
    "no unicode": "not UTF-8",
}
FILES = {**FOLDERS, "file": None, "others": "is a folder", "link": "a symbolic link"}
FILES["link to a folder of others"] = "a symbolic link"


@pytest.mark.parametrize(("check", "refused"), [(check_folder, FOLDERS), (check_file, FILES)])
def test_what_is_at_a_path_is_known_before_it_is_written_to(check, refused, tmp_path):
    for name, path in hostile.places(tmp_path):
        if refused[name] is None:
            assert check(path, "out") == path
            continue
        with pytest.raises(OutputError, match=refused[name]) as told:
            check(path, "out")
        assert "\n" not in str(told.value)
        str(told.value).encode()
    assert check(tmp_path / "new" / "deep", "out") == tmp_path / "new" / "deep"


def test_a_folder_that_may_not_be_written_to_is_somebody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for check in (check_folder, check_file):
        with pytest.raises(OutputError, match="no permission to write to"):
            check(tmp_path / "new", "out")


@pytest.mark.parametrize("value", hostile.VALUES)
def test_no_value_gives_more_than_a_path_or_a_short_refusal(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for check in (given_path, output_path, check_folder, check_file):
        hostile.told(lambda check=check: check(hostile.VALUES[value](), "out"))
    assert not list(tmp_path.iterdir())
