"""What a run leaves on disk while it works: enough to continue after a kill, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gansdk.checkpoints import UNREADABLE, first_line
from gansdk.errors import CheckpointError, OutputError, ResumeMismatch
from gansdk.files import put

MIN_FREE_BYTES = 16 * 2**20
SETTINGS = "settings.json"


class RunFolder:
    """`out_dir/run`: settings.json and one STAGE.pt for every stage that was begun, each written atomically.

    Nothing is there before the first of them is saved, so that a run which is refused leaves nothing behind. Beside
    them, NAME.jsonl files that only grow: what a search has scored so far. Students of a ladder have their stages in
    folders of their own.

    Args:
        out_dir: the run's output folder, or None to keep nothing.
        settings: JSON facts that decide the result; a folder made with others is refused.
        resume: "auto" continues what is there; "never" moves it aside and starts anew.

    Raises:
        OutputError: the folder cannot be written or its disk is full.
        ResumeMismatch: the folder was made with other settings; the message shows which.
        CheckpointError: the folder's files are damaged.
    """

    def __init__(self, out_dir: Path | None, settings: Mapping[str, Any], *, resume: str) -> None:
        self.path = None if out_dir is None else out_dir / "run"
        self._wanted: dict[str, Any] | None = None
        self._rows: dict[str, list[dict[str, Any]]] = {}
        if self.path is None or out_dir is None:
            return
        _check_writable(out_dir)
        if resume == "never":
            move_aside(out_dir)
        if self.path.is_file():
            raise OutputError(
                f"'{self.path}' is a file, but a run keeps a folder of that name. Choose another out_dir."
            )
        known = self._read_settings()
        wanted = json.loads(json.dumps(settings))
        if known is not None and known != wanted and self._has_begun():
            raise ResumeMismatch(_difference(out_dir, known, wanted))
        self._wanted = wanted

    def load_stage(self, stage: str) -> dict[str, Any] | None:
        """The last state of a stage; None if it was never saved.

        Raises:
            CheckpointError: the file is damaged.
        """
        if self.path is None or not (self.path / f"{stage}.pt").exists():
            return None
        file = self.path / f"{stage}.pt"
        try:
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        except UNREADABLE as error:
            raise damaged(file, error) from error
        return state

    def save_stage(self, stage: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a stage ("NAME", "FOLDER/NAME"); a kill at any moment leaves the old one or the new one.

        Raises:
            OutputError: it cannot be written; the old one is kept.
        """
        if self.path is None:
            return
        self._begin()
        target = self.path / f"{stage}.pt"
        partial = target.with_suffix(".partial")
        try:
            target.parent.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{target} could not be written: {error}. The previous state is kept.") from error

    def append_row(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to NAME.jsonl; nothing that is there is ever changed. Without a folder, keep it in memory.

        Raises:
            OutputError: it cannot be written.
        """
        if self.path is None:
            self._rows.setdefault(name, []).append(json.loads(json.dumps(row)))
            return
        self._begin()
        file = self.path / f"{name}.jsonl"
        try:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"{file} could not be written: {error}. The lines before are kept.") from error

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of NAME.jsonl; what a kill left of an unfinished last line is taken off the file.

        Raises:
            CheckpointError: a line is damaged.
        """
        if self.path is None or not (self.path / f"{name}.jsonl").exists():
            return list(self._rows.get(name, ()))
        file = self.path / f"{name}.jsonl"
        try:
            content = file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(file, len(whole))
            return [dict(json.loads(line)) for line in whole.splitlines()]
        except (OSError, ValueError, TypeError) as error:
            raise damaged(file, error) from error

    def _begin(self) -> None:
        """Write the settings, before anything else is written."""
        if self._wanted is not None:
            self._write_settings(self._wanted)
            self._wanted = None

    def _has_begun(self) -> bool:
        """Whether anything was done; a run killed before that binds nobody."""
        assert self.path is not None
        return any(file.name != SETTINGS for file in self.path.iterdir())

    def _read_settings(self) -> dict[str, Any] | None:
        assert self.path is not None
        file = self.path / SETTINGS
        if not file.exists():
            return None
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise damaged(file, error) from error
        if not isinstance(known, dict):
            raise damaged(file, ValueError(f"it holds a {type(known).__name__}"))
        return known

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        assert self.path is not None
        file = self.path / SETTINGS
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            put(file, json.dumps(settings, indent=1))
        except OSError as error:
            raise OutputError(f"{file} could not be written: {error}.") from error


def damaged(file: Path | str, error: Exception) -> CheckpointError:
    """The error for a file of a run that cannot be continued from."""
    return CheckpointError(
        f"'{file}' is damaged, or no state of this run ({type(error).__name__}: {first_line(error)}), so the run "
        "cannot be continued. Use resume='never' to move it aside and start anew."
    )


def _check_writable(out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        probe = out_dir / ".writable"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(out_dir).free
    except OSError as error:
        raise OutputError(f"out_dir={str(out_dir)!r} cannot be written: {error}. Choose another folder.") from error
    if free < MIN_FREE_BYTES:
        raise OutputError(
            f"out_dir={str(out_dir)!r}: its disk has {free} bytes left. Free some or choose another folder."
        )


def move_aside(path: Path) -> Path | None:
    """Rename what is at `path` to the first free NAME.old-N; nothing already made is ever deleted."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    aside = free_name(path)
    path.rename(aside)
    return aside


def free_name(path: Path) -> Path:
    """The first NAME.old-N beside `path` that nothing has."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def _difference(out_dir: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    changes = "; ".join(_changes("", known, wanted))
    return (
        f"{str(out_dir)!r} holds a run with other settings ({changes}). Use the same settings to continue it, "
        "another out_dir, or resume='never' to move it aside and start anew."
    )


def _changes(name: str, known: Any, wanted: Any) -> Iterator[str]:
    """Where two JSON values differ: "pruner.population: 6 there, 8 now"."""
    if known == wanted:
        return
    if isinstance(known, dict) and isinstance(wanted, dict):
        if known.get("part") != wanted.get("part"):  # of two classes no option compares
            yield f"{name}: {known.get('part')} there, {wanted.get('part')} now"
            return
        for key in sorted({*known, *wanted}):
            yield from _changes(f"{name}.{key}" if name else key, known.get(key), wanted.get(key))
    elif isinstance(known, list) and isinstance(wanted, list) and len(known) == len(wanted):
        for index, pair in enumerate(zip(known, wanted, strict=True)):
            yield from _changes(f"{name}[{index}]", *pair)
    else:
        yield f"{name}: {known!r} there, {wanted!r} now"
