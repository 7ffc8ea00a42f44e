"""The layouts in which folders for image translation come."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Literal

from gansdk.contracts import Contract
from gansdk.errors import DataError, InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.images import image_size
from gansdk_adapters.sources.finding import HELD_OUT, TRAIN, Found, Role, by_first_folder, matched, splits
from gansdk_adapters.sources.folder import image_files
from gansdk_adapters.sources.metadata import has_metadata
from gansdk_adapters.sources.scenes import Scene, View

Direction = Literal["AtoB", "BtoA"]
Layout = Literal["auto", "imagefolder", "labels", "unpaired", "pairs", "aligned", "images"]

LABEL_ROLES = (
    (Role(("label", "labels")), Role(("img", "image", "images")), Role(("inst", "instance", "instances"))),
    (Role(("gtFine",), "_labelIds"), Role(("leftImg8bit",), "_leftImg8bit"), Role(("gtFine",), "_instanceIds")),
    (Role(("stuffthingmaps",)), Role(("images", ".")), Role(("inst", "instance", "instances"))),
)
"""Label maps, photographs and instance maps: SPADE's names, Cityscapes' own and COCO-Stuff's own."""

PAIR_ROLES = ((Role(("A",)), Role(("B",))), (Role(("input",)), Role(("target",))))


def layout_of(path: Path, contract: Contract) -> Layout:
    """Tell the layout by what is in the folder; the first that applies, in this order.

    1. imagefolder: `metadata.jsonl` or `metadata.csv`, here or in `train`
    2. labels: `train_label`, `train/labels`, `labels`, `gtFine` or `stuffthingmaps`, with photographs beside them (or
       without, for a generator that takes labels)
    3. unpaired: `trainA` and `trainB`; or `testA` alone to score on
    4. pairs: `A` and `B`
    5. aligned: images that are all exactly twice as wide as high, unless the generator's own size is that too
    6. images: anything else, without targets

    Raises:
        DataError: the generator takes label maps and there are none.
    """
    if has_metadata(path):
        return "imagefolder"
    if any(_has(path, label) and (contract.labels or _has(path, image)) for label, image, _ in LABEL_ROLES):
        return "labels"
    if contract.labels is not None:
        raise DataError(
            f"The generator takes label maps of {contract.labels.classes} classes, but the folder {str(path)!r} has "
            "none. Pass a folder with train_label and train_img, with labels and images, with Cityscapes' gtFine and "
            "leftImg8bit, or with COCO-Stuff's stuffthingmaps."
        )
    if all((path / f"{TRAIN}{domain}").is_dir() for domain in "AB") or _domain(path, HELD_OUT, "A"):
        return "unpaired"
    if all(_has(path, role) for role in PAIR_ROLES[0]):
        return "pairs"
    height, width = contract.size
    return "aligned" if width != 2 * height and _side_by_side(path) else "images"


def find_images(path: Path) -> Found:
    """Photographs alone, below `train` and `val` or `test` if there are such folders."""
    trained, held_out = by_first_folder(image_files(path))
    return Found(
        train=tuple(Scene(name, View(file)) for name, file in trained.items()),
        held_out=tuple(Scene(name, View(file)) for name, file in held_out.items()),
    )


def find_aligned(path: Path, direction: Direction) -> Found:
    """A and B side by side in one file, A at the left."""

    def scene(name: str, file: Path) -> Scene:
        a, b = View(file, "left"), View(file, "right")
        return Scene(name, a, b) if _forwards(direction) else Scene(name, b, a)

    trained, held_out = by_first_folder(image_files(path))
    return Found(
        train=tuple(scene(name, file) for name, file in trained.items()),
        held_out=tuple(scene(name, file) for name, file in held_out.items()),
    )


