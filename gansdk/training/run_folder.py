"""What a run leaves on disk while it works: enough to continue after a kill, bit for bit, and only by itself."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from gansdk.errors import CheckpointError, IntegrityError, OutputError, ResumeMismatch
from gansdk.files import clear_unfinished, move_aside, put, remove, replacing
from gansdk.modules.weights import UNREADABLE, first_line
from gansdk.runtime.folder_lock import FolderLock
from gansdk.training.sealing import Opened, open_row, open_sealed, read_text, seal, sealed_row, settings_key

MIN_FREE_BYTES = 16 * 2**20
RUN = "run"
SETTINGS = "settings.json"
_MOST_NOTES, _MOST_SETTINGS = 2**28, 2**24
"""Bytes of the largest files of lines and of settings that are read."""
_MOST_CHANGES = 8
_GIVEN = "given."
_LONGEST_VALUE = 200


class RunFolder:
    """`out_dir/run`: settings.json and one STAGE.pt for every stage that was begun, each written atomically.

    Nothing is there before the first of them is saved, so that a run which is refused leaves nothing behind. Beside
    them, NAME.jsonl files that only grow: what a search has scored so far. Students of a ladder have their stages in
    folders of their own. Every state and every line has a checksum, and says whose it is: a file that was damaged, or
    that a run with other settings wrote, is refused.

    `open_run` makes one that no other run can be in.

    Args:
        out_dir: the run's output folder, or None to keep nothing.
        settings: JSON facts that decide the result; a folder made with others is refused.
        resume: "auto" continues what is there; "never" moves it aside and starts anew.
        lock: is held while the run is under way.

    Raises:
        OutputError: the folder cannot be written or its disk is full.
        ResumeMismatch: the folder was made with other settings; the message shows which.
        CheckpointError: the folder's files are damaged.
    """

    def __init__(
        self, out_dir: Path | None, settings: Mapping[str, Any], *, resume: str, lock: FolderLock | None = None
    ) -> None:
        self.path = None if out_dir is None else out_dir / RUN
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._key = settings_key(self._settings)
        self._lock = lock
        self._has_begun = False
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._lines: dict[str, int] = {}
        """How many rows there are by name, of those that were read."""
        if self.path is None or out_dir is None:
            return
        _check_writable(out_dir)
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise OutputError(
                f"'{self.path}' is not a folder, but a run needs a folder of that name. Choose another out_dir."
            )
        if resume == "never":
            move_aside(self.path)
        self._check_found(out_dir)

    def load_stage(self, stage: str) -> dict[str, Any] | None:
        """The last state of a stage; None if it was never saved.

        Raises:
            CheckpointError: the file is damaged, or of another stage.
            ResumeMismatch: a run with other settings saved it.
        """
        if self.path is None or not os.path.lexists(file := self._file(stage)):
            return None
        try:
            opened = open_sealed(file)
            self._check_owner(file, opened, stage)
            state: dict[str, Any] = torch.load(io.BytesIO(opened.content), weights_only=True, map_location="cpu")
        except (IntegrityError, *UNREADABLE) as error:
            raise damaged(file, error) from error
        return state

    def save_stage(self, stage: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a stage ("NAME", "FOLDER/NAME"); a kill at any moment leaves the old one or the new one.

        Raises:
            OutputError: it cannot be written, and the old one is kept; or the folder is not this run's any more.
        """
        if self.path is None:
            return
        self._begin()
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content, target = buffer.getbuffer(), self._file(stage)
        try:
            target.parent.mkdir(exist_ok=True)
            with replacing(target) as file:
                file.write(content)
                file.write(seal(content, name=stage, settings=self._key))
        except OSError as error:
            raise OutputError(f"{target} could not be written: {error}. The previous state is kept.") from error

    def append_row(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to NAME.jsonl; nothing that is there is ever changed. Without a folder, keep it in memory.

        Raises:
            OutputError: it cannot be written; or the folder is not this run's any more.
        """
        if self.path is None:
            self._rows.setdefault(name, []).append(json.loads(json.dumps(row)))
            return
        self._begin()
        if name not in self._lines:
            self.rows(name)
        file = self.path / f"{name}.jsonl"
        try:
            # Not forced to the disk each time: what a power cut takes of a search is scored again.
            _append(file, sealed_row(row, name=_numbered(name, self._lines[name]), settings=self._key))
        except OSError as error:
            raise OutputError(f"{file} could not be written: {error}. Earlier lines are kept.") from error
        self._lines[name] += 1

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of NAME.jsonl; what a kill left of an unfinished last line is taken off the file.

        Raises:
            CheckpointError: a line is damaged.
            ResumeMismatch: a run with other settings wrote one.
        """
        self._lines[name] = 0
        if self.path is None or not os.path.lexists(file := self.path / f"{name}.jsonl"):
            return list(self._rows.get(name, ()))
        try:
            content = read_text(file, limit=_MOST_NOTES)
            whole = content[: content.rfind(b"\n") + 1]
            rows: list[dict[str, Any]] = []
            for line in io.BytesIO(whole):
                seal, row = open_row(line)
                self._check_owner(file, seal, _numbered(name, len(rows)))
                rows.append(row)
            if len(whole) < len(content):
                os.truncate(file, len(whole))
        except (IntegrityError, *UNREADABLE) as error:
            raise damaged(file, error) from error
        self._lines[name] = len(rows)
        return rows

    def _file(self, stage: str) -> Path:
        assert self.path is not None
        return self.path / f"{stage}.pt"

    def _begin(self) -> None:
        """Make sure that the folder is this run's, and says so, before anything else is written there."""
        assert self.path is not None
        if self._lock is not None:
            self._lock.check()
        file = self.path / SETTINGS
        text = json.dumps(self._settings, indent=1).encode()
        try:
            content = read_text(file, limit=_MOST_SETTINGS) if file.exists() else None
            if content == text:
                self._has_begun = True
                return
            if self._has_begun and content is not None:
                raise OutputError(
                    f"'{file}' was changed during this run, so another run may be using the folder. This run stops and "
                    "writes nothing more there. Make sure that only one run at a time uses the folder, and start the "
                    "one you need again."
                )
            self.path.mkdir(parents=True, exist_ok=True)
            put(file, text)
        except (OSError, ValueError) as error:
            raise OutputError(f"{file} could not be written: {error}.") from error
        self._has_begun = True

    def _check_found(self, out_dir: Path) -> None:
        """Refuse files that this run cannot continue from, before any compute."""
        assert self.path is not None
        stages = {file: self._opened(file) for file in sorted(self.path.rglob("*.pt"))}
        begun = bool(stages) or any(self.path.glob("*.jsonl"))
        settings = self._read_settings()
        if begun and settings is not None and settings_key(settings) != self._key:
            if stages and set(stages.values()) == {self._key}:
                raise damaged(self.path / SETTINGS, IntegrityError("the states beside it have other settings"))
            raise ResumeMismatch(_difference(out_dir, settings, self._settings))
        for file, key in stages.items():
            if key != self._key:
                raise self._mismatch(file)
        for file in self.path.glob("*.jsonl"):
            self.rows(file.stem)

    def _opened(self, file: Path) -> str:
        """The settings that a state was saved with, once its checksum was found right."""
        try:
            return open_sealed(file).settings
        except (IntegrityError, *UNREADABLE) as error:
            raise damaged(file, error) from error

    def _check_owner(self, file: Path, opened: Opened, name: str) -> None:
        if opened.settings != self._key:
            raise self._mismatch(file)
        if opened.name != name:
            raise IntegrityError(f"it was written as {opened.name!r}")

    def _mismatch(self, file: Path) -> ResumeMismatch:
        return ResumeMismatch(
            f"'{file}' was saved by a run with other settings. Use the same settings to continue it, another out_dir, "
            "or resume='never' to move it aside and start anew."
        )

    def _read_settings(self) -> dict[str, Any] | None:
        assert self.path is not None
        file = self.path / SETTINGS
        if not os.path.lexists(file):
            return None
        try:
            settings = json.loads(read_text(file, limit=_MOST_SETTINGS))
        except UNREADABLE as error:
            raise damaged(file, error) from error
        if not isinstance(settings, dict):
            raise damaged(file, ValueError(f"it holds a {type(settings).__name__}"))
        return settings


@contextmanager
def open_run(
    out_dir: Path | None,
    settings: Mapping[str, Any],
    *,
    resume: str,
    students: Sequence[Path] = (),
    others: Sequence[str] = (),
) -> Iterator[RunFolder]:
    """A run's folder for itself, tidy, until the block ends; see `RunFolder`.

    `students` are the folders that the run will save students in, which lie in `out_dir` or in folders of their own
    below it, and `others` the names of what else it writes into `out_dir`: with resume="never" earlier ones are kept
    beside them, as the earlier run and students are.

    Raises:
        RunInUse: another run is under way there.
        GansdkError: as `RunFolder` says.
    """
    if out_dir is None:
        yield RunFolder(None, settings, resume=resume)
        return
    with ExitStack() as held:
        lock, *_ = [held.enter_context(FolderLock(place)) for place in _places(out_dir, students)]
        _clear(out_dir, [*students, *(out_dir / name for name in others)])
        if resume == "never":
            for name in others:
                move_aside(out_dir / name)
        yield RunFolder(out_dir, settings, resume=resume, lock=lock)


def _places(out_dir: Path, students: Sequence[Path]) -> list[Path]:
    """The run's folder, and those of a ladder's students, which runs of one student may be in too."""
    return list(dict.fromkeys([out_dir, *(student.parent for student in students)]))


def _clear(out_dir: Path, others: Sequence[Path]) -> None:
    """Remove what killed runs and saves did not finish; nobody is at work in the run's own folder."""
    run = out_dir / RUN
    for folder in dict.fromkeys([out_dir, *others, *(path.parent for path in others), run, *run.glob("*/")]):
        clear_unfinished(folder)
    for earlier in run.rglob("*.partial"):  # what an earlier version called them
        remove(earlier)


def damaged(file: Path | str, error: Exception) -> CheckpointError:
    """The error for a file of a run that cannot be continued from."""
    is_plain = isinstance(error, IntegrityError)
    reason = str(error) if is_plain else f"{type(error).__name__}: {first_line(error)}"
    return (IntegrityError if is_plain else CheckpointError)(
        f"'{file}' is damaged, or is not a state of this run ({reason}), so the run cannot be continued. Use "
        "resume='never' to move it aside and start anew."
    )


def _numbered(name: str, row: int) -> str:
    """What a row's seal says whose it is, so that none is left out or moved."""
    return f"{name} {row}"


def _append(file: Path, line: bytes) -> None:
    """Add a line, or nothing of it."""
    with file.open("ab", buffering=0) as lines:
        before = lines.seek(0, os.SEEK_END)
        try:
            if lines.write(line) < len(line):
                raise OSError(28, "No space left on device")
        except OSError:
            with suppress(OSError):
                lines.truncate(before)
            raise


def _check_writable(out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out_dir) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(out_dir).free
    except OSError as error:
        raise OutputError(f"out_dir={str(out_dir)!r} cannot be written: {error}. Choose another folder.") from error
    if free < MIN_FREE_BYTES:
        raise OutputError(
            f"out_dir={str(out_dir)!r}: its disk has {free} bytes left. Free some or choose another folder."
        )


def _difference(out_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    differing = dict(_changes("", before, now))
    names = {name for name in differing if not name.startswith(_GIVEN)}  # an option as given, and as the part has it
    changes = [
        f"{name}: {change}"
        for name, change in differing.items()
        if name in names or name.removeprefix(_GIVEN).replace(".options.", ".") not in names
    ]
    listed = "; ".join(changes[:_MOST_CHANGES]) + (", and more" if len(changes) > _MOST_CHANGES else "")
    return (
        f"{str(out_dir)!r} holds a run with other settings ({listed}). Use the same settings to continue it, "
        "another out_dir, or resume='never' to move it aside and start anew."
    )


def _changes(name: str, before: Any, now: Any) -> Iterator[tuple[str, str]]:
    """Where two JSON values differ, and how: "pruner.population" and "6 there, 8 now"."""
    if settings_key(before) == settings_key(now):
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for kind in ("part", "name"):
            if before.get(kind) != now.get(kind):  # of two classes, or two plugins, no option compares
                yield name, f"{_shown(before.get(kind))} there, {_shown(now.get(kind))} now"
                return
        for key in sorted({*before, *now}):
            part = _shown(key)
            yield from _changes(f"{name}.{part}" if name else part, before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _changes(f"{name}[{index}]", *pair)
    else:
        yield name, f"{_shown(before, quoted=True)} there, {_shown(now, quoted=True)} now"


def _shown(value: Any, *, quoted: bool = False) -> str:
    """A value in a message: short, and without what a terminal would act on."""
    text = repr(value)
    plain = text if quoted or not isinstance(value, str) else text[1:-1]
    return plain if len(plain) <= _LONGEST_VALUE else f"{plain[:_LONGEST_VALUE]}..."
