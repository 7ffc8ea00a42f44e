"""What a run leaves on disk while it works: enough to continue after a kill, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gansdk.errors import OutputError, ResumeMismatch

MIN_FREE_BYTES = 16 * 2**20


class RunFolder:
    """`out_dir/run`: settings.json, plan.json and one stage-N.pt per training stage, each written atomically.

    Args:
        out_dir: the run's output folder, or None to keep nothing.
        settings: JSON facts that decide the result; a folder made with others is refused.
        resume: "auto" continues what is there; "never" moves it aside and starts anew.
        writes: whether this process is the one that writes.

    Raises:
        OutputError: the folder cannot be written or its disk is full.
        ResumeMismatch: the folder was made with other settings; the message shows which.
    """

    def __init__(self, out_dir: Path | None, settings: Mapping[str, Any], *, resume: str, writes: bool) -> None:
        self.path = None if out_dir is None else out_dir / "run"
        self._writes = writes
        if self.path is None or out_dir is None:
            return
        if writes:
            _check_writable(out_dir)
            if resume == "never":
                move_aside(out_dir)
            self.path.mkdir(parents=True, exist_ok=True)
        known = self._read_json("settings.json")
        wanted = json.loads(json.dumps(settings))
        if known is not None and known != wanted:
            raise ResumeMismatch(_difference(out_dir, known, wanted))
        self._write_json("settings.json", wanted)

    def load_plan(self) -> dict[str, list[int]] | None:
        """The plan of an earlier start of this run."""
        plan: dict[str, list[int]] | None = self._read_json("plan.json")
        return plan

    def save_plan(self, plan: Mapping[str, list[int]]) -> None:
        """Keep the plan, so that a resumed run does not search again."""
        self._write_json("plan.json", plan)

    def load_stage(self, number: int) -> dict[str, Any] | None:
        """The last state of a training stage."""
        if self.path is None or not (self.path / f"stage-{number}.pt").exists():
            return None
        state: dict[str, Any] = torch.load(self.path / f"stage-{number}.pt", weights_only=True, map_location="cpu")
        return state

    def save_stage(self, number: int, state: Mapping[str, Any]) -> None:
        """Replace the state of a training stage; a kill at any moment leaves the old one or the new one."""
        if self.path is None or not self._writes:
            return
        target = self.path / f"stage-{number}.pt"
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{target} could not be written: {error}. The previous state is kept.") from error

    def _read_json(self, name: str) -> Any:
        if self.path is None or not (self.path / name).exists():
            return None
        return json.loads((self.path / name).read_text())

    def _write_json(self, name: str, data: Any) -> None:
        if self.path is None or not self._writes:
            return
        partial = self.path / f"{name}.partial"
        try:
            partial.write_text(json.dumps(data, indent=1))
            partial.replace(self.path / name)
        except OSError as error:
            raise OutputError(f"{self.path / name} could not be written: {error}.") from error


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
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def _difference(out_dir: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    rows = [
        f"{key}: {known.get(key)!r} there, {wanted.get(key)!r} now"
        for key in sorted({*known, *wanted})
        if known.get(key) != wanted.get(key)
    ]
    return (
        f"{str(out_dir)!r} holds a run with other settings ({'; '.join(rows)}). Use the same settings to continue it, "
        "another out_dir, or resume='never' to move it aside and start anew."
    )
