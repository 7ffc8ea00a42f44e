"""Image files and 8-bit arrays to tensors and back: one defined treatment for every kind of file."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from gansdk.errors import ContractError, DataError

Pixels = NDArray[np.uint8]
"""(H, W, C) with C = 1 (BT.601 luma) or 3 (RGB)."""

_LUMA_OFFSET = 16.0
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
"""ITU-R BT.601 in studio swing, as MATLAB's rgb2ycbcr: R, G, B in [0, 1] give 16 to 235."""

_TURNED_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, whatever a file's name ends in: Pillow runs other programs for some of the rest."""

LARGEST_FILE, LARGEST_SEARCHED = 2**28, 2**25
"""Bytes of an image file, and of a GIF or JPEG, in which Pillow looks for its parts byte by byte."""

_UNREADABLE = (
    OSError,  # missing, not an image, truncated
    SyntaxError,  # broken PNG chunks and EXIF headers
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders raise on damaged files."""


def read_image(path: str | Path, channels: Literal[1, 3]) -> Pixels:
    """Read an image file as uint8 (H, W, 3) RGB or (H, W, 1) BT.601 luma (16 to 235).

    Turned upright as EXIF says; transparency is composited on white, as browsers do; 16 bits are scaled to 8
    (never clipped); CMYK and YCbCr become RGB; grey counts as R = G = B; of an animation the first frame is
    taken; colour profiles are ignored.

    Raises:
        DataError: missing, not an image, truncated or damaged, of a kind without a defined range (float, 32 bit,
            LAB), or with more pixels than Pillow's guard against decompression bombs allows.
    """
    with _opened(path) as image:
        pixels = np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    return pixels if channels == 3 else luma_pixels(pixels)


def read_ids(path: str | Path) -> NDArray[np.int32]:
    """Read a file of label or instance ids as int32 (H, W): 8 or 16 bits, grey or indexed, never scaled.

    Raises:
        DataError: as `read_image`; or the file has colours in place of ids.
    """
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise DataError(
                f"The file {str(path)!r} holds {image.mode} colors, but one id per pixel is expected. Use label maps "
                "of one channel (8 or 16 bits, or indexed)."
            )
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the upright (H, W) in pixels from the file's header, without decoding.

    Raises:
        DataError: as `read_image`, as far as the header tells.
    """
    with _opened(path) as image:
        width, height = image.size
        # Not image.getexif(): that of PNG decodes the file first. TIFF states its size upright already.
        exif = Image.Image.getexif(image)
        sideways = image.format != "TIFF" and exif.get(ExifTags.Base.Orientation) in _TURNED_SIDEWAYS
    return (width, height) if sideways else (height, width)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what matters for pixels raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _check_size(path)
            with Image.open(path, formats=FORMATS) as image:
                if min(image.size) < 1:
                    raise ValueError("it has no pixels")
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"The image {str(path)!r} has too many pixels: {error} Cut it into pieces.") from error
    except _UNREADABLE as error:
        raise DataError(
            f"The file {str(path)!r} cannot be read as an image ({type(error).__name__}: {error}). Replace it or "
            "remove it from the folder."
        ) from error


def _check_size(path: str | Path) -> None:
    """Raise ValueError for a file of more bytes than any image to learn from has."""
    with Path(path).open("rb") as file:
        most = LARGEST_SEARCHED if file.read(3) in (b"GIF", b"\xff\xd8\xff") else LARGEST_FILE
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"it has more than {most:,} bytes")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no defined range; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def luma_pixels(pixels: Pixels) -> Pixels:
    """Turn (H, W, 3) RGB into (H, W, 1) BT.601 luma, rounded: 16 to 235."""
    return np.rint(pixels @ (np.array(_LUMA_WEIGHTS) / 255) + _LUMA_OFFSET).astype(np.uint8)[..., None]


def luma(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, 1, H, W) BT.601 luma in [16/255, 235/255], not rounded."""
    weights = images.new_tensor(_LUMA_WEIGHTS).view(1, 3, 1, 1)
    return ((images * weights).sum(1, keepdim=True) + _LUMA_OFFSET) / 255


def to_tensor(pixels: Pixels, value_range: tuple[float, float]) -> Tensor:
    """uint8 (H, W, C) -> float32 (C, H, W), 0 and 255 mapped to the ends of `value_range`."""
    low, high = value_range
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    return image * (high - low) / 255 + low


def to_uint8(image: Tensor, value_range: tuple[float, float]) -> Pixels:
    """Floating (C, H, W) -> uint8 (H, W, C), clamped to `value_range` and rounded.

    Raises:
        ContractError: the image holds NaN.
    """
    low, high = value_range
    levels = (image.detach().float().cpu() - low) * 255 / (high - low)
    if levels.isnan().any():
        raise ContractError("The image holds NaN, so it cannot be saved or scored. Check the weights it was made with.")
    return np.ascontiguousarray(levels.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def paint_labels(ids: NDArray[np.integer[Any]]) -> Pixels:
    """(H, W) label ids -> (H, W, 3) colours of PASCAL VOC's palette: the bits of an id are dealt to R, G and B."""
    colours = np.zeros((*ids.shape, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[..., channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def picture(image: Tensor, value_range: tuple[float, float]) -> Pixels:
    """Any (C, H, W) as something to look at: grey and colour as they are, else the largest channel as a label."""
    if len(image) in (1, 3):
        return to_uint8(image, value_range)
    return paint_labels(image.detach().argmax(0).cpu().numpy())


def resize_bicubic(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize (H, W, C) to (height, width, C) by Pillow's bicubic filter (Keys, a = -0.5), antialiased, rounded."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return resized.reshape(height, width, pixels.shape[2])


def resize_nearest(ids: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Resize (H, W) ids to (height, width): every one takes the id at its centre, so that no new ids appear."""
    return np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Reflect (N, C, H, W) at its right and bottom edge until both sides are multiples; crop outputs back.

    Works for images smaller than the padding too, where the reflection is reflected again.
    """
    for dim in (2, 3):
        side = images.shape[dim]
        if side % multiple:
            images = images.index_select(dim, _reflected(side, -(-side // multiple) * multiple).to(images.device))
    return images


def fitted(images: Tensor, height: int, width: int) -> Tensor:
    """Bring (N, C, H, W) to a size: the upper left of what is too large, and reflections of what is too small."""
    for dim, side in ((2, height), (3, width)):
        images = images.index_select(dim, _reflected(images.shape[dim], side).to(images.device))
    return images


def _reflected(side: int, padded: int) -> Tensor:
    """Indices 0, 1, .., side-1, side-2, .., 1, 0, 1, .. of length `padded`."""
    period = max(2 * (side - 1), 1)
    position = torch.arange(padded) % period
    return torch.minimum(position, period - position)
