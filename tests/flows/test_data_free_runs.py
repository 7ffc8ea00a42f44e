"""Whole runs without an image: compressed, resumed, combined with terms and other pruners, and refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import gansdk
from gansdk.cli.app import app
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import (
    GansdkError,
    GansdkWarning,
    IncompatibleParts,
    InvalidOption,
    MissingData,
    OutputError,
    ResumeMismatch,
    RunInUse,
)
from gansdk.events import Event, StepDone, Warned
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.runtime.folder_lock import FolderLock
from gansdk.training.offline_regime import OfflineRegime

DATA = Path(__file__).parents[2].parent / "shared" / "data"
STEPS = 6
NETWORKS = ("srresnet", "edsr", "vdsr")
PATCH = {"srresnet": 8, "edsr": 8, "vdsr": 32}
FREE = {"name": "data-free", "student_steps": 2, "latent": 8}


class Interrupted(Exception):
    """Raised by an observer in place of a kill."""


def run(model, name="edsr", **changes):
    settings = {
        "budget": "macs<=60%",
        "distiller": FREE,
        "steps": STEPS,
        "batch_size": 2,
        "patch": PATCH[name],
        "device": "cpu",
    }
    return gansdk.compress(model, **{**settings, **changes})


def weights(module: nn.Module) -> list[torch.Tensor]:
    return list(module.state_dict().values())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_student_is_made_of_the_teacher_alone_and_the_teacher_stays(name, build, content, photos, tmp_path):
    teacher = build(name)
    before = content(teacher)
    result = run(teacher, name, out_dir=tmp_path, eval_data=str(photos))
    assert content(teacher) == before
    assert result.after.macs <= 0.6 * result.before.macs
    assert result.quality[0].images == 10
    assert result.settings["data"]["source"] == "data-free"
    assert result.settings["eval_data"]["path"] == str(photos)
    assert {"loss", "imitation", "g/adversarial", "g/reconstruction"} <= set().union(*result.history)
    assert same(gansdk.load(tmp_path / "student"), result.student)


def test_data_is_for_scores_only(build, photos, content):
    with pytest.warns(GansdkWarning, match="not scored"):
        without = run(build())
    given = run(build(), data=str(photos))
    assert content(given.student) == content(without.student)
    assert not without.quality
    assert given.quality


@pytest.mark.parametrize("killed_at", [3, 5])
@pytest.mark.parametrize(
    ("name", "pruner"), [("srresnet", "one-step"), ("vdsr", {"name": "uniform", "inherit": "none"})]
)
def test_a_killed_run_continues_to_the_same_bytes(killed_at, name, pruner, build, content, photos, tmp_path):
    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == killed_at:
            raise Interrupted

    settings = {"distiller": [FREE, "wavelet", "gka"], "eval_data": str(photos), "pruner": pruner, "patch": 32}
    straight = run(build(name), name, **settings)
    with pytest.raises(Interrupted):
        run(build(name), name, **settings, out_dir=tmp_path, observers=[kill])
    resumed = run(build(name), name, **settings, out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)
    assert resumed.history == straight.history


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore::gansdk.errors.GansdkWarning")
@pytest.mark.parametrize("terms", [["wavelet"], ["gka"], ["gka", "feature", "wavelet"]])
def test_terms_join_the_students_loss(name, terms, build):
    result = run(build(name), name, distiller=[FREE, *terms])
    assert set(terms) <= set().union(*result.history)


@pytest.mark.filterwarnings("ignore::gansdk.errors.GansdkWarning")
def test_a_supernet_is_trained_and_searched_without_data(build):
    search = {"name": "once-for-all", "steps": 4, "population": 3, "iterations": 1, "calibration": 2, "multiple_of": 1}
    result = run(build("srresnet"), "srresnet", pruner=search)
    assert result.after.macs <= 0.6 * result.before.macs


def test_the_command_line_needs_no_data(build, photos, tmp_path):
    torch.save(build("edsr").state_dict(), tmp_path / "edsr.pth")
    command = ["compress", str(tmp_path / "edsr.pth"), "--budget", "macs<=60%", "--distiller", "data-free"]
    command += ["--distiller-option", "data-free.student_steps=2", "--steps", "4", "--batch-size", "2", "--patch", "8"]
    command += ["--eval-data", str(photos), "--device", "cpu", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()


# Refusals, before anything is computed.


@pytest.fixture
def translator():
    adapter = open_adapter({"name": "pix2pix", "size": [16, 16]})
    torch.manual_seed(0)
    return open_generator(adapter.create("resnet", width=4, blocks=1), adapter)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, IncompatibleParts, "degrade (inputs computed from outputs)"),
        ({}, IncompatibleParts, "reconstruction_weight=0"),
        ({"distiller": [FREE, gansdk.Distiller(regime=OfflineRegime())]}, IncompatibleParts, "regime"),
        ({"distiller": {**FREE, "reconstruction_weight": 0, "scales": [2]}}, InvalidOption, "VDSR"),
        ({"distiller": {**FREE, "reconstruction_weight": 0}, "patch": 4}, InvalidOption, "at least 8"),
        ({"distiller": {**FREE, "cycle": "nowhere"}}, GansdkError, "no such file"),
        (
            {"distiller": {**FREE, "reconstruction_weight": 0}, "quality": "psnr>=1", "patch": None},
            MissingData,
            "eval_data",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:reconstruction_weight=0")
def test_what_cannot_work_is_refused_before_any_compute(changes, kind, words, translator, tmp_path):
    seen = []
    with pytest.raises(kind) as refused:
        run(translator, **{"patch": 16, **changes}, out_dir=tmp_path / "out", observers=[seen.append])
    assert words in str(refused.value)
    assert seen == []
    assert not (tmp_path / "out").exists()


def enlarging(scale):
    """A module of no known family."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 3 * scale**2, 3, padding=1),
        nn.PixelShuffle(scale),
    )
    return gansdk.wrap(net, contract=gansdk.Contract(channels_in=3, channels_out=3, size=(8, 8), scale=scale))


