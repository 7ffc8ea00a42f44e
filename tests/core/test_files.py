"""A file is replaced whole, or stays as it was."""

import pytest

from gansdk.files import put


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
