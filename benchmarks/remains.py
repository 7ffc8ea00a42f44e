"""What a command has left on disk, without what differs between two runs of it: seconds, and the bytes of a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from gansdk.errors import IntegrityError
from gansdk.training.sealing import open_row

LOCKS = re.compile(r"(^|/)\.?(lock|[^/]*\.lock)$")
"""Files that say who works in a folder; they may stay and hold anything."""
SECONDS = re.compile(r"<td>seconds</td><td>[^<]*</td>")

Facts = dict[str, str]
"""File below a folder -> digest of what it says; an empty folder, by its name and a slash, has none."""


def facts(folder: Path) -> Facts:
    """Of every file below a folder, or of the file itself. It loads tensors, so call it by `in_child`."""
    if folder.is_file():
        return {"": _digest(folder)}
    found: Facts = {}
    for place, folders, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not LOCKS.search(relative := str(path.relative_to(folder))):
                found[relative] = _digest(path)
        if not folders and not names and place != str(folder):
            found[f"{Path(place).relative_to(folder)}/"] = ""
    return found


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What should not be there, folders as one, and what is missing or says something else."""
    known = {str(folder) for name in expected for folder in (Path(name), *Path(name).parents)}
    extra = sorted({_outermost(Path(name), known) for name in found.keys() - expected.keys()})
    lost = [f"no {name}" for name in sorted(expected.keys() - found.keys())]
    changed = [name for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    return extra, lost + changed


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file's time, size and inode: another snapshot equals it if nothing has changed."""
    seen: dict[str, tuple[int, int, int]] = {}
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    about = entry.stat(follow_symlinks=False)
                    seen[entry.path] = (about.st_mtime_ns, about.st_size, about.st_ino)
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
    return seen


def _outermost(path: Path, known: Set[str]) -> str:
    """The outermost folder of a path that is not known, or the path."""
    unknown = [folder for folder in (path, *path.parents) if str(folder) not in known]
    return str((unknown or [path])[-1])


def _digest(path: Path) -> str:
    if path.suffix == ".pt":
        return _of_state(path)
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        try:
            lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
            content = json.dumps([_lasting_file(json.loads(line), path.parent) for line in lines]).encode()
        except (ValueError, IntegrityError):
            return f"damaged, {_sha256(content)}"
    elif path.suffix in (".html", ".md"):
        content = SECONDS.sub("", content.decode()).encode()
    return _sha256(content)


def _lasting(value: Any, folder: Path) -> Any:
    """JSON data without seconds; a checksum that belongs to a file of the folder becomes a word."""
    if isinstance(value, dict):
        return {key: _checked(key, item, folder) for key, item in value.items() if key != "seconds"}
    return [_lasting(item, folder) for item in value] if isinstance(value, list) else value


def _lasting_file(value: Any, folder: Path) -> Any:
    """As `_lasting`; the checksum that a config has of itself, with its seconds, becomes a word too.

    Raises:
        ValueError: a row differs from its seal.
    """
    lasting = _lasting(value, folder)
    if isinstance(value, dict) and "seal" in value:  # of a row, with its seconds
        open_row(json.dumps(value).encode())
        del lasting["seal"]
    if isinstance(value, dict) and "checksum" in value:
        rest = {key: item for key, item in value.items() if key != "checksum"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        lasting["checksum"] = "right" if _sha256(text.encode()) == value["checksum"] else "wrong"
    return lasting


def _checked(key: str, value: Any, folder: Path) -> Any:
    file = folder / key
    if isinstance(value, str) and len(value) == 64 and file.is_file():
        return "right" if _sha256(file.read_bytes()) == value else "wrong"
    return _lasting(value, folder)


def _of_state(path: Path) -> str:
    """By values: a state that was read and written again has other bytes in its pickle."""
    import torch

    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # any of torch's, for a file that is damaged
        return f"damaged, {type(error).__name__}"
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                digest.update(f"{key!r}:".encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)} items".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r};".encode())

    add(state)
    return digest.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