def test_a_wrapped_module_that_does_not_enlarge_is_refused_too():
    with pytest.raises(IncompatibleParts, match="missing degrade"):
        run(enlarging(1))


@pytest.mark.filterwarnings("ignore:The student was not scored")
def test_a_wrapped_module_that_enlarges_needs_no_image_either():
    result = run(enlarging(2))
    assert result.after.macs < result.before.macs
    assert "g/reconstruction" in set().union(*result.history)


# The two ways around.


@pytest.mark.filterwarnings("default::gansdk.errors.GansdkWarning")
def test_without_reconstruction_translation_runs_and_the_result_keeps_the_warning(translator):
    result = run(translator, distiller={**FREE, "reconstruction_weight": 0}, patch=16, budget="macs<=70%")
    assert any("mode collapse" in text for text in result.warnings)
    assert "g/reconstruction" not in set().union(*result.history)


@pytest.mark.filterwarnings("ignore:The student was not scored")
def test_the_reverse_generator_leads_back(translator, tmp_path):
    torch.manual_seed(1)
    adapter = open_adapter({"name": "pix2pix", "size": [16, 16]})
    reverse = adapter.create("resnet", width=4, blocks=1)
    torch.save(reverse.state_dict(), tmp_path / "reverse.pth")
    result = run(translator, distiller={**FREE, "cycle": str(tmp_path / "reverse.pth")}, patch=16, budget="macs<=70%")
    row = next(row for row in result.history if "g/reconstruction" in row)
    assert 0 < row["g/reconstruction"] < 1


@pytest.mark.filterwarnings("ignore:The student was not scored")
def test_another_generator_in_the_file_of_the_reverse_one_is_another_run(translator, tmp_path):
    adapter = open_adapter({"name": "pix2pix", "size": [16, 16]})
    settings = {"patch": 16, "budget": "macs<=70%", "steps": 2, "out_dir": tmp_path / "out"}
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(adapter.create("resnet", width=4, blocks=1).state_dict(), tmp_path / "reverse.pth")
        asked = {**settings, "distiller": {**FREE, "cycle": str(tmp_path / "reverse.pth")}}
        if seed == 1:
            run(translator, **asked)
    with pytest.raises(ResumeMismatch, match="way_back"):
        run(translator, **asked)


