import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gansdk.contracts import Contract, Pairing
from gansdk.errors import ContractError, DataError, GansdkWarning
from gansdk.evaluation.evaluate import evaluate
from gansdk.generators.recognition import recognise
from gansdk.modules.weights import read_state
from gansdk.testing import hostile
from gansdk.toolkit.images import luma_pixels
from gansdk_adapters.sources import store
from gansdk_adapters.sources.folder import ImageFolder
from gansdk_adapters.sr import SuperResolution

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def contract(**changes) -> Contract:
    settings = {"channels_in": 3, "channels_out": 3, "size": (16, 16), "input_range": (0, 1), "output_range": (0, 1)}
    return Contract(**{**settings, **changes})


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill(folder: Path, count: int, height: int = 16, width: int = 20) -> None:
    for index in range(count):
        save(folder / f"{index:02}.png", noise(height, width, seed=index))


def damage(path: Path) -> None:
    """Keep the header, lose the pixels."""
    path.write_bytes(path.read_bytes()[:60])


def same(one, other) -> bool:
    return (
        one.names == other.names
        and all(torch.equal(one.inputs[route], other.inputs[route]) for route in one.inputs)
        and all(torch.equal(one.targets[route], other.targets[route]) for route in one.targets)
    )


# Made pairs.


