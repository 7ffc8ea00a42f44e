"""A folder of images, or of pairs of images, as a source of training and evaluation data."""

from __future__ import annotations

import hashlib
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from gansdk.contracts import Batch, Contract
from gansdk.errors import DataError
from gansdk.interfaces import DataSource
from gansdk.text import quoted
from gansdk.toolkit.options import Count
from gansdk.validation.paths import as_utf8
from gansdk_adapters.sources.paired import PairedImages
from gansdk_adapters.sources.reading import Degrade, Entry, Reader, usable

T = TypeVar("T")

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

PAIRED_FOLDERS = (("LR", "HR"), ("lr", "hr"), ("input", "target"), ("A", "B"))
"""(inputs, targets)."""

_ROLES = {role: re.compile(rf"[_-]{role}$", re.IGNORECASE) for role in ("LR", "HR")}
_ENDING = re.compile(r"([_-](LR|HR)|x\d)$", re.IGNORECASE)


class ImageFolder(DataSource):
    """The images below `path`, in the order of their names; hidden files and other kinds of files are ignored.

    Pairs are found by subfolders (`LR`/`HR`, `lr`/`hr`, `input`/`target`, `A`/`B`: inputs first) whose files have
    the same names (but for suffix, `_LR`, `_HR`, `x4`), or by names that end in `_LR` and `_HR`. A target must have
    `scale` times the sides of its input; a remainder of less than `scale` pixels at its right and bottom is
    cropped. For a generator of pre-upsampled inputs, inputs may also be the small images. Without pairs, inputs
    are made from the images (`gansdk_adapters.sources.reading.Reader` says how), or there are no targets.

    `holdout=0.1` keeps every tenth image out of training, beginning with number `seed % 10`, if there are at least
    ten (other shares likewise); "search" and "eval" both show these. With `split="all"` nothing is trained on, and
    both show every image.

    Files that cannot be used are skipped with one GansdkWarning and listed by `describe`; headers are looked at
    when the source is made, damage behind them is found when the image is needed.

    Raises:
        DataError: the folder is missing, or holds no usable image; or the generator has neither 1 nor 3 channels.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        contract: Contract,
        degrade: Degrade | None = None,
        patch: Count = 24,
        holdout: float = 0.1,
        seed: int = 0,
        split: Literal["train", "all"] = "train",
    ) -> None:
        check_holdout(holdout)
        self._path = the_folder(Path(path))
        self._skipped: dict[str, str] = {}
        self._listing = listing(image_files(self._path))
        reader = Reader(contract=contract, degrade=degrade)
        entries = usable(find_entries(self._path, skipped=self._skipped), reader, skipped=self._skipped)
        held_out = dict.fromkeys(entries if split == "all" else every_nth(entries, holdout, seed=seed))
        trained = [entry for entry in entries if entry not in held_out]
        self.pairing = reader.pairing(entries)
        self._train = PairedImages(trained, reader, patch=patch)
        self._held_out = PairedImages(tuple(held_out), reader, patch=patch)

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return self._train.patches(size, seed=seed, step=step)

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        return self._held_out.whole()

    def describe(self) -> dict[str, Any]:
        return {
            "source": "folder",
            "path": as_utf8(self._path),
            "pairing": self.pairing.value,
            "files": self._listing,
            "train": len(self._train.names),
            "held_out": list(self._held_out.names),
            "skipped": {**self._skipped, **self._train.skipped, **self._held_out.skipped},
        }


def the_folder(path: Path) -> Path:
    """Return the folder itself.

    Raises:
        DataError: it does not exist.
    """
    if not os.path.isdir(path):  # no error for names too long to be one
        raise DataError(f"{quoted(str(path))} does not exist or is not a folder. Pass a folder with images.")
    return path


def check_holdout(share: float) -> None:
    """Raise DataError for what is no share of the images."""
    if not 0 <= share < 1:
        raise DataError(f"holdout={quoted(share)} must be a fraction of the images in [0, 1).")


def listing(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and sizes in bytes: other images are noticed, copies and new dates of the same ones are not.

    Contents are not read, so an image edited to the very same number of bytes passes for the old one.
    """
    rows = [f"{name}\0{path.stat().st_size}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def every_nth(entries: Sequence[T], share: float, *, seed: int) -> tuple[T, ...]:
    """Every `n`th entry from number `seed % n` on, n = 1 / share; none if there are fewer than n."""
    if share == 0 or len(entries) < (n := round(1 / share)):
        return ()
    return tuple(entries[seed % n :: n])


def find_entries(folder: Path, *, skipped: dict[str, str]) -> tuple[Entry, ...]:
    """Return the images or pairs below `folder`; what has no partner among pairs joins `skipped` (name -> reason).

    Raises:
        DataError: the folder holds no image file.
    """
    files = image_files(folder)
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(f"The folder {str(folder)!r} contains no images. Pass a folder with image files ({kinds}).")
    partners = _partners(folder, tuple(files))
    if partners is None:
        return tuple(Entry(name, path) for name, path in files.items())
    if not partners:
        raise DataError(
            f"The folder {str(folder)!r} looks like pairs of inputs and targets, but no two names match. Give both "
            "images of a pair the same name, or pass only the folder of the targets."
        )
    for name in files.keys() - partners.keys() - set(partners.values()):
        skipped[name] = f"The image {name!r} has no partner of the same name."
    return tuple(Entry(name, files[name], target=files[partner]) for name, partner in partners.items())


def image_files(folder: Path) -> dict[str, Path]:
    """Name relative to the folder -> path, sorted by name; hidden files and other kinds of files are left out.

    Bytes of a name that are not UTF-8 are escaped in it, for reports to hold it; the path has them as they are.
    """
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    visible = {
        as_utf8(name.as_posix()): path
        for name, path in paths.items()
        if os.path.isfile(path) and not any(part.startswith(".") for part in name.parts)
    }
    return dict(sorted(visible.items()))


def _partners(folder: Path, names: Sequence[str]) -> dict[str, str] | None:
    """Name of the input -> name of its target; None if the folder is not laid out as pairs."""
    for roles in PAIRED_FOLDERS:
        if all((folder / role).is_dir() for role in roles):
            inputs, targets = (_below(role, names) for role in roles)
            break
    else:
        inputs, targets = _ending("LR", names), _ending("HR", names)
        if not inputs or not targets:
            return None
    return {name: targets[common] for common, name in inputs.items() if common in targets}


def _below(subfolder: str, names: Sequence[str]) -> dict[str, str]:
    """What partners have in common -> name: `0001` -> `LR/0001x4.png`."""
    prefix = f"{subfolder}/"
    return {_ENDING.sub("", _stem(name.removeprefix(prefix))): name for name in names if name.startswith(prefix)}


def _ending(role: str, names: Sequence[str]) -> dict[str, str]:
    """What partners have in common -> name: `a/img_001` -> `a/img_001_LR.png`."""
    stems = {_stem(name): name for name in names}
    return {stem[: match.start()]: stems[stem] for stem in stems if (match := _ROLES[role].search(stem))}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