def test_a_reverse_generator_that_does_not_lead_back_is_refused(translator, build, tmp_path):
    torch.manual_seed(1)
    adapter = open_adapter({"name": "pix2pix", "size": [16, 16]})
    torch.save(adapter.create("resnet", width=4, blocks=1, channels_in=1).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(IncompatibleParts, match="not the reverse generator"):
        run(translator, distiller={**FREE, "cycle": str(tmp_path / "grey.pth")}, patch=16)
    torch.save(translator.module.state_dict(), tmp_path / "same.pth")
    with pytest.raises(IncompatibleParts, match="is the generator that is compressed"):
        run(translator, distiller={**FREE, "cycle": str(tmp_path / "same.pth")}, patch=16)


# Teachers of super-resolution.


def test_a_training_whose_sample_sheet_finds_no_space_stops_in_words_and_continues_later(photos, tmp_path, monkeypatch):
    asked = {"sizes": {"width": 4, "blocks": 1, "scale": 2}, "steps": 2, "batch_size": 2, "patch": 8, "device": "cpu"}
    asked |= {"architecture": "srresnet", "out_dir": tmp_path}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("gansdk.pipeline.train_teacher.replacing", full)
        with pytest.raises(OutputError, match="sample sheet"):
            gansdk.train_teacher("sr", str(photos), **asked)
    assert (tmp_path / "run" / "teach.pt").exists()
    for resume in ("auto", "never"):
        gansdk.train_teacher("sr", str(photos), **asked, resume=resume)
    # The teacher of the second training is the very same as that of the first.
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.old-1", "samples", "samples.old-1", "teacher"}


def test_a_teacher_is_not_trained_where_another_run_is_under_way(photos, tmp_path):
    with FolderLock(tmp_path), pytest.raises(RunInUse):
        gansdk.train_teacher("sr", str(photos), architecture="srresnet", steps=1, patch=8, out_dir=tmp_path)


@pytest.mark.parametrize(
    ("architecture", "options", "sizes"),
    [
        ("vdsr", {"pre_upsampled": 2}, {}),
        ("srresnet", {}, {"scale": 2}),
        ("edsr", {}, {"scale": 2}),
    ],
)
def test_teachers_are_trained_saved_and_compressed_without_data(architecture, options, sizes, photos, tmp_path):
    trained = gansdk.train_teacher(
        {"name": "sr", **options},
        str(photos),
        architecture=architecture,
        sizes={"width": 4, "blocks": 2, **sizes},
        steps=2,
        batch_size=2,
        patch=8,
        out_dir=tmp_path,
        device="cpu",
    )
    assert trained.evaluations[MAIN].qualities[0].metric == "psnr-y"
    assert list((tmp_path / "samples").iterdir())
    loaded = open_generator(tmp_path / "teacher")
    assert loaded.contract == trained.generator.contract
    # What a saved VDSR's inputs were enlarged by comes from its folder, not from the adapter's usual factor.
    image = torch.rand(1, loaded.contract.channels_out, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = trained.generator.adapter.degrade(image)
    np.testing.assert_array_equal(loaded.adapter.degrade(image), expected)
    result = run(loaded, patch=32, eval_data=str(photos), budget="macs<=70%")
    assert result.quality


@pytest.mark.filterwarnings("default::gansdk.errors.GansdkWarning")
def test_warnings_are_events_too(build):
    seen = []
    run(build(), distiller={**FREE, "student_steps": 50}, steps=2, observers=[seen.append])
    assert any("but the run has only" in event.message for event in seen if isinstance(event, Warned))


# The published order, on the real SRGAN (acceptance list F7, item 9).


class Noise(gansdk.DataSource):
    """Uniform noise in [0, 1], as the paper compares itself with."""

    pairing = Pairing.INPUTS_ONLY

    def train_batch(self, size, *, seed, step):
        return Batch({MAIN: torch.rand(size, 3, 24, 24, generator=torch.Generator().manual_seed(hash((seed, step))))})

    def images(self, split):
        return iter(())


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_on_set5_bicubic_is_below_noise_and_noise_below_images_that_are_made():
    def psnr(**settings):
        result = gansdk.compress(
            DATA / "weights" / "srgan_x4_netG.pth",
            budget="4x",
            eval_data=DATA / "sr" / "Set5" / "image_SRF_4",
            steps=250,
            batch_size=8,
            patch=24,
            device="cpu",
            pruner={"name": "one-step", "allocation": "global", "recovery": "least-squares"},
            **settings,
        )
        return next(row for row in result.quality if (row.metric, row.reference) == ("psnr-y", "ground-truth"))

    images_alone = gansdk.Distiller(regime=OfflineRegime(task_weight=0.0))
    noise = psnr(data=Noise(), distiller=[images_alone, "pixel"])
    made = psnr(distiller={"name": "data-free", "student_steps": 10})
    assert noise.extra["bicubic"] < noise.student < made.student < made.teacher
