"""Folders with a table of their images, as Hugging Face's "imagefolder" data sets have them."""

from __future__ import annotations

import csv
import json
import os.path
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any

from gansdk.errors import DataError, InvalidOption
from gansdk.text import quoted
from gansdk.validation.paths import as_utf8
from gansdk_adapters.sources.finding import HELD_OUT, TRAIN, Found, split_of
from gansdk_adapters.sources.scenes import Scene, View

TABLES = ("metadata.jsonl", "metadata.csv")

INPUTS = ("input", "conditioning", "conditioning_image", "source", "original", "label")
TARGETS = ("target", "output", "edited", "edited_image", "ground_truth")
"""Columns by their role, with or without `_file_name` or `_image` behind; `file_name` has the role that is left."""

LARGEST_TABLE = 2**28
"""Bytes: a description of more than a million images."""

Row = Mapping[str, Any]


def has_metadata(path: Path) -> bool:
    """Whether the folder, or one of its splits, has a table of its images."""
    return any((folder / table).is_file() for folder in _folders(path) for table in TABLES)


def find_described(path: Path, *, input_column: str | None = None, target_column: str | None = None) -> Found:
    """Scenes as `metadata.jsonl` or `metadata.csv` says, here (paths may begin with `train/`) or in each split.

    Columns are `file_name` and one more with a path relative to the table: "target_file_name" and its like are
    targets, "conditioning_image" and its like inputs (`INPUTS`, `TARGETS`); `input_column` and `target_column` say
    otherwise. Without such a column there are inputs only. Other columns and class folders do not matter. Parquet
    files are not read.

    Raises:
        DataError: there is no table, it cannot be read, or a file in it does not exist.
        InvalidOption: a column that the table does not have.
    """
    scenes: dict[str, list[Scene]] = {}
    for folder in _folders(path):
        for table in (folder / name for name in TABLES):
            if table.is_file():
                for scene in _scenes(table, path, input_column, target_column):
                    scenes.setdefault(split_of(PurePosixPath(scene.name).parts[0]) or TRAIN, []).append(scene)
                break
    if not scenes:
        raise DataError(f"The folder {str(path)!r} has neither {' nor '.join(TABLES)}, here or in {TRAIN}.")
    held_out = next((scenes[split] for split in HELD_OUT if split in scenes), [])
    return Found(train=tuple(scenes.get(TRAIN, ())), held_out=tuple(held_out))


def _folders(path: Path) -> list[Path]:
    """Where tables may be: here, and in every split."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return [path, *(place for place in inside if split_of(place.name))]


def _scenes(table: Path, root: Path, input_column: str | None, target_column: str | None) -> Iterator[Scene]:
    rows = _rows(table)
    columns = [column for column in rows[0] if column is not None] if rows else []  # None: more values than columns
    for option, column in {"input_column": input_column, "target_column": target_column}.items():
        if column is not None and column not in columns:
            raise InvalidOption(f"{option}={quoted(column)}, but {str(table)!r} has the columns {_named(columns)}.")
    inputs, targets = _columns(columns, input_column, target_column)
    if inputs is None:
        raise DataError(f"{str(table)!r} has no column file_name, but {_named(columns)}.")
    seen: set[str] = set()
    for number, row in enumerate(rows):
        image = _file(table, row, inputs, number)
        target = None if targets is None else View(_file(table, row, targets, number))
        name = as_utf8(image.relative_to(root).as_posix())
        # One photograph may be in several rows, with another target in each.
        yield Scene(f"{name} (row {number + 1})" if name in seen else name, View(image), target)
        seen.add(name)


def _columns(columns: list[str], input_column: str | None, target_column: str | None) -> tuple[str | None, str | None]:
    """Names of the columns of inputs and of targets."""
    inputs = input_column or next((column for column in columns if _means(column, INPUTS)), None)
    targets = target_column or next((column for column in columns if _means(column, TARGETS)), None)
    left = next((column for column in ("file_name", "image_file_name", "image") if column in columns), None)
    if inputs is None and left != targets:
        return left, targets
    return inputs, targets if targets is not None or left == inputs else left


def _is_below(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _named(columns: list[str]) -> str:
    return shorten(", ".join(columns), 200) or "none at all"


def _means(column: str, roles: tuple[str, ...]) -> bool:
    return any(column in (role, f"{role}_file_name", f"{role}_image", f"{role}_image_file_name") for role in roles)


def _rows(table: Path) -> list[Row]:
    if table.stat().st_size > LARGEST_TABLE:
        raise DataError(f"{str(table)!r} has more than {LARGEST_TABLE:,} bytes. Split the folder.")
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            rows = (
                list(csv.DictReader(lines)) if table.suffix == ".csv" else [json.loads(x) for x in lines if x.strip()]
            )
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{str(table)!r} cannot be read: {error}. Each line must describe one image.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{str(table)!r} has lines that are not JSON objects. Write {{"file_name": ...}} on each line.')
    return rows


def _file(table: Path, row: Row, column: str, number: int) -> Path:
    name = row.get(column)
    if not isinstance(name, str) or not _is_below(name) or not os.path.isfile(table.parent / name):
        raise DataError(
            f"Row {number + 1} of {str(table)!r} has {column}={quoted(name)}, but there is no such file next to it."
        )
    return table.parent / name
