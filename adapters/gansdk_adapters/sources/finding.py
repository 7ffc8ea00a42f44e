"""Which files of a folder belong together, by the folders they are in and the names they share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gansdk.errors import DataError
from gansdk_adapters.sources.folder import image_files
from gansdk_adapters.sources.scenes import Scene

TRAIN = "train"
HELD_OUT = ("val", "validation", "test")
"""Folders of images that are never trained on; the first that exists is scored on."""

_SPLIT = re.compile(r"(train|validation|val|test)(20\d\d)?")
_CITYSCAPES = re.compile(r"_(gt(Fine|Coarse)_(labelIds|instanceIds)|leftImg8bit)$")
_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The scenes of a folder, in the order of their names."""

    train: tuple[Scene, ...]
    held_out: tuple[Scene, ...] = ()
    """Of a folder of their own, to score on."""
    others: tuple[Scene, ...] = ()
    """Images of the other domain to train on, where nothing is paired."""
    others_held_out: tuple[Scene, ...] = ()
    """Images of the other domain in a folder of their own, to compare with."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a folder holds by its name, and by the ending of its files' names where that tells."""

    names: tuple[str, ...]
    """Of which "." is the folder of a split itself."""
    ending: str = ""

    def folder(self, path: Path, split: str) -> Path | None:
        """The folder of one split: `train_label`, `train/label`, `label/train`, `trainlabel`; of none, `label`."""
        for name in self.names:
            places = (f"{split}_{name}", f"{split}/{name}", f"{name}/{split}", f"{split}{name}") if split else (name,)
            for place in places:
                if (folder := path / place) != path and folder.is_dir():
                    return folder
        return None

    def files(self, path: Path, split: str) -> dict[str, Path]:
        """What partners share of their names -> file; empty if there is no such folder.

        Raises:
            DataError: two files share a name but for the suffix.
        """
        folder = self.folder(path, split)
        files: dict[str, Path] = {}
        for name, file in image_files(folder).items() if folder else ():
            stem = PurePosixPath(name).with_suffix("").as_posix()
            if stem.endswith(self.ending):
                key = _CITYSCAPES.sub("", stem)
                if key in files:
                    raise DataError(f"{str(file)!r} and {files[key].name!r} have the same name. Remove one of them.")
                files[key] = file
        return files


def split_of(folder: str) -> str | None:
    """Which of `TRAIN` and `HELD_OUT` a folder is by its name, with or without a year (COCO's `train2017`)."""
    match = _SPLIT.fullmatch(folder)
    return match[1] if match else None


def splits(path: Path, roles: Iterable[Role]) -> tuple[list[str], list[str]]:
    """Names of the splits to train and to score on; to train on "", which is no split, where there are none at all."""
    roles = tuple(roles)
    parents = (path, *(path / name for role in roles for name in role.names))
    inside = {place.name for parent in parents if parent.is_dir() for place in parent.iterdir()}
    begun = {match[0] for match in map(_SPLIT.match, inside) if match}
    named = sorted(name for name in begun if any(role.folder(path, name) for role in roles))
    by_kind = {kind: [name for name in named if split_of(name) == kind] for kind in (TRAIN, *HELD_OUT)}
    held_out = next((by_kind[kind] for kind in HELD_OUT if by_kind[kind]), [])
    return by_kind[TRAIN] or ([] if held_out else [""]), held_out


def by_first_folder(files: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files to train and to score on: those below `train`, and below the first of `HELD_OUT`; else all and none."""

    def below(split: str) -> dict[str, Path]:
        return {name: file for name, file in files.items() if split_of(PurePosixPath(name).parts[0]) == split}

    trained, held_out = below(TRAIN), next((found for split in HELD_OUT if (found := below(split))), {})
    return (trained, held_out) if trained or held_out else (dict(files), {})


def matched(files: Sequence[Mapping[str, Path]]) -> list[tuple[str, tuple[Path, ...]]]:
    """Names with their files, one of every mapping, sorted.

    Raises:
        DataError: a file has no partner; the message names the folders, their lengths and some of the files.
    """
    common = set(files[0]).intersection(*files[1:])
    lonely = [file for some in files for key, file in some.items() if key not in common]
    if lonely:
        lengths = " and ".join(f"{len(some)} files" for some in files)
        named = ", ".join(repr(str(file)) for file in sorted(lonely)[:_NAMED_AT_MOST])
        more = f" and {len(lonely) - _NAMED_AT_MOST} more" if len(lonely) > _NAMED_AT_MOST else ""
        raise DataError(
            f"Paired folders must hold files of the same names, but they have {lengths}; files without a partner: "
            f"{named}{more}. Add the partners, or remove these files."
        )
    return [(key, tuple(some[key] for some in files)) for key in sorted(common)]
