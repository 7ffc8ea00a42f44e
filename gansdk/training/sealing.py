"""What binds the files of a run to it: a checksum over the content, its name and the settings. Torch-free."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gansdk.errors import IntegrityError
from gansdk.files import read_held, regular, sha256

SEAL = "seal"
"""Name of the seal in a line of a file that grows."""
ROW_FACTS = {"name": str, "settings": str}
FILE_FACTS = {**ROW_FACTS, "bytes": int}
"""What a seal says beside the checksum, which is over that and the content."""
_LONGEST_SEAL = 4096


class Opened(NamedTuple):
    """A sealed file, its checksum found right."""

    name: str
    settings: str
    content: bytes


def settings_key(settings: Any) -> str:
    """What the settings of a run are known by: equal for equal JSON values, 1 and 1.0 too."""
    return sha256(json.dumps(_plain(settings), sort_keys=True).encode())


def seal(content: bytes | memoryview, *, name: str, settings: str) -> bytes:
    """The line that ends a file, after its content, which other programs can read as if it were not there."""
    facts = {"name": name, "settings": settings, "bytes": len(content)}
    return b"\n" + json.dumps({**facts, "sha256": _checksum(facts, content)}).encode()


def open_sealed(file: Path) -> Opened:
    """Read a file that ends with a seal.

    Raises:
        IntegrityError: it is not as it was written.
        OSError: it cannot be read.
        ValueError: it has no seal.
    """
    with regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, size - _LONGEST_SEAL))
        line = opened.read(_LONGEST_SEAL).rpartition(b"\n")[2]
        facts = _parsed(line, FILE_FACTS)
        if size != facts["bytes"] + 1 + len(line):  # before a huge file is read
            raise IntegrityError(f"it has {size} bytes and was written with {facts['bytes']} + {1 + len(line)}")
        opened.seek(0)
        content = opened.read(facts["bytes"])
    _check(facts, FILE_FACTS, content)
    return Opened(facts["name"], facts["settings"], content)


def sealed_row(row: Mapping[str, Any], *, name: str, settings: str) -> bytes:
    """A line of a file that grows: the row, and its seal beside it."""
    facts = {"name": name, "settings": settings}
    plain = json.loads(json.dumps(row))
    return json.dumps({**plain, SEAL: {**facts, "sha256": _checksum(facts, _row_bytes(plain))}}).encode() + b"\n"


def open_row(line: bytes) -> tuple[Opened, dict[str, Any]]:
    """Read a line of a file that grows.

    Raises:
        IntegrityError: it is not as it was written.
        ValueError: it is no such line.
    """
    row = json.loads(line)
    facts = _checked_kinds(row.pop(SEAL, None) if isinstance(row, dict) else None, ROW_FACTS)
    content = _row_bytes(row)
    _check(facts, ROW_FACTS, content)
    return Opened(facts["name"], facts["settings"], content), row


def read_text(file: Path, *, limit: int) -> bytes:
    """The bytes of a text of at most `limit`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or no file.
    """
    return read_held(file, limit)


def _parsed(line: bytes, facts: Mapping[str, type]) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        parsed = None
    return _checked_kinds(parsed, facts)


def _checked_kinds(seal: Any, facts: Mapping[str, type]) -> dict[str, Any]:
    kinds = {**facts, "sha256": str}
    if not isinstance(seal, dict) or any(not isinstance(seal.get(name), kind) for name, kind in kinds.items()):
        raise ValueError("it has no checksum where this version of gansdk writes one")
    return seal


def _check(seal: Mapping[str, Any], names: Iterable[str], content: bytes) -> None:
    if _checksum({name: seal[name] for name in names}, content) != seal["sha256"]:
        raise IntegrityError("it has another checksum than when it was written")


def _checksum(facts: Mapping[str, Any], content: bytes | memoryview) -> str:
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(content)
    return digest.hexdigest()


def _row_bytes(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
