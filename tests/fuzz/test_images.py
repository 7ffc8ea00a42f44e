"""Folders of images as people have them: cut off, damaged, of odd modes and names."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gansdk.interfaces import Generator
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.testing.fuzzing import HOSTILE_TEXTS, bounded, contained, damaged
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

pytestmark = pytest.mark.filterwarnings("ignore")

FORMATS = ("png", "jpeg", "bmp", "tiff", "gif", "webp")
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return open_generator(randomise(SRResNet(SRResNetSizes(width=4, blocks=1, scale=2)), seed=0))


def picture(mode: str, size: tuple[int, int], *, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if mode in ("HSV", "YCbCr", "LAB"):
        return image if mode == "LAB" else image.convert(mode)
    return image.convert(mode)


def written(image: Image.Image, format: str) -> bytes | None:
    buffer = io.BytesIO()
    try:
        image.save(buffer, format)
    except (OSError, ValueError, KeyError):  # a format that has no such mode
        return None
    return buffer.getvalue()


def look(folder: Path, generator: Generator, name: Any = None) -> None:
    """What a run does with a folder of images: open it, train on it, score on it."""
    with contained():
        source = open_source(str(folder) if name is None else {"name": name, "path": str(folder)}, generator)
        for step in range(2):
            source.train_batch(2, seed=0, step=step)
        for split in ("search", "eval"):
            for _ in source.images(split):
                pass


def cleared(folder: Path) -> Path:
    for file in folder.iterdir():
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


GOOD = written(picture("RGB", (48, 40)), "png") or b""


@bounded(40)
@given(data=st.data(), format=st.sampled_from(FORMATS), mode=st.sampled_from(MODES))
def test_damaged_images_are_read_or_refused_in_words(
    folder: Path, generator: Generator, data: st.DataObject, format: str, mode: str
) -> None:
    content = written(picture(mode, (48, 40)), format)
    if content is None:
        return
    cleared(folder)
    (folder / f"a.{format}").write_bytes(data.draw(damaged(content)))
    (folder / "b.png").write_bytes(GOOD)
    look(folder, generator)


@bounded(30)
@given(
    width=st.sampled_from((1, 2, 7, 24, 48)),
    height=st.sampled_from((1, 3, 24, 600)),
    mode=st.sampled_from(MODES),
    format=st.sampled_from(FORMATS),
    ending=st.sampled_from((*FORMATS, "PNG", "txt", "")),
)
def test_sizes_modes_and_endings(
    folder: Path, generator: Generator, width: int, height: int, mode: str, format: str, ending: str
) -> None:
    content = written(picture(mode, (width, height)), format)
    if content is None:
        return
    cleared(folder)
    (folder / f"a.{ending}").write_bytes(content)
    look(folder, generator)


NAMES = (
    b"\xff\xfe.png",
    b"a\nb.png",
    b"\x1b[31m.png",
    "\u202egnp.png".encode(),
    b"x" * 240 + b".png",
    b" .png",
    b"-rf.png",
    b"<img src=x>.png",
    b"%s.png",
    b"{0}.png",
    b"'\"`$(true).png",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_text(tmp_path: Path, generator: Generator, name: bytes) -> None:
    for extra in (b"", b"2"):
        with open(os.path.join(os.fsencode(tmp_path), extra + name), "wb") as file:
            file.write(GOOD)
    look(tmp_path, generator)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


ODD = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": _fifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere.png"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": lambda path: path.write_bytes(b""),
    "a page": lambda path: path.write_text("<html></html>"),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file(tmp_path: Path, generator: Generator, kind: str, alone: bool) -> None:
    ODD[kind](tmp_path / "odd.png")
    if not alone:
        (tmp_path / "good.png").write_bytes(GOOD)
    look(tmp_path, generator)


def test_an_image_that_claims_billions_of_pixels(tmp_path: Path, generator: Generator) -> None:
    head = bytearray(GOOD)
    head[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bytes(head))
    look(tmp_path, generator)
    (tmp_path / "bomb.pgm").write_bytes(b"P5 99999999 99999999 255\n")
    look(tmp_path, generator)


@bounded(20)
@given(text=st.sampled_from(HOSTILE_TEXTS), name=st.sampled_from(("folder", "aligned", "labels", "table", "domains")))
def test_layouts_asked_for_with_hostile_paths(generator: Generator, text: str, name: str) -> None:
    with contained():
        open_source({"name": name, "path": text}, generator)
