"""What cannot work is refused in one paragraph, before any step and without a trace on disk."""

import os
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gansdk
from gansdk.errors import (
    BudgetSyntaxError,
    BudgetUnreachable,
    CheckpointError,
    CheckpointMismatch,
    ContractError,
    DataError,
    GansdkError,
    GansdkWarning,
    IncompatibleParts,
    InvalidOption,
    MissingData,
    NeedsContract,
    OutputError,
    PluginLoadError,
    PluginNotFound,
    PluginWarning,
    QualityFloorMissed,
    TrainingDiverged,
)
from gansdk.interfaces import Distiller, Term
from gansdk.pipeline.opening import open_generator
from gansdk.registry.discovery import registry
from gansdk.registry.parts import open_adapter
from gansdk.specs import AdapterSpec, DistillerSpec
from gansdk.testing import hostile
from gansdk.training.offline_regime import OfflineRegime


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def files(tmp_path, build):
    """A folder of files that are no checkpoints, or no images."""
    torch.save(Evil(tmp_path / "executed"), tmp_path / "evil.pth")
    torch.save(build(), tmp_path / "module.pth")
    torch.save({**build().state_dict(), "conv3.weight": torch.zeros(3, 5, 9, 9)}, tmp_path / "misfit.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "misfit.pth").read_bytes()[:999])
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "tiny").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "tiny" / "a.png")
    (tmp_path / "few").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "few" / "a.png")
    return tmp_path


