"""Batches for image translation: photographs and label maps, alone or with what they should become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansdk.contracts import Contract
from gansdk.errors import DataError
from gansdk.toolkit.images import Pixels, image_size, read_ids, read_image, resize_bicubic, resize_nearest, to_tensor
from gansdk_adapters.sources.encoding import Encoding, Ids
from gansdk_adapters.sources.preparing import Preparation
from gansdk_adapters.sources.reading import Size
from gansdk_adapters.sources.store import Store

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class View:
    """A file, or one half of it where two images lie side by side."""

    path: Path
    part: Literal["whole", "left", "right"] = "whole"

    def size(self) -> Size:
        """(H, W) by the header.

        Raises:
            DataError: no image; or one of an odd width, which has no halves.
        """
        height, width = image_size(self.path)
        if self.part == "whole":
            return height, width
        if width % 2:
            raise DataError(
                f"{str(self.path)!r} is {width} pixels wide, but two images side by side need an even width."
            )
        return height, width // 2

    def read(self, channels: Literal[1, 3]) -> Pixels:
        """Decode it."""
        pixels = read_image(self.path, channels)
        middle = pixels.shape[1] // 2
        return {"whole": pixels, "left": pixels[:, :middle], "right": pixels[:, middle:]}[self.part]


@dataclass(frozen=True, slots=True)
class Scene:
    """What belongs together, not yet read: an input, and perhaps what it should become."""

    name: str
    """Unique within its source."""
    input: View
    target: View | None = None
    instances: Path | None = None
    """Of a label map; None also where the input is a photograph."""

    def files(self) -> tuple[Path, ...]:
        """Everything that is read for it."""
        target = None if self.target is None else self.target.path
        return tuple(file for file in (self.input.path, target, self.instances) if file is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """A scene, decoded and resized; all of it has the same (H, W). The input is either a photograph or label ids."""

    photograph: Pixels | None = None
    labels: Ids | None = None
    instances: Ids | None = None
    target: Pixels | None = None

    @property
    def size(self) -> Size:
        """(H, W)."""
        height, width = self._all()[0].shape[:2]
        return int(height), int(width)

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return sum(layer.nbytes for layer in self._all())

    def cut(self, size: Size, draw: np.random.Generator | None, *, flip: bool) -> Layers:
        """Cut the same piece out of all layers and flip all or none: at random, or at the upper left, unflipped."""
        top, left, flipped = 0, 0, False
        if draw is not None:
            top, left = (int(draw.integers(own - side + 1)) for own, side in zip(self.size, size, strict=True))
            flipped = flip and bool(draw.integers(2))

        def piece(layer: NDArray[T] | None) -> NDArray[T] | None:
            if layer is None:
                return None
            part = layer[top : top + size[0], left : left + size[1]]
            return part[:, ::-1] if flipped else part

        return Layers(
            photograph=piece(self.photograph),
            labels=piece(self.labels),
            instances=piece(self.instances),
            target=piece(self.target),
        )

    def _all(self) -> list[NDArray[Any]]:
        layers = (self.photograph, self.labels, self.instances, self.target)
        return [layer for layer in layers if layer is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneReader:
    """Reads scenes for a contract.

    Raises:
        DataError: the contract has channels that photographs do not have.
    """

    contract: Contract
    preparation: Preparation
    encoding: Encoding | None = None
    """Of label maps; None for photographs."""
    shows_outputs: bool = False
    """Whether the inputs of the scenes are of the domain that the generator makes images of."""

    def __post_init__(self) -> None:
        if self.encoding is None:
            _channels(self._domain[0])
        _channels(self.contract.channels_out)

    @property
    def _domain(self) -> tuple[int, tuple[float, float]]:
        """Channels and value range of photographs that are inputs."""
        contract = self.contract
        if self.shows_outputs:
            return contract.channels_out, contract.output_range
        return contract.channels_in, contract.input_range

    def check(self, scene: Scene) -> None:
        """Look at the headers only.

        Raises:
            DataError: a file is no image or smaller than the network's multiple, sizes differ, or there are no
                instances where the generator wants their edges.
        """
        size = scene.input.size()
        for other in (scene.target, None if scene.instances is None else View(scene.instances)):
            if other is not None and other.size() != size:
                raise DataError(
                    f"{str(scene.input.path)!r} is {_text(size)} pixels, but {str(other.path)!r}, which belongs to "
                    f"it, is {_text(other.size())}. Resize one of them."
                )
        try:
            self.preparation.loaded(size)
        except DataError as error:
            raise DataError(f"The image {scene.name!r} cannot be used. {error}") from error
        if scene.instances is None and self.encoding is not None and self.encoding.edges:
            raise DataError(
                f"The label map {scene.name!r} has no instance map, but this generator needs instance edges. Put "
                "instance maps of the same names next to the labels (train_inst, instances, *_instanceIds.png)."
            )

    def read(self, scene: Scene) -> Layers:
        """Decode and resize: photographs bicubically, ids by the nearest pixel.

        Raises:
            DataError: a file is damaged, or has ids the generator does not know.
        """
        size = self.preparation.loaded(scene.input.size())

        def photograph(view: View, channels: int) -> Pixels:
            return resize_bicubic(view.read(_channels(channels)), *size)

        target = None if scene.target is None else photograph(scene.target, self.contract.channels_out)
        if self.encoding is None:
            return Layers(photograph=photograph(scene.input, self._domain[0]), target=target)
        labels = resize_nearest(self.encoding.read(scene.input.path), *size)
        wanted = scene.instances if self.encoding.edges else None
        instances = None if wanted is None else resize_nearest(read_ids(wanted), *size)
        return Layers(labels=labels, instances=instances, target=target)

    def tensors(self, layers: Sequence[Layers]) -> tuple[Tensor, Tensor | None]:
        """Inputs (N, channels_in, H, W), and targets (N, channels_out, H, W) if every scene has one."""
        targets = [to_tensor(one.target, self.contract.output_range) for one in layers if one.target is not None]
        return self._inputs(layers), torch.stack(targets) if len(targets) == len(layers) else None

    def _inputs(self, layers: Sequence[Layers]) -> Tensor:
        if self.encoding is None or self.encoding.labels is None:
            return torch.stack([self._input(one) for one in layers])
        # Hundreds of channels are written where they stay: a batch of four at 256x256 is 190 MB for COCO-Stuff.
        batch = torch.zeros(len(layers), self.encoding.labels.channels, *layers[0].size)
        for one, zeros in zip(layers, batch, strict=True):
            assert one.labels is not None
            self.encoding.tensor(one.labels, one.instances, zeros=zeros)
        return batch

    def _input(self, layers: Layers) -> Tensor:
        if self.encoding is not None and layers.labels is not None:
            return self.encoding.tensor(layers.labels, layers.instances)
        assert layers.photograph is not None
        return to_tensor(layers.photograph, self._domain[1])


class Scenes:
    """Scenes as batches of random pieces to train on, or whole."""

    def __init__(self, scenes: Sequence[Scene], reader: SceneReader) -> None:
        self.store = Store(scenes, reader.read)
        self._reader = reader

    def pieces(
        self, size: int, *, seed: int, step: int, domain: int = 0
    ) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
        """Inputs, targets and names of the `size` scenes whose turn it is, cropped and flipped at random.

        Raises:
            DataError: no scene can be read.
        """
        preparation = self._reader.preparation
        chosen = self.store.draw(size, seed=seed, step=step, domain=domain)
        crop = preparation.cropped([layers.size for _, layers, _ in chosen])
        cut = [layers.cut(crop, draw, flip=preparation.flip) for _, layers, draw in chosen]
        return *self._reader.tensors(cut), tuple(scene.name for scene, _, _ in chosen)

    def whole(self) -> Iterator[tuple[Tensor, Tensor | None, tuple[str, ...]]]:
        """Every scene once, in order, in batches of one; sides lose what exceeds the network's multiple.

        Raises:
            DataError: there are scenes, but none can be read.
        """
        for scene, layers in self.store.each():
            cut = layers.cut(self._reader.preparation.cropped([layers.size]), None, flip=False)
            yield *self._reader.tensors([cut]), (scene.name,)


def check_all(scenes: Sequence[Scene], check: Callable[[Scene], None], *, at_most: int = 5) -> None:
    """Check every scene before training.

    Raises:
        DataError: of the first that is refused, with the names of some others.
    """
    refused: dict[str, DataError] = {}
    for scene in scenes:
        try:
            check(scene)
        except DataError as error:
            refused[scene.name] = error
    if refused:
        first, *others = refused
        more = f" And {len(others)} more, among them {', '.join(others[:at_most])}." if others else ""
        raise DataError(f"{refused[first]}{more}")


def _channels(number: int) -> Literal[1, 3]:
    if number not in (1, 3):
        raise DataError(
            f"The generator has images of {number} channels, but photographs have 1 (luma) or 3 (RGB). If they are "
            "label maps, give a folder with train_label and train_img (or labels and images)."
        )
    return 1 if number == 1 else 3


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