def find_pairs(path: Path, direction: Direction) -> Found:
    """`A` and `B` (or `input` and `target`), files of the same names; also `train/A`, `A/train`, `train_A`, `trainA`.

    Raises:
        DataError: a folder is missing, or a file has no partner.
    """
    roles = next((pair for pair in PAIR_ROLES if all(_has(path, role) for role in pair)), None)
    if roles is None:
        raise DataError(
            f"The folder {str(path)!r} has no subfolders A and B, trainA and trainB, or input and target. Put the two "
            "images of each pair in such subfolders."
        )

    def scenes(split: str) -> tuple[Scene, ...]:
        files = [role.files(path, split) for role in roles]
        views = [(key, View(a), View(b)) for key, (a, b) in matched(files)]
        return tuple(Scene(f"{split}/{key}" if split else key, *_directed(a, b, direction)) for key, a, b in views)

    return _in_splits(path, roles, scenes)


def find_unpaired(path: Path, direction: Direction) -> Found:
    """`trainA` and `trainB`, never assumed to be pairs, and `valA` or `testA` to score on (B for "BtoA").

    Images of the other domain's folder, `valB` or `testB`, are what sets of images are compared with.

    Raises:
        DataError: one of two training folders has no image.
    """
    ours, theirs = ("A", "B") if _forwards(direction) else ("B", "A")
    train, others = _domain(path, (TRAIN,), ours), _domain(path, (TRAIN,), theirs)
    held_out, others_held_out = _domain(path, HELD_OUT, ours), _domain(path, HELD_OUT, theirs)
    if bool(train) != bool(others) or not (train or held_out):
        raise DataError(
            f"The folder {str(path)!r} has {len(train)} images in {TRAIN}{ours} and {len(others)} in {TRAIN}{theirs}. "
            "Give images of both domains."
        )
    return Found(train=train, held_out=held_out, others=others, others_held_out=others_held_out)


def find_labels(path: Path) -> Found:
    """Label maps as inputs, with photographs as targets and instance maps where they exist.

    Raises:
        DataError: there are no label maps, or a file has no partner.
    """
    roles = next((roles for roles in LABEL_ROLES if _has(path, roles[0])), None)
    if roles is None:
        raise DataError(
            f"The folder {str(path)!r} has no label maps: no train_label, labels, gtFine or stuffthingmaps."
        )

    labels, images, instances = roles

    def scenes(split: str) -> tuple[Scene, ...]:
        files = [labels.files(path, split)]
        if images.folder(path, split) is not None:
            files.append(images.files(path, split))
        edged = instances.files(path, split)
        found = matched([*files, edged] if edged else files)
        return tuple(
            Scene(
                f"{split}/{key}" if split else key,
                View(own[0]),
                View(own[1]) if len(files) > 1 else None,
                own[-1] if edged else None,
            )
            for key, own in found
        )

    return _in_splits(path, roles, scenes)


def _in_splits(path: Path, roles: tuple[Role, ...], scenes: Callable[[str], tuple[Scene, ...]]) -> Found:
    """What `scenes` finds in the splits to train and to score on."""
    train, held_out = (tuple(chain.from_iterable(map(scenes, names))) for names in splits(path, roles))
    return Found(train=train, held_out=held_out)


def _domain(path: Path, splits: tuple[str, ...], domain: str) -> tuple[Scene, ...]:
    """Images of `trainA` or the like: of the first that exists."""
    for split in splits:
        if (folder := path / f"{split}{domain}").is_dir():
            return tuple(Scene(f"{folder.name}/{name}", View(file)) for name, file in image_files(folder).items())
    return ()


def _has(path: Path, role: Role) -> bool:
    return role.folder(path, "") is not None or splits(path, (role,)) != ([""], [])


def _side_by_side(path: Path) -> bool:
    """Whether all images that `find_aligned` finds may be pairs, by their headers up to the first that is none."""
    trained, held_out = by_first_folder(image_files(path))
    files = [*trained.values(), *held_out.values()]
    try:
        return bool(files) and all(width == 2 * height for height, width in map(image_size, files))
    except DataError:
        return False


def _directed(a: View, b: View, direction: Direction) -> tuple[View, View]:
    return (a, b) if _forwards(direction) else (b, a)


def _forwards(direction: Direction) -> bool:
    if direction not in ("AtoB", "BtoA"):
        raise InvalidOption(f"direction={quoted(direction)} must be 'AtoB' or 'BtoA'.")
    return direction == "AtoB"
