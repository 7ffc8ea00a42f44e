import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gansdk.errors import ContractError, DataError
from gansdk.testing import hostile
from gansdk.toolkit.images import (
    image_size,
    luma,
    luma_pixels,
    pad_to_multiple,
    read_ids,
    read_image,
    resize_bicubic,
    to_tensor,
    to_uint8,
)

RANGES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.5, 7.0)])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_an_rgb_file_is_read_unchanged(tmp_path):
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3), pixels)
    assert image_size(tmp_path / "x.png") == (5, 7)


def test_a_grey_file_counts_as_equal_red_green_and_blue(tmp_path):
    pixels = noise(5, 7)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3), np.repeat(pixels[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 1)[..., 0], np.rint(16 + pixels * (219 / 255)))


def test_a_bilevel_file_is_black_and_white(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3)[..., 0], np.eye(4) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(tmp_path, mode):
    pixels = np.zeros((1, 3, len(mode)), dtype=np.uint8)
    pixels[0, :, -1] = 0, 255, 51
    Image.fromarray(pixels).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3)[0, :, 0], [255, 0, 204])


def test_a_palette_gives_its_colours_and_its_transparency_is_white(tmp_path):
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = (read_image(tmp_path / f"{name}.png", 3)[0].tolist() for name in ("opaque", "clear"))
    assert opaque == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert clear == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_a_transparent_colour_key_of_an_rgb_file_is_white(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "x.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "x.png", 3)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}", 3)[..., 1], expected)


def test_sixteen_bit_colour_is_scaled_and_not_clipped(tmp_path):
    """Written by hand, since Pillow cannot: one row of two pixels, colour type 2, 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    row = b"\0" + struct.pack(">6H", 0, 257 * 100, 65535, 257 * 7, 257 * 8, 257 * 9)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert read_image(tmp_path / "x.png", 3)[0].tolist() == [[0, 100, 255], [7, 8, 9]]


def test_thirty_two_bit_and_float_files_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "int.tif")
    Image.fromarray(np.array([[0, 0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    for name in ("int.tif", "float.tif"):
        with pytest.raises(DataError, match=rf"{name}.*no defined range"):
            read_image(tmp_path / name, 3)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif", 3)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation, suffix):
    upright = noise(2, 3, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"x.{suffix}", exif=exif, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}", 3), upright)
    assert image_size(tmp_path / f"x.{suffix}") == (2, 3)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif", 3)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    for read in (lambda path: read_image(path, 3), image_size):
        with pytest.raises(DataError, match=r"x\.png"):
            read(tmp_path / "x.png")


def test_missing_files_and_folders_are_refused_by_name(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_image(path, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_is_refused_though_its_header_is_whole(tmp_path, suffix):
    Image.fromarray(noise(32, 32, 3)).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"x.{suffix}").write_bytes(content[: len(content) * 2 // 3])
    if suffix != "webp":  # its decoder looks at everything when it opens a file
        assert image_size(tmp_path / f"x.{suffix}") == (32, 32)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / f"x.{suffix}", 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "bmp", "webp"])
def test_damaged_bytes_give_an_image_or_a_data_error_but_nothing_else(tmp_path, suffix):
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / f"whole.{suffix}")
    content = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{suffix}"
    for _ in range(60):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes()[: rng.integers(1, len(content) + 1)])
        try:
            assert read_image(path, 3).shape == (*image_size(path), 3)
        except DataError:
            continue


@pytest.mark.parametrize("limit", [30, 50], ids=["bomb", "near-bomb"])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (lambda path: read_image(path, 3), image_size):
        with pytest.raises(DataError, match=r"x\.png.*too many pixels"):
            read(tmp_path / "x.png")


def test_luma_is_that_of_matlab(tmp_path):
    """rgb2ycbcr of uint8 primaries: black, white, red, green, blue."""
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    assert luma_pixels(colours)[0, :, 0].tolist() == [16, 235, 81, 145, 41]
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 1)[0, :, 0].tolist() == [16, 235, 81, 145, 41]


def test_both_lumas_agree():
    pixels = noise(6, 5, 3)
    tensor = luma(to_tensor(pixels, (0, 1))[None])
    assert tensor.shape == (1, 1, 6, 5)
    np.testing.assert_array_equal(to_uint8(tensor[0], (0, 1)), luma_pixels(pixels))


@given(value_range=RANGES, channels=st.sampled_from([1, 3]), seed=st.integers(0, 100))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_pixels_survive_the_way_to_a_tensor_and_back(value_range, channels, seed):
    pixels = noise(4, 3, channels, seed=seed)
    tensor = to_tensor(pixels, value_range)
    assert tensor.shape == (channels, 4, 3)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= value_range[0]
    assert tensor.max() <= value_range[1] + 1e-4
    np.testing.assert_array_equal(to_uint8(tensor, value_range), pixels)


def test_tensors_are_clamped_and_rounded_to_pixels():
    image = torch.tensor([-1e9, -0.1, 0.4 / 255, 0.6 / 255, 1.5, torch.inf]).view(1, 1, 6)
    assert to_uint8(image, (0, 1))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_an_image_with_nan_is_refused():
    with pytest.raises(ContractError, match="NaN"):
        to_uint8(torch.tensor([[[torch.nan]]]), (0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_keeps_the_number_of_channels(channels):
    assert resize_bicubic(noise(8, 12, channels), 4, 6).shape == (4, 6, channels)


@given(height=st.integers(1, 9), width=st.integers(1, 9), multiple=st.integers(1, 16))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_padding_reflects_up_to_the_next_multiple(height, width, multiple):
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width)
    padded = pad_to_multiple(torch.from_numpy(pixels)[None, None], multiple)
    bottom, right = -height % multiple, -width % multiple
    expected = np.pad(pixels, ((0, bottom), (0, right)), mode="reflect")
    np.testing.assert_array_equal(padded[0, 0].numpy(), expected)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "ICO"])
def test_only_formats_of_images_to_learn_from_are_read_whatever_the_name_says(tmp_path, kind):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", format=kind)
    with pytest.raises(DataError, match=r"x\.png.* cannot be read as an image"):
        read_image(tmp_path / "x.png", 3)


@pytest.mark.parametrize("begin", [b"GIF89a\5\0\5\0\0\0\0", b"\xff\xd8\xff", b"RIFF\xff\xff\xff\x7fWEBPVP8 ", b"P6 "])
def test_a_file_of_gigabytes_of_nothing_is_refused_by_its_size(tmp_path, begin):
    with (tmp_path / "x.png").open("wb") as file:
        file.write(begin)
        file.truncate(2**33)  # sparse: takes no space
    for read in (image_size, read_ids):
        with pytest.raises(DataError, match=r"x\.png.* has more than .* bytes"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_damage_anywhere_in_a_file_gives_an_image_or_an_error_that_names_it(tmp_path, kind):
    Image.effect_noise((12, 9), 50).convert("RGB").save(tmp_path / f"whole.{kind}")
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    draw = np.random.default_rng(0)
    file = tmp_path / f"x.{kind}"
    for number in range(60):
        damaged = bytearray(whole)
        for place in draw.integers(min(len(whole), 200), size=3):
            damaged[place] = draw.integers(256)
        file.write_bytes(damaged[: draw.integers(len(whole)) if number % 3 == 0 else None])
        for read in (image_size, read_ids, lambda path: read_image(path, 3)):
            words = hostile.told(lambda read=read: read(file))
            assert not words or str(file) in words