def test_images_alone_are_targets_and_inputs_are_made_by_pils_bicubic(tmp_path):
    pixels = noise(19, 22)
    save(tmp_path / "a.png", pixels)
    source = ImageFolder(tmp_path, contract=contract(scale=4), split="all")
    (batch,) = source.images("eval")
    assert source.pairing is Pairing.PAIRED
    assert batch.names == ("a.png",)
    target = pixels[:16, :20]
    low = np.asarray(Image.fromarray(target).resize((5, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal((batch.targets["main"][0] * 255).round().permute(1, 2, 0), target)
    np.testing.assert_array_equal((batch.inputs["main"][0] * 255).round().permute(1, 2, 0), low)


def test_inputs_of_a_pre_upsampled_generator_are_shrunk_and_enlarged(tmp_path):
    pixels = noise(13, 17)
    save(tmp_path / "a.png", pixels)
    vdsr = contract(channels_in=1, channels_out=1, pre_upsampled=3, multiple_of=2)
    (batch,) = ImageFolder(tmp_path, contract=vdsr, split="all").images("eval")
    target = Image.fromarray(luma_pixels(pixels[:12, :12])[..., 0])
    low = target.resize((4, 4), Image.Resampling.BICUBIC).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal((batch.targets["main"][0, 0] * 255).round(), target)
    np.testing.assert_array_equal((batch.inputs["main"][0, 0] * 255).round(), low)


def test_a_degradation_given_makes_the_inputs(tmp_path):
    save(tmp_path / "a.png", noise(8, 8))
    enlarging = contract(scale=2, output_range=(-1, 1))
    source = ImageFolder(tmp_path, contract=enlarging, degrade=lambda x: x[..., ::2, ::2] / 2 + 0.5, split="all")
    (batch,) = source.images("eval")
    expected = batch.targets["main"][..., ::2, ::2] / 2 + 0.5
    torch.testing.assert_close(batch.inputs["main"], expected, rtol=0, atol=1e-6)


def test_a_degradation_of_the_wrong_size_is_refused(tmp_path):
    save(tmp_path / "a.png", noise(8, 8))
    source = ImageFolder(tmp_path, contract=contract(scale=2), degrade=lambda x: x, split="all")
    with pytest.raises(ContractError, match=r"8x8.*4, 4"):
        next(source.images("eval"))


def test_a_generator_that_does_not_enlarge_gets_inputs_only(tmp_path):
    pixels = noise(9, 11)
    save(tmp_path / "a.png", pixels)
    source = ImageFolder(tmp_path, contract=contract(input_range=(-1, 1), multiple_of=4), split="all")
    (batch,) = source.images("eval")
    assert source.pairing is Pairing.INPUTS_ONLY
    assert batch.targets == {}
    expected = torch.from_numpy(pixels[:8, :8]).permute(2, 0, 1)[None] * (2 / 255) - 1
    torch.testing.assert_close(batch.inputs["main"], expected, rtol=0, atol=1e-6)


def test_colour_can_be_made_from_luma(tmp_path):
    save(tmp_path / "a.png", noise(8, 8))
    (batch,) = ImageFolder(tmp_path, contract=contract(channels_in=1, scale=2), split="all").images("eval")
    assert batch.inputs["main"].shape == (1, 1, 4, 4)
    assert batch.targets["main"].shape == (1, 3, 8, 8)


def test_other_channels_are_refused(tmp_path):
    fill(tmp_path, 1)
    with pytest.raises(DataError, match="36 channels"):
        ImageFolder(tmp_path, contract=contract(channels_in=36))


# Given pairs.


@pytest.mark.parametrize(("inputs", "targets"), [("LR", "HR"), ("lr", "hr"), ("input", "target"), ("A", "B")])
def test_pairs_are_found_in_subfolders(tmp_path, inputs, targets):
    for index in range(2):
        save(tmp_path / inputs / f"deep/{index}x2.png", noise(4, 5, seed=index))
        save(tmp_path / targets / f"deep/{index}.bmp", noise(8, 10, seed=10 + index))
    source = ImageFolder(tmp_path, contract=contract(scale=2), split="all")
    batches = list(source.images("eval"))
    assert source.pairing is Pairing.PAIRED
    assert [batch.names for batch in batches] == [(f"{inputs}/deep/{index}x2.png",) for index in range(2)]
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal((batch.inputs["main"][0] * 255).round().permute(1, 2, 0), noise(4, 5, seed=index))
        np.testing.assert_array_equal(
            (batch.targets["main"][0] * 255).round().permute(1, 2, 0), noise(8, 10, seed=10 + index)
        )


def test_pairs_are_found_by_the_endings_of_their_names(tmp_path):
    for name in ("img_1_SRF_2", "below/img_2-SRF_2"):
        save(tmp_path / f"{name}_LR.png", noise(4, 4))
        save(tmp_path / f"{name}_HR.png", noise(8, 8))
    source = ImageFolder(tmp_path, contract=contract(scale=2), split="all")
    assert source.pairing is Pairing.PAIRED
    names = [batch.names[0] for batch in source.images("eval")]
    assert names == ["below/img_2-SRF_2_LR.png", "img_1_SRF_2_LR.png"]


def test_a_remainder_of_the_division_is_cropped_from_the_target(tmp_path):
    save(tmp_path / "LR/a.png", noise(5, 6))
    save(tmp_path / "HR/a.png", noise(21, 27))
    (batch,) = ImageFolder(tmp_path, contract=contract(scale=4, multiple_of=2), split="all").images("eval")
    assert batch.inputs["main"].shape == (1, 3, 4, 6)
    assert batch.targets["main"].shape == (1, 3, 16, 24)


@pytest.mark.parametrize("size", [(15, 16), (20, 16), (8, 8)])
def test_a_pair_of_another_scale_is_skipped(tmp_path, size):
    for name, target in (("good", (16, 16)), ("odd", size)):
        save(tmp_path / f"LR/{name}.png", noise(4, 4))
        save(tmp_path / f"HR/{name}.png", noise(*target))
    with pytest.warns(GansdkWarning, match=r"LR/odd\.png.*4x4.*into 16x16"):
        source = ImageFolder(tmp_path, contract=contract(scale=4), split="all")
    assert list(source.describe()["skipped"]) == ["LR/odd.png"]
    assert len(list(source.images("eval"))) == 1


def test_small_given_inputs_are_enlarged_for_a_pre_upsampled_generator(tmp_path):
    save(tmp_path / "LR/a.png", noise(4, 5))
    save(tmp_path / "HR/a.png", noise(13, 15))
    save(tmp_path / "LR/b.png", noise(12, 15))
    save(tmp_path / "HR/b.png", noise(12, 15))
    small, large = ImageFolder(tmp_path, contract=contract(pre_upsampled=3), split="all").images("eval")
    assert small.inputs["main"].shape == small.targets["main"].shape == (1, 3, 12, 15)
    low = Image.fromarray(noise(4, 5)).resize((15, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal((small.inputs["main"][0] * 255).round().permute(1, 2, 0), low)
    assert torch.equal(large.inputs["main"], large.targets["main"])


def test_an_image_without_its_partner_is_skipped(tmp_path):
    for name in ("LR/a", "HR/a", "LR/lonely", "HR/single", "beside"):
        save(tmp_path / f"{name}.png", noise(4, 4))
    with pytest.warns(GansdkWarning, match=r"3 skipped.*HR/single.*LR/lonely.*beside"):
        source = ImageFolder(tmp_path, contract=contract(), split="all")
    assert [batch.names for batch in source.images("eval")] == [("LR/a.png",)]


def test_pairs_of_which_no_names_match_are_refused(tmp_path):
    save(tmp_path / "LR/a.png", noise(4, 4))
    save(tmp_path / "HR/b.png", noise(8, 8))
    with pytest.raises(DataError, match="no two names match"):
        ImageFolder(tmp_path, contract=contract(scale=2))


# What is in a folder.


@pytest.mark.parametrize("make", [lambda folder: None, Path.mkdir, Path.touch], ids=["missing", "empty", "file"])
def test_a_folder_without_images_is_refused(tmp_path, make):
    make(tmp_path / "photos")
    with pytest.raises(DataError, match="photos"):
        ImageFolder(tmp_path / "photos", contract=contract())


def test_images_are_found_recursively_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a/z.JPG", "c/d/e.bmp", ".hidden.png", ".cache/x.png"):
        save(tmp_path / name, noise(8, 8))
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    assert [batch.names[0] for batch in source.images("eval")] == ["a/z.JPG", "b.png", "c/d/e.bmp"]


def test_files_that_are_no_images_and_small_images_are_skipped_with_one_warning(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "text.png").write_text("no image")
    save(tmp_path / "tiny.png", noise(7, 30))
    with pytest.warns(GansdkWarning, match=r"2 skipped.*text\.png.*tiny\.png.*7x30.*at least 8") as caught:
        source = ImageFolder(tmp_path, contract=contract(scale=2, multiple_of=4))
    assert len(caught) == 1
    assert list(source.describe()["skipped"]) == ["text.png", "tiny.png"]
    assert source.describe()["train"] == 2


def test_a_folder_of_nothing_but_bad_images_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"No usable image.*text\.png"):
        ImageFolder(tmp_path, contract=contract())


def test_a_file_damaged_behind_its_header_is_replaced_and_warned_about_once(tmp_path):
    fill(tmp_path, 3)
    whole = ImageFolder(tmp_path, contract=contract(), patch=8).train_batch(12, seed=1, step=0)
    damage(tmp_path / "01.png")
    source = ImageFolder(tmp_path, contract=contract(), patch=8)
    with pytest.warns(GansdkWarning, match=r"01\.png") as caught:
        batch = source.train_batch(12, seed=1, step=0)
    assert len(caught) == 1
    assert "01.png" in whole.names
    assert batch.names == tuple("02.png" if name == "01.png" else name for name in whole.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(source.train_batch(12, seed=1, step=0), batch)
    assert list(source.describe()["skipped"]) == ["01.png"]


def test_a_damaged_file_is_left_out_of_the_evaluation(tmp_path):
    fill(tmp_path, 3)
    damage(tmp_path / "02.png")
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    with pytest.warns(GansdkWarning, match=r"02\.png"):
        assert [batch.names[0] for batch in source.images("eval")] == ["00.png", "01.png"]


def test_if_every_file_is_damaged_training_is_refused(tmp_path):
    fill(tmp_path, 2)
    for path in tmp_path.iterdir():
        damage(path)
    source = ImageFolder(tmp_path, contract=contract())
    with pytest.warns(GansdkWarning), pytest.raises(DataError, match="None of 2 images"):
        source.train_batch(2, seed=0, step=0)


def test_if_every_file_is_damaged_evaluation_is_refused(tmp_path):
    fill(tmp_path, 2)
    for path in tmp_path.iterdir():
        damage(path)
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    with pytest.warns(GansdkWarning), pytest.raises(DataError, match="None of 2 images"):
        list(source.images("eval"))


# Splits.


def test_every_tenth_image_is_held_out_if_there_are_ten(tmp_path):
    fill(tmp_path, 12, 8, 8)
    source = ImageFolder(tmp_path, contract=contract())
    assert source.describe()["held_out"] == ["00.png", "10.png"]
    assert [batch.names for batch in source.images("search")] == [("00.png",), ("10.png",)]
    assert [batch.names for batch in source.images("eval")] == [("00.png",), ("10.png",)]
    trained = {name for step in range(40) for name in source.train_batch(4, seed=0, step=step).names}
    assert trained == {f"{index:02}.png" for index in range(12)} - {"00.png", "10.png"}


def test_the_seed_and_the_share_choose_what_is_held_out(tmp_path):
    fill(tmp_path, 9, 8, 8)

    def held_out(**options):
        return ImageFolder(tmp_path, contract=contract(), **options).describe()["held_out"]

    assert held_out() == []
    assert held_out(holdout=0) == []
    assert held_out(holdout=0.25, seed=7) == ["03.png", "07.png"]
    with pytest.raises(DataError, match="holdout=1"):
        held_out(holdout=1)


def test_a_folder_for_evaluation_gives_every_image_and_trains_on_none(tmp_path):
    fill(tmp_path, 3)
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    assert len(list(source.images("eval"))) == len(list(source.images("search"))) == 3
    with pytest.raises(DataError, match="no image to train on"):
        source.train_batch(1, seed=0, step=0)


# Patches.


@pytest.fixture(scope="module")
def coordinates(tmp_path_factory):
    """A folder of one 12x16 image whose red and green are the row and the column."""
    folder = tmp_path_factory.mktemp("coordinates")
    rows, columns = np.mgrid[:12, :16]
    save(folder / "a.png", np.stack([rows * 4, columns * 4, rows * 0], axis=2).astype(np.uint8))
    return folder


@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**6))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_patches_of_input_and_target_stay_aligned(coordinates, seed, step):
    enlarging = contract(scale=2, output_range=(0, 255))
    source = ImageFolder(coordinates, contract=enlarging, degrade=lambda x: x[..., ::2, ::2] / 255, patch=4)
    batch = source.train_batch(3, seed=seed, step=step)
    assert batch.inputs["main"].shape == (3, 3, 4, 4)
    assert batch.targets["main"].shape == (3, 3, 8, 8)
    shown = batch.targets["main"].unfold(2, 2, 2).unfold(3, 2, 2).amin((-1, -2))  # the pixel the input was taken from
    torch.testing.assert_close(batch.inputs["main"] * 255, shown, rtol=0, atol=1e-3)


def test_patches_come_from_everywhere_in_all_eight_positions(coordinates):
    source = ImageFolder(coordinates, contract=contract(input_range=(0, 63.75)), patch=4)
    seen = set()
    for patch in source.train_batch(500, seed=0, step=0).inputs["main"].round().int():
        rows, columns = patch[0], patch[1]
        down, right = (int(rows[1, 0] - rows[0, 0]), int(columns[0, 1] - columns[0, 0]))
        turned = (int(rows[0, 1] - rows[0, 0]), int(columns[1, 0] - columns[0, 0]))
        seen.add((int(rows.min()), int(columns.min()), down, right, *turned))
    assert {place[0] for place in seen} == set(range(9))
    assert {place[1] for place in seen} == set(range(13))
    assert len({place[2:] for place in seen}) == 8


def test_the_same_step_gives_the_same_bytes_in_any_order_and_with_any_cache(tmp_path, monkeypatch):
    fill(tmp_path, 4)
    options = {"contract": contract(scale=2), "patch": 4}
    straight = ImageFolder(tmp_path, **options)
    batches = [straight.train_batch(3, seed=5, step=step) for step in range(3)]
    monkeypatch.setattr(store, "CACHE_BYTES", 0)
    resumed = ImageFolder(tmp_path, **options)
    for step in (2, 0, 1):
        assert same(resumed.train_batch(3, seed=5, step=step), batches[step])
    assert not same(batches[0], batches[1])
    assert not same(batches[0], straight.train_batch(3, seed=6, step=0))


def test_images_are_turned_and_cropped_alike_in_batches_of_any_size(tmp_path):
    fill(tmp_path, 3)
    source = ImageFolder(tmp_path, contract=contract(), patch=8)

    def all_in(size: int) -> torch.Tensor:
        return torch.cat([source.train_batch(size, seed=0, step=step).inputs["main"] for step in range(12 // size)])

    assert all(torch.equal(all_in(size), all_in(12)) for size in (1, 2, 3, 4))
    assert len({image.numpy().tobytes() for image in all_in(12)}) == 12


def test_every_image_is_trained_on_once_in_every_epoch(tmp_path):
    fill(tmp_path, 5)
    source = ImageFolder(tmp_path, contract=contract(), patch=8)
    names = [name for step in range(10) for name in source.train_batch(3, seed=0, step=step).names]
    epochs = [names[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(epoch) == sorted(source._train.names) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_probes_are_crops_that_no_training_sees(tmp_path):
    fill(tmp_path, 2, 64, 64)
    source = ImageFolder(tmp_path, contract=contract(), patch=8)
    probes = {source.probe(index, seed=0).inputs["main"].numpy().tobytes() for index in range(8)}
    trained = source.train_batch(300, seed=0, step=0).inputs["main"]
    assert len(probes) == 8
    assert not probes & {image.numpy().tobytes() for image in trained}


def test_the_global_generators_are_not_touched(tmp_path):
    fill(tmp_path, 2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    ImageFolder(tmp_path, contract=contract()).train_batch(2, seed=0, step=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    ("patch", "multiple", "side"), [(10, 4, 8), (3, 4, 4), (100, 4, 16), (100, 1, 18), (32, 5, 15)]
)
def test_patches_are_multiples_and_shrink_to_small_images(tmp_path, patch, multiple, side):
    save(tmp_path / "a.png", noise(18, 30))
    source = ImageFolder(tmp_path, contract=contract(size=(20, 20), multiple_of=multiple), patch=patch)
    assert source.train_batch(2, seed=0, step=0).inputs["main"].shape == (2, 3, side, side)


def test_the_cache_keeps_the_images_that_came_first(tmp_path, monkeypatch):
    fill(tmp_path, 4, 8, 8)
    monkeypatch.setattr(store, "CACHE_BYTES", 2 * 8 * 8 * 3)
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    assert len(list(source.images("eval"))) == 4
    assert list(source._held_out._store.cache) == ["00.png", "01.png"]


# Real images.


@pytest.mark.data
@needs_data
def test_set5_is_read_as_given_pairs():
    source = ImageFolder(DATA / "sr" / "Set5" / "image_SRF_4", contract=contract(scale=4), split="all")
    batches = list(source.images("eval"))
    assert source.pairing is Pairing.PAIRED
    assert [batch.names[0] for batch in batches] == [f"img_00{index}_SRF_4_LR.png" for index in range(1, 6)]
    for batch in batches:
        height, width = batch.inputs["main"].shape[2:]
        assert batch.targets["main"].shape == (1, 3, 4 * height, 4 * width)


@pytest.mark.data
@needs_data
def test_bsd_photographs_train_a_generator_in_its_own_range():
    source = ImageFolder(DATA / "sr" / "BSD100_HR", contract=contract(scale=4, output_range=(-1, 1)), patch=16)
    assert len(source.describe()["held_out"]) == 7
    batch = source.train_batch(4, seed=0, step=0)
    assert batch.inputs["main"].shape == (4, 3, 16, 16)
    assert batch.targets["main"].shape == (4, 3, 64, 64)
    assert batch.inputs["main"].min() >= 0
    assert batch.targets["main"].min() < 0


@pytest.mark.slow
@pytest.mark.data
@needs_data
def test_a_published_generator_scores_as_published_on_set5():
    """SRGAN 30.66 dB, bicubic 28.43 dB: README of the data."""
    path = DATA / "weights" / "srgan_x4_netG.pth"
    generator = recognise(read_state(path), {"sr": SuperResolution()}, path.name)
    source = ImageFolder(DATA / "sr" / "Set5" / "image_SRF_4", contract=generator.contract, split="all")
    result = evaluate(generator.module, teacher=None, source=source, contract=generator.contract)
    psnr = result.qualities[0]
    assert (psnr.metric, psnr.images) == ("psnr-y", 5)
    assert psnr.student == pytest.approx(30.66, abs=0.01)
    assert psnr.extra["bicubic"] == pytest.approx(28.43, abs=0.02)


# Odd folders.


def test_names_that_are_not_utf_8_are_read_and_can_be_printed(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "00.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "01.png").rename(tmp_path / os.fsdecode(b"caf\xe8.png"))
    source = ImageFolder(tmp_path, contract=contract(), split="all")
    assert [batch.names for batch in source.images("eval")] == [(r"caf\udce8.png",), (r"caf\udce9.png",)]
    json.dumps(source.describe(), ensure_ascii=False).encode()
    folder = tmp_path / os.fsdecode(b"\xff")
    fill(folder, 1)
    json.dumps(ImageFolder(folder, contract=contract()).describe(), ensure_ascii=False).encode()


def test_what_is_no_file_is_no_image_and_nobody_waits_for_it(tmp_path):
    fill(tmp_path / "images", 1)
    for name, path in hostile.places(tmp_path):
        if "link" in name or name in ("loop", "dangling", "fifo", "socket"):
            path.rename(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "folder.png").mkdir()
    (tmp_path / "images" / "zeros.png").symlink_to("/dev/zero")
    source = ImageFolder(tmp_path / "images", contract=contract(), split="all")
    assert [batch.names for batch in source.images("eval")] == [("00.png",)]
