"""Images for translation between domains, from the folder layouts of pix2pix, CycleGAN, GauGAN and Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gansdk.contracts import MAIN, Batch, Contract, Pairing
from gansdk.errors import DataError, InvalidOption
from gansdk.interfaces import DataSource
from gansdk.text import quoted
from gansdk.toolkit.options import Count, HeightWidth
from gansdk.validation.paths import as_utf8
from gansdk_adapters.sources.encoding import Encoding
from gansdk_adapters.sources.finding import Found
from gansdk_adapters.sources.folder import check_holdout, every_nth, listing, the_folder
from gansdk_adapters.sources.layouts import (
    Direction,
    Layout,
    find_aligned,
    find_images,
    find_labels,
    find_pairs,
    find_unpaired,
    layout_of,
)
from gansdk_adapters.sources.metadata import find_described
from gansdk_adapters.sources.preparing import for_evaluation, for_training
from gansdk_adapters.sources.scenes import Scene, SceneReader, Scenes, check_all


class Translation(DataSource):
    """The images below `path`, in one of the layouts of `gansdk_adapters.sources.layouts` ("auto": told by them).

    Every image has its turn once in every epoch, with another crop and flip each time. Pairs keep together: the same
    crop and flip. Unpaired images of both domains have orders and epochs of their own; the inputs of a batch are of A
    and its targets of B, with `paired=False`, and images to score on have no target.
    References are images of B: for "search" those held out of training, like those of A; for "eval" those of `valB`
    or `testB`, or else those held out.
    Label maps become channels as `gansdk_adapters.sources.encoding.Encoding` says.

    "eval" shows the images of a folder `val` or `test`. Besides, `holdout` keeps a share of the training images out
    of training, as `ImageFolder` does: "search" shows these, and "eval" too if there is no such folder. With fewer
    images than that takes, "search" shows none. `split="all"` trains on nothing, and shows the images of `val` or
    `test`, or else all, for either.

    `direction="BtoA"` exchanges A and B. `preprocess`, `load_size`, `crop_size` and `flip` are those of
    `gansdk_adapters.sources.preparing.for_training`; `patch` is the side of the crop too.

    Raises:
        DataError: the folder is missing or empty, files have no partner or other sizes, images are smaller than
            the network's multiple, or label ids are not among the classes: before anything is trained.
        InvalidOption: an option has a value that it cannot have; or no image is as large as `patch`, and nothing
            is said of `load_size`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        contract: Contract,
        layout: Layout = "auto",
        direction: Direction = "AtoB",
        preprocess: str | None = None,
        load_size: HeightWidth | None = None,
        crop_size: HeightWidth | None = None,
        flip: bool = True,
        patch: Count | None = None,
        unknown_ids: Sequence[int] | None = None,
        input_column: str | None = None,
        target_column: str | None = None,
        holdout: float = 0.1,
        seed: int = 0,
        split: Literal["train", "all"] = "train",
    ) -> None:
        check_holdout(holdout)
        if contract.scale != 1:
            raise DataError(
                f"Translation data has inputs and targets of equal size, but this generator upscales x{contract.scale}."
            )
        self._path = the_folder(Path(path))
        self._layout = layout_of(self._path, contract) if layout == "auto" else layout
        found = _find(self._path, self._layout, direction, input_column, target_column)
        encoding = Encoding(contract, unknown_ids=unknown_ids) if self._layout == "labels" else None
        crop = (patch, patch) if crop_size is None and patch is not None else crop_size
        prepared = for_training(contract, preprocess=preprocess, load_size=load_size, crop_size=crop, flip=flip)
        training = SceneReader(contract=contract, preparation=prepared, encoding=encoding)
        other_domain = SceneReader(contract=contract, preparation=prepared, shows_outputs=True)
        showing = SceneReader(contract=contract, preparation=for_evaluation(contract, prepared), encoding=encoding)

        if split == "all":
            trained, others = [], []
            searched = scored = found.held_out or found.train
            others_searched = compared = found.others_held_out or found.others
        else:
            searched = every_nth(found.train, holdout, seed=seed)
            others_searched = every_nth(found.others, holdout, seed=seed)
            trained, others = _without(found.train, searched), _without(found.others, others_searched)
            scored = found.held_out or searched
            compared = found.others_held_out or others_searched
        if not (trained or scored):
            raise DataError(f"The folder {str(self._path)!r} contains no images (layout {self._layout!r}).")
        if patch is not None and crop_size is None and load_size is None:
            _check_patch(trained, patch)
        shown = dict.fromkeys((*searched, *scored))
        check_all(trained, training.check)
        check_all(tuple(shown), showing.check)
        references = dict.fromkeys((*others_searched, *compared))
        check_all((*others, *references), other_domain.check)
        if encoding is not None:
            encoding.scan([scene.input.path for scene in (*trained, *shown)])

        used = [file for scene in (*trained, *others, *shown, *references) for file in scene.files()]
        self._listing = listing({as_utf8(file.relative_to(self._path).as_posix()): file for file in used})
        paired = any(scene.target is not None for scene in (*trained, *shown))
        unpaired = Pairing.UNPAIRED if found.others else Pairing.INPUTS_ONLY
        self.pairing = Pairing.PAIRED if paired else unpaired
        self._train = Scenes(trained, training)
        self._others = Scenes(others, other_domain) if others else None
        whole = replace(other_domain, preparation=showing.preparation)
        self._compared = Scenes(compared, whole) if compared else None
        self._others_searched = self._compared if others_searched == compared else Scenes(others_searched, whole)
        self._searched = Scenes(searched, showing)
        self._scored = self._searched if searched == scored else Scenes(scored, showing)
        self._held_out = [] if split == "all" else [scene.name for scene in searched]
        self._others_held_out = [] if split == "all" else [scene.name for scene in others_searched]
        self._facts = {"preparation": prepared.describe(), **(encoding.describe() if encoding else {})}

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        inputs, targets, names = self._train.pieces(size, seed=seed, step=step)
        if self._others is not None:
            others, _, _ = self._others.pieces(size, seed=seed, step=step, domain=1)
            return Batch({MAIN: inputs}, {MAIN: others}, names, paired=False)
        return Batch({MAIN: inputs}, {} if targets is None else {MAIN: targets}, names)

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        scenes = self._searched if split == "search" else self._scored
        for inputs, targets, names in scenes.whole():
            yield Batch({MAIN: inputs}, {} if targets is None else {MAIN: targets}, names)

    def references(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        others = self._others_searched if split == "search" else self._compared
        if others is None:
            yield from super().references(split)
            return
        for images, _, names in others.whole():
            yield Batch({}, {MAIN: images}, names, paired=False)

    def describe(self) -> dict[str, Any]:
        shown = (self._searched, self._others_searched, self._scored, self._compared)
        stores = [scenes.store for scenes in (self._train, self._others, *shown) if scenes]
        return {
            "source": self._layout,
            "path": as_utf8(self._path),
            "pairing": self.pairing.value,
            "files": self._listing,
            "train": len(self._train.store.entries),
            **({"train_others": len(self._others.store.entries)} if self._others else {}),
            "held_out": self._held_out,
            "eval": len(self._scored.store.entries),
            **({"held_out_others": self._others_held_out} if self._others else {}),
            **({"eval_others": len(self._compared.store.entries)} if self._compared else {}),
            **self._facts,
            "skipped": {name: reason for store in stores for name, reason in store.skipped.items()},
        }


images = partial(Translation, layout="images")
aligned = partial(Translation, layout="aligned")
pairs = partial(Translation, layout="pairs")
unpaired = partial(Translation, layout="unpaired")
labels = partial(Translation, layout="labels")
imagefolder = partial(Translation, layout="imagefolder")


def _without(scenes: Sequence[Scene], kept: Sequence[Scene]) -> list[Scene]:
    """The scenes but for those kept back."""
    aside = set(kept)
    return [scene for scene in scenes if scene not in aside]


def _check_patch(scenes: Sequence[Scene], patch: int) -> None:
    """Refuse to enlarge every image for the sake of a patch that may be a slip.

    Raises:
        InvalidOption: no image is as large as the patch.
    """
    if scenes and all(min(scene.input.size()) < patch for scene in scenes):
        height, width = max((scene.input.size() for scene in scenes), key=min)
        raise InvalidOption(
            f"patch={patch} is larger than every image: the largest is {height}x{width} pixels. Lower patch, or set "
            "load_size to upscale the images."
        )


def _find(
    path: Path, layout: Layout, direction: Direction, input_column: str | None, target_column: str | None
) -> Found:
    """Look for the scenes of a layout.

    Raises:
        DataError: what the layout asks for is not there.
        InvalidOption: there is no such layout.
    """
    if layout == "imagefolder":
        return find_described(path, input_column=input_column, target_column=target_column)
    if layout == "aligned":
        return find_aligned(path, direction)
    if layout == "pairs":
        return find_pairs(path, direction)
    if layout == "unpaired":
        return find_unpaired(path, direction)
    if layout == "labels":
        return find_labels(path)
    if layout == "images":
        return find_images(path)
    raise InvalidOption(f"layout={quoted(layout)} does not exist.")
