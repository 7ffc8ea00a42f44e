"""Images of a report: the same part of every image, as PNG in text."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gansdk.evaluation.evaluate import Example
from gansdk.toolkit.images import Pixels

SHOWN_PX = 320
"""Side of the centre crop that is shown of every output image."""
FULL_DIFFERENCE = 32
"""Levels of 255 at which a difference map is brightest, unless a difference is larger."""


def compared(examples: Sequence[Example]) -> dict[str, Any]:
    """For a template: rows of images of every example, and the scale of their difference maps."""
    differences = [_difference(example) for example in examples if example.teacher is not None]
    # One scale for all maps, so that they can be compared.
    scale = max([float(FULL_DIFFERENCE), *(float(difference.max()) for difference in differences)])
    return {
        "scale": f"{scale:.0f}",
        "crop": SHOWN_PX,
        "rows": [{"name": example.name, "tiles": _encoded(_tiles(example, scale))} for example in examples],
    }


def side_by_side(examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """For a template: rows of images as every student made them, by its name; the teacher's are the first's."""
    names, several = list(examples), zip(*examples.values(), strict=False)
    return {
        "crop": SHOWN_PX,
        "rows": [
            {"name": row[0].name, "tiles": _encoded(_of_all(dict(zip(names, row, strict=True))))} for row in several
        ],
    }


def _tiles(example: Example, scale: float) -> Iterator[tuple[str, Pixels]]:
    """(title, pixels), all cropped to the same part of the image."""
    shown = {
        "input": example.input,
        "bicubic": example.bicubic,
        "teacher": example.teacher,
        "student": example.student,
        "ground truth": example.target,
    }
    for title, pixels in shown.items():
        if pixels is not None:
            yield title, _crop(pixels, example.student)
    if example.teacher is not None:
        yield "difference", _coloured(_crop(_difference(example), example.student), scale)


def _of_all(made: Mapping[str, Example]) -> Iterator[tuple[str, Pixels]]:
    """(title, pixels) of one image by every student, all cropped to the same part."""
    first = next(iter(made.values()))
    students = {name: example.student for name, example in made.items()}
    for title, pixels in {
        "input": first.input,
        "ground truth": first.target,
        "teacher": first.teacher,
        **students,
    }.items():
        if pixels is not None:
            yield title, _crop(pixels, first.student)


def _encoded(tiles: Iterable[tuple[str, Pixels]]) -> list[dict[str, str]]:
    return [{"title": title, "png": _encode(pixels)} for title, pixels in tiles]


def _difference(example: Example) -> NDArray[Any]:
    """(H, W, 1): mean absolute difference of student and teacher over the channels, in levels of 255."""
    assert example.teacher is not None
    gap = example.student.astype(np.float32) - example.teacher.astype(np.float32)
    difference: NDArray[Any] = np.abs(gap).mean(2, keepdims=True)
    return difference


def _coloured(difference: NDArray[Any], scale: float) -> Pixels:
    from matplotlib import colormaps

    coloured: Pixels = colormaps["magma"](difference[..., 0] / scale, bytes=True)[..., :3]
    return coloured


def _crop(pixels: NDArray[Any], student: Pixels) -> NDArray[Any]:
    """The centre of an image that is as large as the student's or smaller by a whole factor."""
    factor = max(1, student.shape[0] // pixels.shape[0])
    side = max(1, SHOWN_PX // factor)
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _encode(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
