"""Photographs for translation: pairs side by side or in folders, two domains, tables of images, sizes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gansdk.contracts import Contract, Labels, Pairing
from gansdk.errors import DataError, InvalidOption
from gansdk.generators.joint import source_of, together
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.toolkit.images import resize_bicubic
from gansdk_adapters.sources.folder import ImageFolder
from gansdk_adapters.sources.opening import open_folder
from gansdk_adapters.sources.preparing import for_training
from gansdk_adapters.sources.translation import Translation, aligned, imagefolder, images, pairs, unpaired

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def contract(**changes) -> Contract:
    settings = {"channels_in": 3, "channels_out": 3, "size": (8, 8), "input_range": (0, 255), "output_range": (0, 255)}
    return Contract(**{**settings, **changes})


def photo(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill(folder: Path, count: int, height: int = 8, width: int = 8, *, seed: int = 0) -> None:
    for index in range(count):
        save(folder / f"{index:02}.png", photo(seed + index, height, width))


def shown(source, split="eval") -> dict[str, tuple]:
    """Name -> pixels of input and target."""

    def pixels(found, index=0):
        return found["main"][index].permute(1, 2, 0).round().byte().numpy() if found else None

    return {batch.names[0]: (pixels(batch.inputs), pixels(batch.targets)) for batch in source.images(split)}


# Pairs.


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_two_images_side_by_side_are_a_pair(tmp_path, direction):
    fill(tmp_path / "train", 3, 8, 16)
    fill(tmp_path / "val", 2, 8, 16, seed=50)
    source = open_folder(tmp_path, contract=contract(), direction=direction)
    assert source.describe()["source"] == "aligned"
    assert source.pairing is Pairing.PAIRED
    assert source.train_batch(2, seed=0, step=0).paired
    seen = shown(source)
    assert list(seen) == ["val/00.png", "val/01.png"]
    halves = np.split(photo(50, 8, 16), 2, axis=1)
    for half, expected in zip(seen["val/00.png"], halves if direction == "AtoB" else halves[::-1], strict=True):
        np.testing.assert_array_equal(half, expected)


@pytest.mark.parametrize("place", ["", "train", "val", "test"])
def test_a_folder_whose_images_are_all_twice_as_wide_as_high_holds_pairs(tmp_path, place):
    fill(tmp_path / place, 2, 8, 16)
    source = open_folder(tmp_path, contract=contract(), split="all")
    assert (source.describe()["source"], source.describe()["eval"]) == ("aligned", 2)
    assert source.pairing is Pairing.PAIRED
    wide = open_folder(tmp_path, contract=contract(size=(8, 16)), split="all")
    assert (wide.describe()["source"], wide.pairing) == ("images", Pairing.INPUTS_ONLY)
    save(tmp_path / place / "wider.png", photo(9, 8, 18))
    assert open_folder(tmp_path, contract=contract(), split="all").describe()["source"] == "images"


def test_an_odd_width_has_no_halves(tmp_path):
    fill(tmp_path, 2, 8, 17)
    with pytest.raises(DataError, match=r"17 pixels wide.*And 1 more, among them 01\.png"):
        aligned(tmp_path, contract=contract())


@pytest.mark.parametrize(
    "places", [("A/{}", "B/{}"), ("A/train/{}", "B/train/{}"), ("train/A/{}", "train/B/{}"), ("input/{}", "target/{}")]
)
def test_folders_of_the_same_names_are_pairs(tmp_path, places):
    for index in range(3):
        for place, seed in zip(places, (0, 90), strict=True):
            save(tmp_path / place.format(f"{index}.png"), photo(seed + index))
    seen = shown(pairs(tmp_path, contract=contract(), split="all"))
    swapped = shown(pairs(tmp_path, contract=contract(), split="all", direction="BtoA"))
    for index, name in enumerate(seen):
        np.testing.assert_array_equal(seen[name][0], photo(index))
        np.testing.assert_array_equal(seen[name][1], photo(90 + index))
        np.testing.assert_array_equal(swapped[name][0], seen[name][1])
    assert len(seen) == 3


def test_the_folders_of_two_domains_are_pairs_if_that_is_said(tmp_path):
    for place, seed in (("trainA", 0), ("trainB", 90), ("testA", 40), ("testB", 140)):
        fill(tmp_path / place, 3, seed=seed)
    source = pairs(tmp_path, contract=contract())
    assert (source.pairing, source.describe()["train"]) == (Pairing.PAIRED, 3)
    seen = shown(source)
    assert list(seen) == ["test/00", "test/01", "test/02"]
    np.testing.assert_array_equal(seen["test/01"][0], photo(41))
    np.testing.assert_array_equal(seen["test/01"][1], photo(141))
    assert open_folder(tmp_path, contract=contract()).pairing is Pairing.UNPAIRED


def test_folders_of_different_length_are_refused(tmp_path):
    fill(tmp_path / "A", 3)
    fill(tmp_path / "B", 2)
    with pytest.raises(DataError, match=r"3 files and 2 files; files without a partner: '.*A/02\.png'"):
        open_folder(tmp_path, contract=contract())


def test_pairs_of_different_sizes_are_refused(tmp_path):
    fill(tmp_path / "A", 3)
    fill(tmp_path / "B", 3)
    save(tmp_path / "B/01.png", photo(0, 8, 12))
    with pytest.raises(DataError, match=r"A/01\.png' is 8x8 pixels, but '.*B/01\.png', which belongs to it, is 8x12"):
        open_folder(tmp_path, contract=contract())


@pytest.fixture(scope="module")
def coordinates(tmp_path_factory):
    """A pair side by side whose colours are the row and the column, in A and in B."""
    folder = tmp_path_factory.mktemp("coordinates")
    rows, columns = np.mgrid[:14, :14]
    place = np.stack([rows * 9, columns * 9, rows * 0], axis=2).astype(np.uint8)
    save(folder / "a.png", np.concatenate([place, place], axis=1))
    return folder


@given(seed=st.integers(0, 2**32), step=st.integers(0, 10**6))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_a_pair_has_the_same_crop_and_flip_whatever_it_is_resized_to(coordinates, seed, step):
    for options in ({"preprocess": "crop"}, {"load_size": (11, 13)}, {"preprocess": "scale-width", "load_size": 10}):
        batch = aligned(coordinates, contract=contract(), **options).train_batch(3, seed=seed, step=step)
        assert torch.equal(batch.inputs["main"], batch.targets["main"])


def test_crops_come_from_everywhere_upright_and_flipped(coordinates):
    source = aligned(coordinates, contract=contract(), preprocess="crop")
    seen = set()
    for crop in source.train_batch(400, seed=0, step=0).inputs["main"].round().int():
        rows, columns = crop[0] // 9, crop[1] // 9
        assert int(rows[1, 0]) - int(rows[0, 0]) == 1  # never turned
        seen.add((int(rows.min()), int(columns.min()), int(columns[0, 1] - columns[0, 0])))
    assert {place[0] for place in seen} == {place[1] for place in seen} == set(range(7))
    assert {place[2] for place in seen} == {1, -1}


# Two domains.


def domains(folder: Path) -> Path:
    for name, count, seed in (("trainA", 4, 0), ("trainB", 3, 100), ("testA", 2, 200), ("testB", 2, 300)):
        fill(folder / name, count, seed=seed)
    return folder


def test_two_domains_are_never_pairs_and_nothing_stands_beside_what_is_scored(tmp_path):
    source = open_folder(domains(tmp_path), contract=contract())
    batch = source.train_batch(3, seed=0, step=0)
    assert source.pairing is Pairing.UNPAIRED
    assert not batch.paired
    assert batch.inputs["main"].shape == batch.targets["main"].shape == (3, 3, 8, 8)
    seen = shown(source)
    assert list(seen) == ["testA/00.png", "testA/01.png"]
    np.testing.assert_array_equal(seen["testA/00.png"][0], photo(200))
    assert all(target is None for _, target in seen.values())


def references(source, split="eval") -> dict[str, np.ndarray]:
    """Name -> pixels."""
    found = {}
    for batch in source.references(split):
        assert not batch.inputs
        assert not batch.paired
        found[batch.names[0]] = batch.targets["main"][0].permute(1, 2, 0).round().byte().numpy()
    return found


def test_with_too_few_images_of_the_other_domain_none_are_held_out(tmp_path):
    fill(tmp_path / "trainA", 12)
    fill(tmp_path / "trainB", 3, seed=100)
    source = unpaired(tmp_path, contract=contract())
    assert references(source) == references(source, "search") == {}
    assert source.describe()["train_others"] == 3


def test_no_image_is_both_searched_and_scored_on_where_there_are_folders_for_scores(tmp_path):
    for domain, count, seed in (("trainA", 20, 0), ("trainB", 20, 100), ("testA", 2, 200), ("testB", 2, 300)):
        fill(tmp_path / domain, count, seed=seed)
    source = unpaired(tmp_path, contract=contract(), preprocess="none", flip=False)
    assert list(references(source, "search")) == ["trainB/00.png", "trainB/10.png"]
    assert list(references(source)) == ["testB/00.png", "testB/01.png"]
    kept = {image.tobytes() for image in references(source, "search").values()}
    trained = source.train_batch(400, seed=0, step=0).targets["main"].permute(0, 2, 3, 1).round().byte().numpy()
    assert len({image.tobytes() for image in trained}) == 18
    assert not kept & {image.tobytes() for image in trained}
    generator = together({"A2B": tiny_cyclegan(), "B2A": tiny_cyclegan()})
    names = {
        split: {name for batch in source_of(source, generator).images(split) for name in batch.names}
        for split in ("search", "eval")
    }
    assert names["search"] == {f"train{domain}/{index}0.png" for domain in "AB" for index in range(2)}
    assert names["eval"] == {f"test{domain}/0{index}.png" for domain in "AB" for index in range(2)}


def tiny_cyclegan():
    family = open_adapter({"name": "cyclegan", "size": [8, 8]})
    return open_generator(family.create(width=4, blocks=1), family)


def test_with_too_few_images_to_hold_some_out_a_search_has_none_and_not_those_that_are_scored_on(tmp_path):
    fill(tmp_path / "train", 3, 8, 16)
    fill(tmp_path / "val", 2, 8, 16, seed=50)
    source = aligned(tmp_path, contract=contract())
    assert list(shown(source, "search")) == []
    assert list(shown(source)) == ["val/00.png", "val/01.png"]


def test_references_are_whole_images_in_the_range_and_size_of_what_comes_out(tmp_path):
    domains(tmp_path)
    fill(tmp_path / "testB", 2, 11, 15, seed=300)
    small = contract(size=(4, 8), multiple_of=4, input_range=(0, 1), channels_out=1)
    [first, _] = unpaired(tmp_path, contract=small).references("eval")
    assert first.targets["main"].shape == (1, 1, 4, 8)
    assert 1 < first.targets["main"].max() <= 255
    kept = unpaired(tmp_path, contract=small, preprocess="none").references("eval")
    assert next(kept).targets["main"].shape == (1, 1, 8, 12)


def test_the_direction_says_which_domain_goes_in(tmp_path):
    source = unpaired(domains(tmp_path), contract=contract(), direction="BtoA")
    assert list(shown(source)) == ["testB/00.png", "testB/01.png"]
    assert (source.describe()["train"], source.describe()["train_others"]) == (3, 4)


@pytest.mark.parametrize("split", ["train", "all"])
def test_what_is_made_is_compared_with_the_other_domain(tmp_path, split):
    source = open_folder(domains(tmp_path), contract=contract(), split=split)
    found = list(source.references("eval"))
    assert [batch.names for batch in found] == [("testB/00.png",), ("testB/01.png",)]
    np.testing.assert_array_equal(found[0].targets["main"][0].permute(1, 2, 0).numpy(), photo(300))
    assert source.describe()["eval_others"] == 2


def test_without_a_folder_of_its_own_the_other_domain_is_held_out_of_training(tmp_path):
    for domain, seed in (("A", 0), ("B", 100)):
        fill(tmp_path / f"train{domain}", 20, seed=seed)
    source = unpaired(tmp_path, contract=contract(), holdout=0.2, preprocess="none", flip=False)
    compared = {batch.targets["main"].numpy().tobytes() for batch in source.references("eval")}
    trained = {image.numpy().tobytes() for image in source.train_batch(400, seed=0, step=0).targets["main"]}
    assert (len(compared), len(trained)) == (4, 16)
    assert not compared & trained


def test_every_domain_has_its_own_epochs_in_an_order_of_its_own(tmp_path):
    domains(tmp_path)
    few = unpaired(tmp_path, contract=contract(), preprocess="none", flip=False)
    batches = [few.train_batch(3, seed=0, step=step) for step in range(4)]
    ours = torch.cat([batch.inputs["main"] for batch in batches])
    theirs = torch.cat([batch.targets["main"] for batch in batches])
    assert {len(epoch.flatten(1).unique(dim=0)) for epoch in ours.split(4)} == {4}
    assert {len(epoch.flatten(1).unique(dim=0)) for epoch in theirs.split(3)} == {3}
    fill(tmp_path / "trainA", 7)
    more = unpaired(tmp_path, contract=contract(), preprocess="none", flip=False)
    assert torch.equal(more.train_batch(12, seed=0, step=0).targets["main"], theirs)


def test_images_of_both_domains_are_drawn_independently(tmp_path):
    source = unpaired(domains(tmp_path), contract=contract(), preprocess="none", flip=False)
    ours = {photo(index)[0, 0].tobytes(): index for index in range(4)}
    theirs = {photo(100 + index)[0, 0].tobytes(): index for index in range(3)}
    batch = source.train_batch(200, seed=0, step=0)

    def drawn(found, names):
        return [names[image[:, 0, 0].round().byte().numpy().tobytes()] for image in found["main"]]

    together = set(zip(drawn(batch.inputs, ours), drawn(batch.targets, theirs), strict=True))
    assert together == {(a, b) for a in range(4) for b in range(3)}


def test_the_images_of_a_batch_do_not_repeat_in_the_other_domain(tmp_path):
    """The random numbers of a position of A must be those of no position of B."""
    for domain in "AB":
        fill(tmp_path / f"train{domain}", 40)
    batch = unpaired(tmp_path, contract=contract(), holdout=0).train_batch(6, seed=3, step=1)
    equal = [[torch.equal(a, b) for a in batch.inputs["main"]] for b in batch.targets["main"]]
    assert not any(map(any, equal))


def test_a_domain_keeps_the_range_of_what_it_is(tmp_path):
    source = unpaired(domains(tmp_path), contract=contract(input_range=(0, 1), channels_out=1))
    batch = source.train_batch(4, seed=0, step=0)
    assert batch.inputs["main"].max() <= 1
    assert batch.targets["main"].shape[1] == 1
    assert batch.targets["main"].max() > 100


@pytest.mark.parametrize("empty", ["trainA", "trainB"])
def test_a_domain_without_images_is_refused(tmp_path, empty):
    domains(tmp_path)
    for file in (tmp_path / empty).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"\b0 (images )?in " + empty):
        open_folder(tmp_path, contract=contract())


# Tables of images.


def table(folder: Path, rows: list[dict], *, kind: str = "jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    (folder / f"metadata.{kind}").write_text(text)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("input_column", "target_column"),
    [
        ("file_name", "target_file_name"),
        ("conditioning_image", "file_name"),
        ("conditioning_image_file_name", "file_name"),
        ("input_file_name", "output_file_name"),
        ("input_image", "edited_image"),
    ],
)
def test_columns_say_by_their_names_what_goes_in_and_what_comes_out(tmp_path, kind, input_column, target_column):
    fill(tmp_path / "train" / "x", 2)
    fill(tmp_path / "train" / "y", 2, seed=70)
    rows = [{"text": "sky", target_column: f"y/{i:02}.png", input_column: f"x/{i:02}.png"} for i in range(2)]
    table(tmp_path / "train", rows, kind=kind)
    source = open_folder(tmp_path, contract=contract(), split="all")
    assert source.describe()["source"] == "imagefolder"
    np.testing.assert_array_equal(shown(source)["train/x/01.png"][0], photo(1))
    np.testing.assert_array_equal(shown(source)["train/x/01.png"][1], photo(71))


def test_columns_can_be_named(tmp_path):
    fill(tmp_path, 2)
    table(tmp_path, [{"file_name": "00.png", "dusk": "01.png"}])
    assert open_folder(tmp_path, contract=contract()).pairing is Pairing.INPUTS_ONLY
    source = imagefolder(tmp_path, contract=contract(), target_column="dusk", split="all")
    np.testing.assert_array_equal(shown(source)["00.png"][1], photo(1))
    with pytest.raises(InvalidOption, match=r"input_column='dawn'.*file_name, dusk"):
        imagefolder(tmp_path, contract=contract(), input_column="dawn")


def test_one_photograph_may_become_several_others(tmp_path):
    fill(tmp_path, 3)
    table(tmp_path, [{"file_name": "00.png", "target": "01.png"}, {"file_name": "00.png", "target": "02.png"}])
    seen = shown(imagefolder(tmp_path, contract=contract(), split="all"))
    np.testing.assert_array_equal([target for _, target in seen.values()], [photo(1), photo(2)])


def test_splits_are_folders_with_tables_or_paths_in_one_table(tmp_path):
    for split in ("train", "validation"):
        fill(tmp_path / "apart" / split, 2)
        table(tmp_path / "apart" / split, [{"file_name": "00.png"}, {"file_name": "01.png"}])
        fill(tmp_path / "one" / split, 2)
    table(tmp_path / "one", [{"file_name": f"{split}/00.png"} for split in ("train", "validation")])
    for folder, count in (("apart", 2), ("one", 1)):
        source = open_folder(tmp_path / folder, contract=contract())
        assert source.describe()["train"] == count
        assert list(shown(source)) == ["validation/00.png", "validation/01.png"][:count]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"file_name": "none.png"}', r"Row 1 .*file_name='none.png', but there is no such file"),
        ('{"file_name": 3}', "file_name=3"),
        ('{"file_name": "/etc/a.png"}', "file_name='/etc/a.png'"),
        ('{"text": "sky"}', "no column file_name, but text"),
        ("", "no column file_name"),
        ("{", "cannot be read"),
        ("[1]", "not JSON objects"),
        ("[" * 100_000, "cannot be read"),
        ('{"file_name": "../00.png"}', "no such file next to it"),
        ('{"file_name": "a\\u0000b.png"}', "no such file next to it"),
        ('{"file_name": "' + "n" * 5000 + '"}', "no such file next to it"),
        ('{"file_name": "\\ud800.png"}', "no such file next to it"),
        ('{"' + "n" * 100_000 + '": 1}', "no column file_name"),
    ],
)
def test_tables_that_say_nothing_of_images_are_refused(tmp_path, text, says):
    fill(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(DataError, match=says):
        open_folder(tmp_path, contract=contract())


def test_a_table_with_more_values_than_columns_is_read_by_its_columns(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text("text,\nsky,00.png,more\n")
    with pytest.raises(DataError, match="no column file_name, but text"):
        open_folder(tmp_path, contract=contract())


def test_a_table_larger_than_any_is_refused_before_it_is_read(tmp_path):
    fill(tmp_path, 1)
    with (tmp_path / "metadata.jsonl").open("wb") as file:
        file.truncate(2**33)  # sparse: takes no space
    with pytest.raises(DataError, match=r"has more than .* bytes"):
        open_folder(tmp_path, contract=contract())


def test_names_that_are_not_utf_8_are_read_in_every_layout(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    for layout, places, side in (
        ("images", ("{}.png",), 8),
        ("aligned", ("{}.png",), 16),
        ("pairs", ("A/{}.png", "B/{}.png"), 8),
        ("unpaired", ("trainA/{}.png", "trainB/{}.png", "testA/{}.png"), 8),
    ):
        folder = tmp_path / layout / name
        for place in places:
            fill((folder / place.format(name)).parent, 1, 8, side)
            (folder / place.format("00")).rename(folder / place.format(name))
        source = {"images": images, "aligned": aligned, "pairs": pairs, "unpaired": unpaired}[layout](
            folder, contract=contract(), split="all"
        )
        assert [r"caf\udce9" in shown for batch in source.images("eval") for shown in batch.names] == [True]
        json.dumps(source.describe(), ensure_ascii=False).encode()


def test_images_are_not_enlarged_beyond_what_memory_holds(tmp_path):
    fill(tmp_path, 2)
    with pytest.raises(DataError, match="60000x60000 would be more than"):
        images(tmp_path, contract=contract(), load_size=60_000)


# Sizes.


def test_training_images_are_resized_bicubically_and_cropped_as_the_papers_do():
    square = for_training(Contract(channels_in=3, channels_out=3, size=(256, 256)))
    assert (square.loaded((600, 800)), square.crop, square.flip) == ((286, 286), (256, 256), True)
    cityscapes = Contract(channels_in=36, channels_out=3, size=(256, 512), labels=Labels(classes=35, edges=True))
    wide = for_training(cityscapes)
    assert (wide.loaded((1024, 2048)), wide.crop, wide.flip) == ((256, 512), None, True)
    coco = Contract(
        channels_in=184, channels_out=3, size=(256, 256), labels=Labels(classes=182, unknown=True, edges=True)
    )
    assert for_training(coco).loaded((480, 640)) == (286, 286)
    assert for_training(Contract(channels_in=3, channels_out=3, size=(192, 256))).loaded((9, 9)) == (214, 286)


@pytest.mark.parametrize(
    ("options", "loaded", "cropped"),
    [
        ({}, (36, 36), (32, 32)),
        ({"load_size": 40}, (40, 40), (32, 32)),
        ({"crop_size": 16}, (36, 36), (16, 16)),
        ({"crop_size": 64}, (72, 72), (64, 64)),
        ({"crop_size": (16, 32), "load_size": [20, 40]}, (20, 40), (16, 32)),
        ({"preprocess": "resize"}, (32, 32), (32, 32)),
        ({"preprocess": "scale-width"}, (24, 32), (24, 32)),
        ({"preprocess": "scale-width", "load_size": 48}, (32, 48), (32, 48)),
        ({"preprocess": "scale-width-and-crop", "load_size": 48}, (32, 48), (32, 32)),
        ({"preprocess": "scale_width_and_crop", "load_size": 48}, (32, 48), (32, 32)),
        ({"preprocess": "resize_and_crop"}, (36, 36), (32, 32)),
        ({"preprocess": "crop"}, (40, 54), (32, 32)),
        ({"preprocess": "none"}, (40, 54), (40, 48)),
    ],
)
def test_sizes_are_those_asked_for_and_crops_multiples(options, loaded, cropped):
    prepared = for_training(contract(size=(32, 32), multiple_of=8), **options)
    assert prepared.loaded((40, 54)) == loaded
    assert prepared.cropped([loaded]) == cropped


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preprocess": "squeeze"}, "none of resize-and-crop"),
        ({"crop_size": 12}, "multiples of 8"),
        ({"crop_size": 64, "load_size": 40}, "larger than the loaded 40x40"),
        ({"load_size": 0}, "load_size=0"),
        ({"flip": "no"}, "flip='no' must be true or false"),
        ({"crop_size": (8, 8, 8)}, "crop_size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, says):
    with pytest.raises(InvalidOption, match=says):
        for_training(contract(size=(32, 32), multiple_of=8), **options)


def test_images_to_score_on_have_the_size_of_the_contract_and_are_never_flipped(tmp_path):
    save(tmp_path / "a.png", photo(0, 20, 30))
    source = images(tmp_path, contract=contract(size=(12, 16), multiple_of=4), split="all")
    np.testing.assert_array_equal(shown(source)["a.png"][0], resize_bicubic(photo(0, 20, 30), 12, 16))
    whole = images(tmp_path, contract=contract(size=(12, 16), multiple_of=4), split="all", preprocess="none")
    np.testing.assert_array_equal(shown(whole)["a.png"][0], photo(0, 20, 30)[:, :28])


def test_the_patch_is_the_side_of_the_crop(tmp_path):
    fill(tmp_path, 2, 20, 20)
    source = open_folder(tmp_path, contract=contract(size=(16, 16), multiple_of=4), patch=8)
    assert source.train_batch(2, seed=0, step=0).inputs["main"].shape == (2, 3, 8, 8)


def test_a_patch_larger_than_every_image_is_refused_unless_they_shall_be_enlarged(tmp_path):
    fill(tmp_path, 2, 8, 12)
    save(tmp_path / "larger.png", photo(7, 10, 9))
    with pytest.raises(InvalidOption, match=r"patch=40000 is larger than every image: the largest is 10x9 pixels"):
        open_folder(tmp_path, contract=contract(), patch=40000)
    assert (
        open_folder(tmp_path, contract=contract(), patch=9).train_batch(1, seed=0, step=0).inputs["main"].shape[2] == 9
    )
    enlarged = open_folder(tmp_path, contract=contract(), patch=16, load_size=20).train_batch(1, seed=0, step=0)
    assert enlarged.inputs["main"].shape == (1, 3, 16, 16)


def test_images_smaller_than_the_multiple_are_refused(tmp_path):
    fill(tmp_path, 2)
    save(tmp_path / "low.png", photo(0, 3, 20))
    for options in ({}, {"preprocess": "none"}, {"preprocess": "scale-width"}):
        with pytest.raises(DataError, match=r"'low\.png' cannot be used. It is 3x20 pixels.*at least 4"):
            open_folder(tmp_path, contract=contract(multiple_of=4), **options)


def test_images_of_unlike_sizes_share_the_largest_common_crop(tmp_path):
    save(tmp_path / "a.png", photo(0, 8, 20))
    save(tmp_path / "b.png", photo(1, 21, 9))
    source = images(tmp_path, contract=contract(multiple_of=4), preprocess="none")
    shapes = {source.train_batch(4, seed=0, step=step).inputs["main"].shape[2:] for step in range(9)}
    assert shapes <= {(8, 8), (8, 20), (20, 8)}
    assert (8, 8) in shapes


# Any layout.


def test_images_without_partners_are_inputs_only(tmp_path):
    fill(tmp_path / "sub", 3)
    source = open_folder(tmp_path, contract=contract())
    assert isinstance(source, Translation)
    assert source.pairing is Pairing.INPUTS_ONLY
    assert source.train_batch(2, seed=0, step=0).targets == {}


@pytest.mark.parametrize("table", [False, True])
def test_images_of_a_split_with_a_year_are_not_trained_on_unless_it_is_for_that(tmp_path, table):
    fill(tmp_path / "train2017", 3)
    fill(tmp_path / "val2017", 2, seed=50)
    if table:
        names = [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*.png"))]
        (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": name}) for name in names))
    source = open_folder(tmp_path, contract=contract())
    assert source.describe()["source"] == ("imagefolder" if table else "images")
    assert source.describe()["train"] == 3
    assert list(shown(source)) == ["val2017/00.png", "val2017/01.png"]


@pytest.mark.parametrize("options", [{"scale": 2}, {"pre_upsampled": 2}])
def test_generators_that_enlarge_keep_their_source(tmp_path, options):
    fill(tmp_path / "A", 2)
    fill(tmp_path / "B", 2)
    fill(tmp_path / "plain", 2)
    assert isinstance(open_folder(tmp_path / "plain", contract=contract(**options)), ImageFolder)
    with pytest.raises(InvalidOption, match="opened as ImageFolder, which has no option 'direction'"):
        open_folder(tmp_path / "plain", contract=contract(**options), direction="BtoA")


def test_a_folder_that_is_empty_or_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="contains no images"):
        open_folder(tmp_path, contract=contract())
    with pytest.raises(DataError, match="does not exist"):
        open_folder(tmp_path / "none", contract=contract())
    for layout in (aligned, images):
        with pytest.raises(DataError, match="contains no images"):
            layout(tmp_path, contract=contract())
    with pytest.raises(DataError, match="no subfolders A and B"):
        pairs(tmp_path, contract=contract())
    with pytest.raises(DataError, match="both domains"):
        unpaired(tmp_path, contract=contract())
    with pytest.raises(DataError, match=r"neither metadata\.jsonl nor"):
        imagefolder(tmp_path, contract=contract())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"direction": "A2B"}, "choose one of 'AtoB', 'BtoA'"),
        ({"layout": "side"}, "layout='side'"),
        ({"split": "all", "x": 1}, "x"),
    ],
)
def test_options_that_do_not_exist_are_refused(tmp_path, options, says):
    fill(tmp_path / "train", 2, 8, 16)
    with pytest.raises(InvalidOption, match=says):
        open_folder(tmp_path, contract=contract(), **options)


def test_photographs_are_no_label_maps(tmp_path):
    fill(tmp_path, 2)
    with pytest.raises(DataError, match="images of 7 channels"):
        images(tmp_path, contract=contract(channels_in=7))
    with pytest.raises(DataError, match="upscales x2"):
        images(tmp_path, contract=contract(scale=2))


@given(seed=st.integers(0, 2**32), step=st.integers(0, 2**31), size=st.integers(1, 4))
@settings(derandomize=True, deadline=None, max_examples=15)
def test_the_same_key_gives_the_same_batch_and_another_step_another(tmp_path_factory, seed, step, size):
    folder = tmp_path_factory.getbasetemp() / "domains"
    if not folder.exists():
        domains(folder)
    options = {"contract": contract(), "load_size": 30}
    first, again = unpaired(folder, **options), unpaired(folder, **options)
    again.train_batch(2, seed=seed, step=step + 1)
    one, other = first.train_batch(size, seed=seed, step=step), again.train_batch(size, seed=seed, step=step)
    assert one.names == other.names
    assert torch.equal(one.inputs["main"], other.inputs["main"])
    assert torch.equal(one.targets["main"], other.targets["main"])
    assert not torch.equal(one.inputs["main"], first.train_batch(size, seed=seed, step=step + 1).inputs["main"])


def test_other_files_are_another_source(tmp_path):
    domains(tmp_path)
    first = open_folder(tmp_path, contract=contract()).describe()
    assert open_folder(tmp_path, contract=contract()).describe() == first
    save(tmp_path / "trainB/00.png", photo(0, 9, 9))
    assert open_folder(tmp_path, contract=contract()).describe()["files"] != first["files"]
    json.dumps(first)


def test_a_damaged_image_is_replaced_and_warned_about(tmp_path):
    fill(tmp_path / "train", 3, 8, 16)
    file = tmp_path / "train/01.png"
    file.write_bytes(file.read_bytes()[:60])
    source = aligned(tmp_path, contract=contract())
    with pytest.warns(match=r"01\.png"):
        names = {name for step in range(9) for name in source.train_batch(3, seed=0, step=step).names}
    assert names == {"train/00.png", "train/02.png"}
    assert list(source.describe()["skipped"]) == ["train/01.png"]


# Real photographs.


@pytest.mark.data
@needs_data
def test_day_and_dusk_are_two_domains():
    source = open_folder(DATA / "camvid_day2dusk", contract=contract(size=(192, 256), multiple_of=4))
    facts = source.describe()
    assert (facts["source"], facts["train"] + len(facts["held_out"])) == ("unpaired", 204)
    assert facts["train_others"] + len(facts["held_out_others"]) == 62
    batch = source.train_batch(4, seed=0, step=0)
    assert batch.inputs["main"].shape == batch.targets["main"].shape == (4, 3, 192, 256)
    assert batch.inputs["main"].mean() > batch.targets["main"].mean()  # dusk is darker
    assert len(list(source.images("eval"))) == 34
    assert len(list(source.references("eval"))) == 31
