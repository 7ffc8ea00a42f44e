"""What students learn from: distiller="auto" as the default, task_weight, and how runs remember both."""

import json

import pytest
import torch
from torch import nn

import gansdk
from gansdk.cli.app import main
from gansdk.contracts import MAIN
from gansdk.errors import ContractError, IncompatibleParts, InvalidOption, MissingData, ResumeMismatch
from gansdk.events import DistillerChosen, StepDone
from gansdk.generators.wrapping import EnlargingAdapter
from gansdk.interfaces import Distiller, TeacherFacts, Teaching
from gansdk.pipeline import prepare as jobs
from gansdk.pipeline.opening import open_generator
from gansdk.training.offline_regime import OfflineRegime

DEMO = {"budget": "4x", "data": "photos", "steps": 3, "batch_size": 2, "patch": 16, "device": "cpu"}


class Chequered(nn.Module):
    """A real reconstruction with made-up detail on top of its images, as GAN-trained teachers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = open_generator("demo").module

    def forward(self, x):
        image = self.inner(x)
        return image + 0.03 * torch.sin(3.0 * torch.cumsum(torch.ones_like(image), 3))


@pytest.fixture(scope="module")
def perceptual():
    contract = open_generator("demo").contract
    return gansdk.wrap(Chequered(), contract=contract)


def test_a_reconstruction_teaches_with_the_truth_and_a_perceptual_teacher_without(perceptual, tmp_path):
    true = gansdk.compress("demo", **DEMO)
    assert true.settings["task_weight"] == 1.0
    assert {"task", "pixel"} <= set(true.history[-1])
    made_up = gansdk.compress(perceptual, **DEMO, out_dir=tmp_path)
    assert made_up.settings["task_weight"] == 0.0
    assert "task" not in made_up.history[-1]
    for result, verdict in ((true, "a reconstruction"), (made_up, "perceptual")):
        told = result.settings["teaching"]
        assert told["chosen"] == "auto"
        assert f"The teacher is {verdict}: " in told["reason"]
        assert told["teacher"]["is_perceptual"] == (result is made_up)
        assert [part["name"] for part in result.settings["given"]["distiller"]] == ["pixel"]
    html = (tmp_path / "student" / "report.html").read_text()
    assert "Distiller chosen automatically: The teacher is perceptual" in html
    saved = json.loads((tmp_path / "student" / "config.json").read_text())
    assert saved["settings"]["teaching"]["teacher"]["psnr"] == made_up.settings["teaching"]["teacher"]["psnr"]


def test_what_auto_chose_is_the_run_that_names_it_and_each_continues_the_other(perceptual, content, tmp_path):
    auto = gansdk.compress(perceptual, **DEMO, out_dir=tmp_path / "auto")
    named = {**DEMO, "distiller": "pixel", "task_weight": 0.0}
    assert content(gansdk.compress(perceptual, **named).student) == content(auto.student)
    again = gansdk.compress(perceptual, **named, out_dir=tmp_path / "auto")
    assert again.settings["teaching"]["chosen"] == "given"
    assert content(again.student) == content(auto.student)
    with pytest.raises(ResumeMismatch, match=r"task_weight: 0\.0 there, 1\.0 now"):
        gansdk.compress(perceptual, **{**named, "task_weight": 1.0}, out_dir=tmp_path / "auto")


class Killed(Exception):
    pass


def kill(event):
    if isinstance(event, StepDone) and event.step == 2:
        raise Killed


def test_a_continued_run_is_the_same_run_though_figures_differ_in_their_last_digits(
    perceptual, content, tmp_path, monkeypatch
):
    settings = {**DEMO, "steps": 4}
    straight = gansdk.compress(perceptual, **settings)
    with pytest.raises(Killed):
        gansdk.compress(perceptual, **settings, out_dir=tmp_path, observers=[kill])

    def measured(*args, **kwargs):
        found = facts_of(*args, **kwargs)[MAIN].to_dict()
        figures = {name: found[name] for name in TeacherFacts.__dataclass_fields__}
        return {MAIN: TeacherFacts(**{**figures, "psnr": figures["psnr"] + 1e-5})}

    facts_of = jobs.facts_of
    monkeypatch.setattr(jobs, "facts_of", measured)
    resumed = gansdk.compress(perceptual, **settings, out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)
    assert resumed.settings["teaching"]["teacher"]["psnr"] != straight.settings["teaching"]["teacher"]["psnr"]


def test_a_weight_that_is_given_goes_before_what_auto_chooses(perceptual):
    kept = gansdk.compress(perceptual, **DEMO, task_weight=0.5)
    assert kept.settings["task_weight"] == 0.5
    assert "task" in kept.history[-1]
    assert "task_weight=0.5 was given" in kept.settings["teaching"]["reason"]
    left_out = gansdk.compress("demo", **DEMO, task_weight=0)
    assert "task" not in left_out.history[-1]


def test_named_distillers_are_what_they_were(perceptual, content):
    named = gansdk.compress(perceptual, **DEMO, distiller="pixel")
    assert named.settings["task_weight"] == 1.0
    assert "task" in named.history[-1]
    assert named.settings["teaching"]["reason"] == ""
    assert named.settings["teaching"]["teacher"]["is_perceptual"]
    regime = Distiller(regime=OfflineRegime(task_weight=1.0))
    assert content(gansdk.compress(perceptual, **DEMO, distiller=["pixel", regime]).student) == content(named.student)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"distiller": ["auto", "wavelet"]}, InvalidOption, "'auto' chooses all distillers"),
        ({"distiller": {"name": "auto", "weight": 2.0}}, InvalidOption, "'auto' has no options"),
        ({"distiller": None, "task_weight": 1.0}, IncompatibleParts, "nothing is trained, so task_weight=1"),
        ({"distiller": "data-free", "task_weight": 0.5}, IncompatibleParts, "'data-free' brings a regime of its own"),
        (
            {"distiller": "gka", "task_weight": 0.0},
            IncompatibleParts,
            "Add a distiller of whole images .such as 'pixel'",
        ),
        ({"task_weight": -1.0}, InvalidOption, "task_weight=-1.0 must be a number >= 0"),
        ({"task_weight": float("nan")}, InvalidOption, "number >= 0"),
        ({"task_weight": "much"}, InvalidOption, "task_weight"),
        ({"distiller": "pixel", "task_weight": 0, "discriminator": "net_D.pth"}, IncompatibleParts, "above zero"),
    ],
)
def test_what_makes_no_sense_together_is_refused(change, kind, says):
    with pytest.raises(kind, match=says):
        gansdk.compress("demo", **{**DEMO, **change})


def test_without_images_auto_asks_for_them():
    with pytest.raises(MissingData, match="Pass data='folder/'"):
        gansdk.compress("demo", **{**DEMO, "data": None})


@pytest.mark.parametrize("distiller", ["auto", "pixel"])
def test_a_constant_teacher_is_refused_before_any_step(distiller):
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2))
    nn.init.zeros_(network[1].weight)
    teacher = gansdk.wrap(network, contract=open_generator("demo").contract)
    seen = []
    with pytest.raises(ContractError, match="for all 8 images it was checked on, so there is nothing to imitate"):
        gansdk.compress(teacher, **DEMO, distiller=distiller, observers=[seen.append])
    assert not seen


class OfTheirs(EnlargingAdapter):
    """A stranger's family, which wants details compared as well."""

    def teaching(self, facts: TeacherFacts) -> Teaching:
        return Teaching(distillers=("pixel", "wavelet"), task_weight=0.25, reason=f"We like it so, on {facts.images}.")