REFUSED = {
    "unknown file": ({"model": "FILES/none.pth"}, CheckpointError, "no such file"),
    "folder that is no student": ({"model": "FILES/empty"}, CheckpointError, "config.json"),
    "pickle that runs code": ({"model": "FILES/evil.pth"}, CheckpointError, "could run any code"),
    "pickled module": ({"model": "FILES/module.pth"}, CheckpointError, "torch.save"),
    "cut file": ({"model": "FILES/cut.pth"}, CheckpointError, "truncated"),
    "misfit state dict": ({"model": "FILES/misfit.pth"}, CheckpointMismatch, "conv3.weight"),
    "number for a model": ({"model": 3}, GansdkError, "torch.nn.Module"),
    "bare unknown module": ({"model": nn.Conv2d(3, 3, 3)}, NeedsContract, "gansdk.wrap"),
    "unreadable budget": ({"budget": "small"}, BudgetSyntaxError, "macs"),
    "two-sided budget": ({"budget": "0.1"}, BudgetSyntaxError, "two things"),
    "budget below the floor": ({"budget": "macs<=1"}, BudgetUnreachable, "SRResNet' costs macs"),
    "unknown pruner": ({"pruner": "one-stp"}, PluginNotFound, "one-step"),
    "unknown distiller": ({"distiller": "wavlet"}, PluginNotFound, "wavelet"),
    "unknown distiller of several": ({"distiller": ["gka", "pixels"]}, PluginNotFound, "pixel"),
    "unknown adapter": ({"adapter": "srr"}, PluginNotFound, "sr"),
    "pruner that is none": ({"pruner": None}, GansdkError, "neither a name"),
    "distiller that is none": ({"distiller": 3}, GansdkError, "neither a name"),
    "unknown option": ({"pruner": {"name": "one-step", "wdth": 2}}, GansdkError, "Its options"),
    "unknown option of a distiller": ({"distiller": {"name": "gka", "layers": 2}}, GansdkError, "taps"),
    "wrong value of an option": ({"distiller": {"name": "gka", "variant": "new"}}, InvalidOption, "released"),
    "two regimes": (
        {"distiller": [Distiller(regime=OfflineRegime()), Distiller(regime=OfflineRegime())]},
        IncompatibleParts,
        "regime",
    ),
    "taps that nobody offers": ({"distiller": {"name": "gka", "taps": ["neck"]}}, IncompatibleParts, "'neck' is not"),
    "levels that do not fit": ({"distiller": {"name": "wavelet", "levels": 9}}, IncompatibleParts, "Lower levels"),
    "batches too small for a term": (
        {"distiller": {"name": "gka", "variant": "released"}, "batch_size": 1},
        IncompatibleParts,
        "batches of at least 2",
    ),
    "a file for VGG that is none": (
        {"distiller": {"name": "perceptual", "weights": "none.pth"}},
        CheckpointError,
        "(weights='vgg16.pth')",
    ),
    "words for a flag": ({"distiller": {"name": "omgd", "warm": "no"}}, InvalidOption, "true or false"),
    "part of a shared stage": ({"distiller": {"name": "omgd", "share": 2.5}}, InvalidOption, "share=2.5"),
    "a route that there is not": (
        {"distiller": {"name": "wavelet", "routes": ["A2B"]}},
        IncompatibleParts,
        "'A2B' is not trained in this run",
    ),
    "details without colours": (
        {"distiller": [Distiller(regime=OfflineRegime(task_weight=0.0)), "wavelet"]},
        IncompatibleParts,
        "Add a distiller of whole images (such as 'pixel'",
    ),
    "no data": ({"data": None}, MissingData, "data='photos'"),
    "missing folder": ({"data": "FILES/none"}, DataError, "photos"),
    "empty folder": ({"data": "FILES/empty"}, DataError, "no image"),
    "folder without images": ({"data": "FILES/texts"}, DataError, "no image"),
    "missing folder to score on": ({"eval_data": "FILES/none"}, DataError, "no such folder"),
    "fewer than no steps": ({"steps": -1}, InvalidOption, "integer from 0"),
    "part of a step": ({"steps": 1.5}, InvalidOption, "integer"),
    "empty batches": ({"batch_size": 0}, InvalidOption, "batch_size=0"),
    "empty patches": ({"patch": 0}, InvalidOption, "patch=0"),
    "a seed of more than 64 bits": ({"seed": 2**64}, InvalidOption, "from 0 to"),
    "a word for a flag": ({"dry_run": "no"}, InvalidOption, "true or false"),
    "no list of observers": ({"observers": len}, InvalidOption, "list of functions"),
    "a number for a transform": ({"transform": 3}, InvalidOption, "transform=3"),
    "a number for a discriminator": ({"discriminator": 3}, InvalidOption, "discriminator=3"),
    "a number for a quality": ({"quality": 3}, InvalidOption, "quality=3"),
    "no routes": ({"model": {}}, InvalidOption, "no generator"),
    "no adapter": ({"adapter": {}}, GansdkError, "neither a name"),
    "options that are numbers": ({"pruner": {"name": "one-step", 1: 2}}, InvalidOption, "no option 1"),
    "a contract that is none": (
        {"data": {"name": "photos", "contract": 3}},
        InvalidOption,
        "must be a gansdk.Contract",
    ),
    "a source's option of a wrong type": (
        {"data": {"name": "photos", "holdout": "half"}},
        InvalidOption,
        "holdout='half'",
    ),
    "a folder's option of a wrong type": ({"data": {"name": "folder", "path": 3}}, InvalidOption, "path=3"),
    "negative seed": ({"seed": -1}, InvalidOption, "seed=-1"),
    "learning rate that is no number": ({"learning_rate": float("nan")}, InvalidOption, "learning_rate=nan"),
    "unknown way to resume": ({"resume": "always"}, InvalidOption, "'never'"),
    "unknown device": ({"device": "abacus"}, InvalidOption, "choose one of 'auto', 'cpu'"),
    "unreadable quality": ({"quality": "good"}, InvalidOption, "psnr-y>=29.5"),
    "quality with two points": ({"quality": "psnr-y>=1.2.3"}, InvalidOption, "psnr-y>=29.5"),
    "unknown metric": ({"quality": "beauty>=3"}, InvalidOption, "psnr-y, ssim-y"),
    "quality without images": ({"quality": "psnr-y>=1", "data": "FILES/few"}, MissingData, "eval_data"),
    "quality without data": (
        {"quality": "psnr-y>=1", "data": None, "distiller": None},
        MissingData,
        "eval_data",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_any_work(case, files, given, quick, tmp_path):
    change, kind, words = REFUSED[case]
    change = {
        name: value.replace("FILES", str(files)) if isinstance(value, str) else value for name, value in change.items()
    }
    settings = {"model": given(), **quick, "out_dir": tmp_path / "out", **change}
    began, seen = time.process_time(), []
    with pytest.raises(kind) as refused:
        gansdk.compress(settings.pop("model"), **{"observers": [seen.append], **settings})
    message = str(refused.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")
    assert "weights_only" not in message
    assert seen == []
    assert not list((tmp_path / "out").rglob("*.pt"))
    assert not (tmp_path / "out" / "student").exists()
    assert not (files / "executed").exists()
    assert time.process_time() - began < 10


@pytest.mark.filterwarnings("ignore::gansdk.errors.GansdkWarning")
def test_images_too_small_for_the_generator_are_refused(files, given, quick):
    with pytest.raises(DataError, match="sides of at least 2"):
        gansdk.compress(given(), **{**quick, "data": str(files / "tiny")})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("network", ["srresnet", "edsr"])
def test_a_teacher_with_broken_weights_is_refused_before_it_is_imitated(value, network, build, quick):
    teacher = build(network)
    with torch.no_grad():
        next(teacher.parameters())[0, 0, 0, 0] = value
    seen = []
    with pytest.raises(ContractError, match="nothing to imitate"):
        gansdk.compress(teacher, **quick, observers=[seen.append])
    assert seen == []


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_training_that_diverges_stops_and_keeps_its_last_good_state(rate, given, quick, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"last good state .* smaller learning_rate"):
        gansdk.compress(given(), **{**quick, "steps": 40, "learning_rate": rate}, out_dir=tmp_path)
    states = [torch.load(path, weights_only=True) for path in (tmp_path / "run").glob("*.pt")]
    assert states
    for state in states:
        assert all(tensor.isfinite().all() for tensor in state["student"].values())
    assert not (tmp_path / "student").exists()


def test_a_missed_floor_is_an_error_but_the_student_is_saved(given, quick, tmp_path):
    with pytest.raises(QualityFloorMissed, match=r"psnr-y to the ground-truth is .* not >= 60") as missed:
        gansdk.compress(given(), **quick, quality="psnr-y>=60", out_dir=tmp_path)
    assert str(tmp_path) in str(missed.value)
    assert isinstance(gansdk.load(tmp_path / "student"), nn.Module)


@pytest.mark.parametrize("quality", ["psnr-y>=0", "ssim-y <= 1", " psnr-y >= 0.1 "])
def test_a_floor_that_is_met_gives_the_result(quality, given, quick):
    assert gansdk.compress(given(), **quick, quality=quality).quality


@pytest.mark.filterwarnings("ignore:Every image that channels are ranked on")
def test_too_few_images_to_hold_some_out_leave_the_student_unscored(files, given, quick):
    with pytest.warns(GansdkWarning, match="not scored"):
        result = gansdk.compress(given(), **{**quick, "data": str(files / "few"), "distiller": "pixel"})
    assert not result.quality


def test_an_observer_that_fails_is_not_hidden(given, quick):
    def broken(event):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        gansdk.compress(given(), **quick, observers=[broken])


def test_inputs_without_targets_are_warned_of_where_a_family_learns_from_pairs(examples, tmp_path):
    for index in range(2):
        Image.effect_noise((60, 32), 50 + index).save(tmp_path / f"{index}.png")

    def opened(name):
        settings = {"budget": "1.5x", "data": tmp_path, "device": "cpu", "pruner": "uniform", "dry_run": True}
        return gansdk.compress(examples[name].generator(), adapter=examples[name].adapter, **settings)

    with pytest.warns(GansdkWarning, match=r"no targets.*only imitates.*'name': 'aligned'"):
        opened("pix2pix")
    opened("cyclegan")


class Difference(Term):
    """A stranger's term on images."""

    needs_image = True
    anchors_low_frequencies = True

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, student, teacher):
        return (student.image - teacher.image).abs().mean()


@pytest.mark.parametrize("name", ["loss", "task", "step", "stage", "d/real"])
def test_terms_with_names_of_the_runs_own_metrics_are_refused(name, given, quick, tmp_path):
    with pytest.raises(InvalidOption, match=f"{name!r}.*Give the class Difference another name"):
        gansdk.compress(given(), **{**quick, "distiller": Distiller((Difference(name),))}, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", ["heavy", None, float("nan"), float("inf")])
def test_weights_of_a_strangers_term_that_are_no_numbers_are_refused(weight, given, quick, tmp_path):
    term = Difference("difference")
    term.weight = weight
    with pytest.raises(InvalidOption, match=f"'difference' has the weight {weight!r}; give it a finite number"):
        gansdk.compress(given(), **{**quick, "distiller": Distiller((term,))}, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def pixel_with(needs: frozenset[str]) -> ModuleType:
    """A plugin with the distiller "picky", which is "pixel" with needs of its own."""
    module = ModuleType("picky_plugin")
    spec = DistillerSpec(
        name="picky",
        factory="gansdk_distillers.pixel:pixel",
        summary="Picky",
        needs=needs,
    )
    module.gansdk_distillers = gansdk.hookimpl(lambda: [spec])
    return module


@pytest.fixture
def offered():
    """Offers "picky" with these needs until the test is over."""

    def offer(*needs: str) -> None:
        registry().register(pixel_with(frozenset(needs)))

    yield offer
    registry().unregister()


@pytest.mark.parametrize("name", ["picky", "local:picky"])
@pytest.mark.parametrize(
    ("family", "fits", "lacks"), [("pix2pix", "paired", "unpaired"), ("cyclegan", "unpaired", "paired")]
)
def test_needs_are_held_against_what_the_data_is(name, family, fits, lacks, offered, examples):
    def run():
        generator = examples[family].generator()
        source = examples[family].source(generator.contract)
        settings = {"budget": "1.5x", "pruner": {"name": "one-step", "recovery": "none"}, "steps": 1, "batch_size": 1}
        return gansdk.compress(generator, data=source, distiller=name, device="cpu", **settings)

    offered(fits)
    run()
    registry().unregister()
    offered(lacks)
    with pytest.raises(IncompatibleParts, match=f"missing {lacks}") as raised:
        run()
    assert raised.value.missing == (lacks,)


def test_parts_are_checked_by_whichever_of_their_names_they_are_asked_for(examples):
    generator = examples["wrapped"].generator()
    source = examples["wrapped"].source(generator.contract)
    for name in ("omgd", "gansdk:omgd"):
        distiller = {"name": name, "perceptual": None, "style_weight": 0, "feature_weight": 0}
        with pytest.raises(IncompatibleParts, match=r"missing rebuild.*'ssim', 'perceptual', 'tv'"):
            gansdk.compress(generator, budget="1.5x", data=source, distiller=distiller)


@pytest.fixture
def adapter_named():
    """Offers the super-resolution adapter by another name until the test is over."""

    def offer(name: str) -> None:
        module = ModuleType("painter_plugin")
        spec = AdapterSpec(name=name, factory="gansdk_adapters.sr:SuperResolution", summary="Somebody else's")
        module.gansdk_adapters = gansdk.hookimpl(lambda: [spec])
        registry().register(module)

    yield offer
    registry().unregister()


def test_an_adapter_that_calls_itself_otherwise_than_its_spec_is_refused_and_breaks_no_other(adapter_named, given):
    adapter_named("painter")
    with pytest.raises(PluginLoadError, match=r"'painter' calls itself 'sr'.*Give the class SuperResolution"):
        open_adapter("painter")
    with pytest.warns(PluginWarning, match="'painter' is skipped"):
        assert open_generator(given()).adapter.name == "sr"


def test_an_adapter_with_the_name_of_a_built_in_one_does_not_stand_for_it(adapter_named, given, quick):
    adapter_named("sr")
    assert gansdk.compress(given(), **{**quick, "distiller": "gka", "steps": 1}).after.macs > 0


@pytest.mark.parametrize("name", ["loop", "dangling", "file", "fifo", "link", "others", "link to a folder of others"])
@pytest.mark.parametrize("train", [False, True])
def test_what_the_student_cannot_be_written_over_is_refused_before_it_is_trained(
    name, train, given, examples, quick, tmp_path
):
    places, out = dict(hostile.places(tmp_path)), tmp_path / "out"
    out.mkdir()
    places[name].rename(out / ("teacher" if train else "student"))
    with pytest.raises(OutputError, match="Choose") as refused:
        run_into(out, train, given, examples, quick)
    assert "\n" not in str(refused.value)
    assert not list(out.rglob("*.pt"))


@pytest.mark.parametrize("name", ["loop", "dangling", "file", "fifo", "below a loop", "too long a name", "no unicode"])
@pytest.mark.parametrize("train", [False, True])
def test_an_output_folder_that_cannot_be_one_is_refused_before_training(name, train, given, examples, quick, tmp_path):
    out = dict(hostile.places(tmp_path))[name]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"Choose|Correct"):
        run_into(out, train, given, examples, quick)
    assert sorted(tmp_path.rglob("*")) == before


def run_into(out, train, given, examples, quick):
    def observer(event):
        raise AssertionError("it began to work")

    if not train:
        return gansdk.compress(given(), **quick, out_dir=out, observers=[observer])
    example = examples["pix2pix"]
    source = example.source(open_adapter(example.adapter).contract(example.generator().module))
    settings = {"sizes": example.sizes, "architecture": example.architecture, "steps": 1, "device": "cpu"}
    return gansdk.train_teacher(example.adapter, source, **settings, out_dir=out, observers=[observer])


def test_reports_of_a_ladder_have_their_places_before_anything_is_trained(given, quick, tmp_path):
    (tmp_path / "ladder.html").mkdir()
    settings = {key: value for key, value in quick.items() if key != "budget"}
    with pytest.raises(OutputError, match=r"ladder\.html' should be a file, but is a folder"):
        gansdk.ladder(given(), budgets=["1.2x", "1.5x"], **settings, out_dir=tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_numbers_of_numpy_are_numbers(given, quick, tmp_path):
    numbers = {"steps": np.int64(2), "seed": np.uint64(2**64 - 1), "batch_size": np.int32(2), "patch": np.int64(8)}
    result = gansdk.compress(given(), **{**quick, **numbers}, learning_rate=np.float32(1e-4), out_dir=tmp_path)
    assert result.settings["seed"] == 2**64 - 1
    assert (
        gansdk.compress(
            given(), **{**quick, "steps": 2, "seed": 2**64 - 1}, learning_rate=float(np.float32(1e-4)), out_dir=tmp_path
        ).settings["seed"]
        == 2**64 - 1
    )


def test_images_whose_names_are_not_utf_8_are_in_the_report(given, quick, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    folder = tmp_path / name
    folder.mkdir()
    for number in range(10):
        Image.effect_noise((36, 36), 50 + number).convert("RGB").save(folder / f"{name}{number}.png")
    torch.save(given().state_dict(), tmp_path / f"{name}.pth")
    result = gansdk.compress(tmp_path / f"{name}.pth", **{**quick, "data": folder}, out_dir=tmp_path / "out")
    assert result.quality
    for file in ("report.json", "report.html"):
        assert r"caf\udce9" in (tmp_path / "out" / "student" / file).read_text(encoding="utf-8").replace("\\\\", "\\")
