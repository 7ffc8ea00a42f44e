"""Label maps: their channels, their edges, and which folders they come in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from gansdk.contracts import Contract, Labels, Pairing
from gansdk.errors import DataError, InvalidOption
from gansdk.toolkit.images import paint_labels, read_ids, to_tensor
from gansdk_adapters.sources import encoding
from gansdk_adapters.sources.encoding import Encoding, edges
from gansdk_adapters.sources.opening import open_folder
from gansdk_adapters.sources.translation import Translation, labels

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")

maps = arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3))


def contract(known: Labels | None, **changes) -> Contract:
    channels = known.channels if known else 3
    return Contract(**{"channels_in": channels, "channels_out": 3, "size": (8, 8), "labels": known, **changes})


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(seed: int, height: int = 8, width: int = 8, *, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)


def spade(folder: Path, *, train: int = 3, val: int = 2, instances: bool = False) -> Path:
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            save(folder / f"{split}_label/{index}.png", ids(index))
            save(folder / f"{split}_img/{index}.jpg", photo(index))
            if instances:
                save(folder / f"{split}_inst/{index}.png", (ids(index, classes=9).astype(np.uint16) * 1000))
    return folder


# Channels.


@given(maps)
@settings(derandomize=True, deadline=None, max_examples=50)
def test_every_pixel_has_one_class(labelled):
    one_hot = Encoding(contract(Labels(classes=4))).tensor(labelled, None)
    assert one_hot.shape == (4, *labelled.shape)
    assert torch.equal(one_hot.sum(0), torch.ones(labelled.shape))
    np.testing.assert_array_equal(one_hot.argmax(0), labelled)


@given(maps)
@settings(derandomize=True, deadline=None, max_examples=50)
def test_edges_are_those_of_a_pixel_by_pixel_comparison(instances):
    height, width = instances.shape
    expected = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            for other_y, other_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= other_y < height and 0 <= other_x < width
                expected[y, x] |= inside and bool(instances[y, x] != instances[other_y, other_x])
    np.testing.assert_array_equal(edges(instances), expected)


def test_pixels_of_no_class_and_edges_have_the_channels_behind_the_classes():
    coded = Encoding(contract(Labels(classes=2, unknown=True, edges=True)))
    labelled = np.array([[0, 1, 255], [2, 1, 1]], np.int32)
    one_hot = coded.tensor(labelled, np.array([[7, 7, 7], [7, 7, 900]], np.int32))
    assert one_hot.tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 1]],
        [[0, 0, 1], [1, 0, 0]],
        [[0, 0, 1], [0, 1, 1]],
    ]


def test_the_ids_of_no_class_can_be_named_and_may_be_below_the_classes(tmp_path):
    save(tmp_path / "a.png", np.array([[0, 1, 7]], np.uint8))
    coded = Encoding(contract(Labels(classes=2, unknown=True)), unknown_ids=[0, 7])
    one_hot = coded.tensor(coded.read(tmp_path / "a.png"), None)
    assert one_hot[:, 0].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    with pytest.raises(DataError, match=r"a\.png' has the id 7.*2 classes: ids 0 to 1, and 2, 255"):
        Encoding(contract(Labels(classes=2, unknown=True))).read(tmp_path / "a.png")


def test_ids_of_no_class_need_a_channel():
    with pytest.raises(InvalidOption, match="no channel"):
        Encoding(contract(Labels(classes=2)), unknown_ids=[7])


def test_a_generator_of_photographs_sees_painted_labels():
    labelled = np.array([[0, 1], [2, 255]], np.int32)
    expected = to_tensor(paint_labels(labelled), (-1, 1))
    assert torch.equal(Encoding(contract(None)).tensor(labelled, None), expected)
    assert len(expected.flatten(1).unique(dim=1)[0]) == 4


def test_a_generator_of_many_channels_takes_as_many_classes(tmp_path):
    coded = Encoding(contract(None, channels_in=5))
    assert coded.tensor(np.array([[4]], np.int32), None).flatten().tolist() == [0, 0, 0, 0, 1]
    save(tmp_path / "a.png", np.array([[5]], np.uint8))
    with pytest.raises(DataError, match="the generator has 5 classes"):
        coded.read(tmp_path / "a.png")


# Files of ids.


def test_ids_of_16_bits_and_of_a_palette_are_read_unscaled(tmp_path):
    wide = np.array([[0, 1000], [24003, 65535]], np.uint16)
    save(tmp_path / "wide.png", wide)
    with Image.open(tmp_path / "wide.png") as image:
        assert image.mode == "I;16"
    np.testing.assert_array_equal(read_ids(tmp_path / "wide.png"), wide)
    indexed = Image.fromarray(np.array([[0, 2], [1, 2]], np.uint8), mode=None).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.save(tmp_path / "indexed.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "indexed.png"), [[0, 2], [1, 2]])


def test_coloured_label_maps_are_refused(tmp_path):
    spade(tmp_path)
    save(tmp_path / "train_label/1.png", photo(1))
    with pytest.raises(DataError, match=r"1\.png' holds RGB colors, but one id per pixel"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


# Folders.


@pytest.mark.parametrize(
    "places",
    [
        ("train_label/{}.png", "train_img/{}.jpg", "train_inst/{}.png"),
        ("labels/{}.png", "images/{}.jpg", "instances/{}.png"),
        ("train/labels/{}.png", "train/images/{}.png", "train/instances/{}.png"),
        ("labels/train/{}.png", "images/train/{}.jpeg", "instances/train/{}.png"),
        ("gtFine/train/ulm/{}_gtFine_labelIds.png", "leftImg8bit/train/ulm/{}_leftImg8bit.png",
         "gtFine/train/ulm/{}_gtFine_instanceIds.png"),
        ("train_label/{}_gtFine_labelIds.png", "train_img/{}_leftImg8bit.png", "train_inst/{}_gtFine_instanceIds.png"),
    ],
)  # fmt: skip
def test_label_maps_photographs_and_instances_are_found_by_their_names(tmp_path, places):
    expected = Labels(classes=3, edges=True)
    for index in range(3):
        label, image, instance = (tmp_path / place.format(f"x_{index}") for place in places)
        save(label, ids(index))
        save(image, photo(index))
        save(instance, ids(index, classes=9).astype(np.uint16) * 300)
    save(tmp_path / "gtFine/train/ulm/x_0_gtFine_color.png", photo(5))
    source = open_folder(tmp_path, contract=contract(expected), holdout=0)
    assert source.pairing is Pairing.PAIRED
    assert (source.describe()["source"], source.describe()["train"]) == ("labels", 3)
    batch = source.train_batch(2, seed=0, step=0)
    assert batch.inputs["main"].shape == (2, 4, 8, 8)
    assert batch.targets["main"].shape == (2, 3, 8, 8)
    shown = next(iter(open_folder(tmp_path, contract=contract(expected), split="all").images("eval")))
    np.testing.assert_array_equal(shown.inputs["main"][0, :3].argmax(0), ids(0))
    np.testing.assert_array_equal(shown.inputs["main"][0, 3], edges(ids(0, classes=9).astype(np.int32)))


@pytest.mark.parametrize(
    ("label", "image"),
    [
        ("labels/{}/{}.png", "images/{}/{}.jpg"),
        ("stuffthingmaps/{}/{}.png", "{}/{}.jpg"),
        ("stuffthingmaps/{}/{}.png", "images/{}/{}.jpg"),
    ],
)
def test_splits_may_have_a_year_as_those_of_coco_have(tmp_path, label, image):
    for split, count in (("train2017", 3), ("val2017", 2), ("test2017", 1)):
        for index in range(count):
            save(tmp_path / label.format(split, index), ids(index))
            save(tmp_path / image.format(split, index), photo(index))
    source = open_folder(tmp_path, contract=contract(Labels(classes=3)))
    assert (source.describe()["source"], source.pairing) == ("labels", Pairing.PAIRED)
    assert {name for step in range(3) for name in source.train_batch(1, seed=0, step=step).names} == {
        f"train2017/{index}" for index in range(3)
    }
    assert [batch.names[0] for batch in source.images("eval")] == ["val2017/0", "val2017/1"]


def test_of_several_years_all_train(tmp_path):
    for split in ("train2014", "train2017", "val2014"):
        save(tmp_path / f"{split}_label/{split}.png", ids(0))
        save(tmp_path / f"{split}_img/{split}.jpg", photo(0))
    source = open_folder(tmp_path, contract=contract(Labels(classes=3)))
    assert source.describe()["train"] == 2
    assert [batch.names[0] for batch in source.images("eval")] == ["val2014/val2014"]


def test_validation_images_are_scored_on_and_every_tenth_other_is_held_out(tmp_path):
    source = labels(spade(tmp_path, train=12, val=2), contract=contract(Labels(classes=3)))
    assert [batch.names[0] for batch in source.images("eval")] == ["val/0", "val/1"]
    assert [batch.names[0] for batch in source.images("search")] == ["train/0", "train/8"]
    assert source.describe()["held_out"] == ["train/0", "train/8"]
    trained = {name for step in range(30) for name in source.train_batch(4, seed=0, step=step).names}
    assert trained == {f"train/{index}" for index in range(12)} - {"train/0", "train/8"}


def test_a_folder_to_score_on_shows_its_validation_images_and_trains_on_none(tmp_path):
    source = labels(spade(tmp_path), contract=contract(Labels(classes=3)), split="all")
    assert [batch.names[0] for batch in source.images("eval")] == ["val/0", "val/1"]
    with pytest.raises(DataError, match="no image to train on"):
        source.train_batch(1, seed=0, step=0)


def test_label_maps_without_photographs_are_inputs_only(tmp_path):
    for index in range(2):
        save(tmp_path / f"labels/{index}.png", ids(index))
    source = open_folder(tmp_path, contract=contract(Labels(classes=3)))
    assert source.pairing is Pairing.INPUTS_ONLY
    assert source.train_batch(2, seed=0, step=0).targets == {}


def test_label_and_photograph_keep_together_under_crop_and_flip(tmp_path):
    rows, columns = np.mgrid[:12, :12]
    classes = (rows * 12 + columns).astype(np.uint8)
    save(tmp_path / "labels/a.png", classes)
    save(tmp_path / "images/a.png", np.repeat(classes[..., None], 3, axis=2))
    known = contract(Labels(classes=144), output_range=(0, 255))
    source = labels(tmp_path, contract=known, preprocess="crop")
    batch = source.train_batch(20, seed=1, step=2)
    np.testing.assert_array_equal(batch.inputs["main"].argmax(1), batch.targets["main"][:, 0].round())
    flipped = {bool(one[0, 0, 1] < one[0, 0, 0]) for one in batch.targets["main"]}
    assert flipped == {True, False}
    upright = labels(tmp_path, contract=known, preprocess="crop", flip=False).train_batch(20, seed=1, step=2)
    assert (upright.targets["main"][:, 0, 0, 1] > upright.targets["main"][:, 0, 0, 0]).all()


# What is refused, before anything is trained.


def test_ids_beyond_the_classes_are_refused_with_file_id_and_classes(tmp_path):
    spade(tmp_path)
    save(tmp_path / "val_label/1.png", np.full((8, 8), 9, np.uint8))
    with pytest.raises(DataError, match=r"val_label/1\.png' has the id 9, but the generator has 3 classes"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


def test_of_very_many_label_maps_some_are_looked_at_and_the_rest_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SCANNED", 2)
    spade(tmp_path, train=4, val=0)
    save(tmp_path / "train_label/1.png", np.full((8, 8), 9, np.uint8))
    source = labels(tmp_path, contract=contract(Labels(classes=3)))
    with pytest.warns(match=r"1\.png' has the id 9"):
        names = {name for step in range(9) for name in source.train_batch(4, seed=0, step=step).names}
    assert names == {"train/0", "train/2", "train/3"}
    save(tmp_path / "train_label/2.png", np.full((8, 8), 9, np.uint8))
    with pytest.raises(DataError, match=r"2\.png' has the id 9"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


@pytest.mark.parametrize("missing", ["train_img/1.jpg", "train_label/2.png", "val_inst/0.png"])
def test_folders_of_different_length_are_refused_with_the_lonely_files(tmp_path, missing):
    spade(tmp_path, instances=True)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"without a partner.*{Path(missing).stem}\."):
        labels(tmp_path, contract=contract(Labels(classes=3)))


def test_two_files_of_one_name_are_refused(tmp_path):
    spade(tmp_path)
    save(tmp_path / "train_img/0.png", photo(0))
    with pytest.raises(DataError, match=r"0\.png' and '0\.jpg' have the same name|0\.jpg' and '0\.png'"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


@pytest.mark.parametrize("place", ["train_img/1.jpg", "val_inst/1.png"])
def test_other_sizes_than_that_of_the_label_map_are_refused(tmp_path, place):
    spade(tmp_path, instances=True)
    save(tmp_path / place, photo(0, 8, 10)[..., 0])
    with pytest.raises(DataError, match=r"1\.png' is 8x8 pixels, but .*8x10"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


def test_edges_need_instances(tmp_path):
    with pytest.raises(DataError, match=r"has no instance map.*And 2 more, among them train/1"):
        labels(spade(tmp_path), contract=contract(Labels(classes=3, edges=True)))


def test_a_folder_without_label_maps_is_refused_for_a_generator_that_takes_them(tmp_path):
    save(tmp_path / "a.png", photo(0))
    with pytest.raises(DataError, match=r"takes label maps of 3 classes.*train_label"):
        open_folder(tmp_path, contract=contract(Labels(classes=3)))
    with pytest.raises(DataError, match="no label maps"):
        labels(tmp_path, contract=contract(Labels(classes=3)))


# Real label maps.


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("known", [Labels(classes=12), Labels(classes=11, unknown=True)], ids=["12", "11 and unknown"])
def test_camvid_has_eleven_classes_and_unlabelled_pixels(known):
    source = open_folder(DATA / "camvid", contract=contract(known, size=(192, 256), multiple_of=64))
    facts = source.describe()
    assert (facts["train"], len(facts["held_out"]), facts["eval"]) == (330, 37, 101)
    batch = source.train_batch(3, seed=0, step=0)
    assert batch.inputs["main"].shape == (3, 12, 192, 256)
    assert torch.equal(batch.inputs["main"].sum(1), torch.ones(3, 192, 256))
    assert batch.inputs["main"][:, 11].any()
    shown = next(iter(source.images("eval")))
    file = DATA / "camvid" / "val_label" / "0016E5_07959.png"
    np.testing.assert_array_equal(shown.inputs["main"][0].argmax(0), np.asarray(Image.open(file)))


@pytest.mark.data
@needs_data
def test_camvid_of_eleven_classes_without_a_channel_for_the_rest_is_refused():
    with pytest.raises(DataError, match="has the id 11, but the generator has 11 classes"):
        open_folder(DATA / "camvid", contract=contract(Labels(classes=11), size=(192, 256)))


@pytest.mark.data
@needs_data
def test_camvid_is_painted_for_a_generator_of_photographs():
    source = open_folder(DATA / "camvid", contract=contract(None, size=(192, 256), multiple_of=4))
    assert source.train_batch(2, seed=0, step=0).inputs["main"].shape == (2, 3, 192, 256)
    shown = next(iter(source.images("eval"))).inputs["main"]
    assert len(shown[0].flatten(1).unique(dim=1)[0]) <= 12


@pytest.mark.data
@needs_data
def test_coco_stuff_goes_in_with_unknown_pixels_and_the_edges_of_instances():
    known = Labels(classes=182, unknown=True, edges=True)
    source = open_folder(DATA / "coco_stuff", contract=contract(known, size=(256, 256), multiple_of=32))
    batch = source.train_batch(4, seed=0, step=0)
    assert isinstance(source, Translation)
    assert batch.inputs["main"].shape == (4, 184, 256, 256)
    assert torch.equal(batch.inputs["main"][:, :-1].sum(1), torch.ones(4, 256, 256))
    shown = list(source.images("eval"))
    assert len(shown) == 8
    assert 0.005 < np.mean([float(one.inputs["main"][:, -1].mean()) for one in shown]) < 0.2
    assert any(one.inputs["main"][:, 182].any() for one in shown)