def with_adapter(kind):
    wrapped = gansdk.wrap(open_generator("demo").module, contract=open_generator("demo").contract)
    return gansdk.Generator(
        module=wrapped.module,
        contract=wrapped.contract,
        adapter=kind(wrapped.contract, wrapped.taps),
        taps=wrapped.taps,
    )


def test_a_family_of_strangers_chooses_for_itself():
    result = gansdk.compress(with_adapter(OfTheirs), **DEMO)
    assert {"pixel", "wavelet", "task"} <= set(result.history[-1])
    assert result.settings["task_weight"] == 0.25
    assert result.settings["teaching"]["reason"].startswith("We like it so, on 8.")


class Confused(OfTheirs):
    def teaching(self, facts):
        return "pixel"


def test_a_family_that_answers_something_else_is_named():
    with pytest.raises(gansdk.errors.PluginFailed, match=r"Confused.* returned a str from teaching"):
        gansdk.compress(with_adapter(Confused), **DEMO)


def test_a_ladder_measures_and_tells_once(perceptual):
    told = []
    settings = {name: value for name, value in DEMO.items() if name != "budget"}
    made = gansdk.ladder(perceptual, **{**settings, "steps": 1}, budgets=["2x", "4x"], observers=[told.append])
    assert [event.task_weight for event in told if isinstance(event, DistillerChosen)] == [0.0]
    assert [result.settings["task_weight"] for result in made.results] == [0.0, 0.0]


def test_the_command_line_says_what_auto_is_and_takes_a_weight(tmp_path, capsys):
    run = ["compress", "demo", "--budget", "4x", "--data", "photos", "--steps", "1", "--patch", "16", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*run, "--out", str(tmp_path / "auto"), "--json"])
    assert not ended.value.code
    out, err = capsys.readouterr()
    assert json.loads(out)["settings"]["teaching"]["chosen"] == "auto"
    shown = " ".join(err.split())
    assert shown.count("distiller 'auto' is pixel, task_weight 1: The teacher is a reconstruction") == 1
    with pytest.raises(SystemExit) as ended:
        main([*run, "--task-weight", "0", "--out", str(tmp_path / "alone"), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["settings"]["task_weight"] == 0


def test_translation_keeps_gka_and_its_discriminator(examples):
    example = examples["pix2pix"]
    generator = example.generator()
    result = gansdk.compress(
        generator, budget="1.5x", data=example.source(generator.contract), steps=1, batch_size=2, device="cpu"
    )
    assert result.settings["teaching"]["reason"].startswith("CAT publishes gka")
    assert {"gka", "task"} <= set(result.history[-1])
    assert result.discriminator is not None
