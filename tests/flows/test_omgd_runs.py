"""Whole runs of OMGD: every kind of family, other distillers beside it, kills, several processes, refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import DataError, GansdkWarning, IncompatibleParts, InvalidOption, MissingData, ResumeMismatch
from gansdk.events import StepDone
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter, open_distillers
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

OMGD = {"name": "omgd", "perceptual": None, "style_weight": 0, "feature_weight": 0}
SIDE = 64
FAMILIES = {
    "pix2pix": ("resnet", {"width": 4, "blocks": 1}),
    "pix2pix-unet": ("unet", {"width": 4, "downs": 6}),
    "pix2pix-inception": ("inception", {"width": 8, "blocks": 1}),
    "cyclegan": ("resnet", {"width": 4, "blocks": 1}),
    "gaugan": ("mobile", {"width": 4, "labels": 5, "hidden": 8, "upsampling": "normal"}),
}
STEPS = 5


class Colours(gansdk.DataSource):
    """Patches of colours, or their label maps, and what they should become."""

    def __init__(self, family: str = "pix2pix", pairing: Pairing = Pairing.PAIRED) -> None:
        self.labels = family == "gaugan"
        self.pairing = Pairing.UNPAIRED if family == "cyclegan" else pairing

    def train_batch(self, size, *, seed, step):
        rng = torch.Generator().manual_seed(1000 * seed + step % 997)
        ids = torch.randint(5, (size, 8, 8), generator=rng).repeat_interleave(SIDE // 8, 1)
        ids = ids.repeat_interleave(SIDE // 8, 2)
        y = torch.linspace(-1, 1, 15).view(5, 3)[ids].permute(0, 3, 1, 2).contiguous()
        x = torch.nn.functional.one_hot(ids, 5).permute(0, 3, 1, 2).float() if self.labels else y.flip(1)
        targets = {} if self.pairing is Pairing.INPUTS_ONLY else {MAIN: y}
        return Batch({MAIN: x}, targets, paired=self.pairing is Pairing.PAIRED)

    def images(self, split):
        yield from (self.train_batch(1, seed=0, step=step) for step in ((1, 2) if split == "search" else (3, 4)))


def given(name: str = "pix2pix"):
    family = name.split("-")[0]
    options = {"name": family, "size": [SIDE, SIDE], "discriminator_width": 4}
    adapter = open_adapter({**options, "perceptual": None} if family == "gaugan" else options)
    architecture, sizes = FAMILIES[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return open_generator(adapter.create(architecture, **sizes).eval(), adapter)


def settings(**changes):
    return {
        "budget": "1.5x",
        "pruner": {"name": "one-step", "recovery": "none"},
        "distiller": {**OMGD, "student_steps": 2},
        "data": Colours(),
        "steps": STEPS,
        "batch_size": 2,
        "device": "cpu",
        **changes,
    }


def content(module) -> bytes:
    return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in module.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_distilled_by_online_teachers_and_wavelets(name, tmp_path):
    distiller = [{**OMGD, "student_steps": 2}, "wavelet"]
    result = gansdk.compress(
        given(name), **settings(distiller=distiller, data=Colours(name.split("-")[0])), out_dir=tmp_path
    )
    seen = {key for row in result.history for key in row}
    assert {"loss", "ssim", "tv", "channel", "wavelet", "wider/loss"} <= seen
    assert ("deeper/loss" in seen) == (name != "cyclegan")
    learned = {"wider teacher"} if name == "cyclegan" else {"wider teacher", "deeper teacher"}
    assert all(set(row.extra) == learned for row in result.quality)
    assert "wider teacher" in (tmp_path / "student" / "report.html").read_text()
    assert result.discriminator is None
    assert not list((tmp_path / "student").glob("*discriminator*"))
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["discriminator"] is None
    assert open_generator(tmp_path / "student")


@pytest.mark.slow
def test_super_resolution_is_distilled_by_teachers_that_learn_without_a_critic(photos):
    torch.manual_seed(0)
    net = SRResNet(SRResNetSizes(width=8, blocks=2, scale=2)).eval()
    result = gansdk.compress(net, **settings(data=str(photos), patch=8))
    seen = {key for row in result.history for key in row}
    assert {"wider/loss", "deeper/loss", "ssim", "channel"} <= seen
    assert not any("d/" in key for key in seen)


class Interrupted(Exception):
    """Raised by an observer in place of a kill."""


def interrupt(stage: str, step: int):
    def observer(event):
        if isinstance(event, StepDone) and (event.stage, event.step) == (stage, step):
            raise Interrupted

    return observer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_a_run_killed_at_any_step_continues_to_the_same_bytes(name, tmp_path):
    changes = {"data": Colours(name), "distiller": [{**OMGD, "student_steps": 2}, "wavelet"]}
    straight = gansdk.compress(given(name), **settings(**changes))
    for step in range(2, STEPS + 1):
        with pytest.raises(Interrupted):
            gansdk.compress(
                given(name), **settings(**changes), out_dir=tmp_path, observers=[interrupt("distil-0", step)]
            )
    resumed = gansdk.compress(given(name), **settings(**changes), out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)
    assert resumed.history == straight.history


SEARCH = {"name": "once-for-all", "steps": 2, "population": 2, "iterations": 1, "calibration": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*teachers learn beside both")
@pytest.mark.parametrize("distiller", [{**OMGD, "student_steps": 1}, "pixel"], ids=["omgd", "pixel"])
def test_teachers_and_discriminators_trained_by_a_search_outlive_a_kill_right_behind_it(distiller, tmp_path):
    changes = {"pruner": SEARCH, "distiller": distiller, "steps": 2}
    straight = gansdk.compress(given(), **settings(**changes))
    with pytest.raises(Interrupted):
        gansdk.compress(given(), **settings(**changes), out_dir=tmp_path, observers=[interrupt("distil-0", 1)])
    resumed = gansdk.compress(given(), **settings(**changes), out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)
    assert resumed.history == straight.history


@pytest.mark.slow
def test_the_seed_decides_and_the_callers_random_numbers_stay_as_they_are():
    first, again, other = (
        gansdk.compress(given(), **settings(steps=2, seed=seed)).history[-1]["ssim"] for seed in (0, 0, 1)
    )
    before = torch.get_rng_state()
    gansdk.compress(given(), **settings(steps=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other


def test_runs_that_cannot_work_are_refused_before_any_step_and_leave_nothing(tmp_path):
    net = gansdk.wrap(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 3, 1)),
        contract=gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16)),
    )
    seen = []
    for model, changes, kind, words in (
        (net, {}, IncompatibleParts, r"missing rebuild"),
        (given(), {"data": Colours(pairing=Pairing.INPUTS_ONLY)}, MissingData, "only inputs"),
        (given(), {"data": None}, MissingData, "data=None"),
        (given(), {"data": Colours(pairing=Pairing.UNPAIRED)}, IncompatibleParts, "without pairs"),
        (given(), {"distiller": [OMGD, OMGD]}, IncompatibleParts, "'omgd' and 'omgd' each bring a regime"),
        (given(), {"discriminator": "critic.pth"}, IncompatibleParts, "'omgd' trains the student without one"),
    ):
        with pytest.raises(kind, match=words):
            gansdk.compress(model, **settings(**changes), out_dir=tmp_path / "out", observers=[seen.append])
    assert seen == []
    assert not list((tmp_path / "out").rglob("*"))


def test_images_too_small_for_the_critic_of_teachers_that_learn_are_refused_before_any_step(tmp_path):
    class Small(Colours):
        def train_batch(self, size, *, seed, step):
            batch = super().train_batch(size, seed=seed, step=step)
            return Batch({MAIN: batch.inputs[MAIN][..., :16, :16]}, {MAIN: batch.targets[MAIN][..., :16, :16]})

    seen = []
    with pytest.raises(DataError, match="16x16"):
        gansdk.compress(given(), **settings(data=Small()), out_dir=tmp_path / "out", observers=[seen.append])
    assert [event for event in seen if isinstance(event, StepDone)] == []
    assert not list((tmp_path / "out").rglob("*.pt"))


@pytest.mark.slow
def test_teachers_of_an_earlier_run_are_not_scored_in_a_later_one():
    (distiller,) = open_distillers(OMGD)
    first, second = (gansdk.compress(given(), **settings(distiller=distiller, steps=steps)) for steps in (1, 0))
    assert first.quality[0].extra
    assert not second.quality[0].extra


@pytest.mark.slow
def test_a_pruner_that_trains_is_said_to_be_dear_beside_teachers_that_learn():
    with pytest.warns(GansdkWarning, match="OnceForAll trains shared weights.*teachers learn beside both"):
        result = gansdk.compress(given(), **settings(pruner=SEARCH, steps=1, distiller=OMGD))
    assert len([told for told in result.warnings if "teachers learn beside both" in told]) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*allows the whole network")
def test_a_student_that_begins_as_good_as_its_warm_teacher_is_not_taken_for_diverged():
    distiller = {**OMGD, "warm": True, "deep": None, "channel_weight": 0}
    result = gansdk.compress(given(), **settings(budget="1x", pruner="uniform", distiller=distiller, steps=30))
    losses = [row["loss"] for row in result.history]
    assert max(losses) > 10 * losses[0]


def test_blocks_too_short_for_the_student_are_warned_of():
    with pytest.warns(GansdkWarning, match="1 steps train the teacher, so the student is never trained"):
        gansdk.compress(given("cyclegan"), **settings(data=Colours("cyclegan"), distiller=OMGD, steps=1))


def test_options_of_teachers_that_there_are_not_are_refused(photos):
    for changes, words in (
        ({"data": Colours("cyclegan"), "distiller": {**OMGD, "blocks": 3, "share": 1}}, "share needs two"),
        ({"data": Colours(), "distiller": {**OMGD, "blocks": 3}}, "blocks is their number, but this run has none"),
        ({"data": Colours(), "distiller": {**OMGD, "select": len}}, "select keeps the best teacher of blocks"),
    ):
        name = "cyclegan" if changes["data"].pairing is Pairing.UNPAIRED else "pix2pix"
        with pytest.raises(InvalidOption, match=words):
            gansdk.compress(given(name), **settings(**changes))
    enlarging = open_generator(SRResNet(SRResNetSizes(width=8, blocks=1, scale=2)).eval())
    with pytest.raises(InvalidOption, match="'sr' have no discriminators, so they cannot share 4 stages"):
        gansdk.compress(enlarging, **settings(data=photos, distiller={**OMGD, "share": 4}))


@pytest.mark.slow
def test_other_blocks_do_not_continue_a_run(tmp_path):
    changes = {"data": Colours("cyclegan"), "steps": 10, "out_dir": tmp_path}
    gansdk.compress(given("cyclegan"), **settings(**changes, distiller={**OMGD, "blocks": 2}))
    with pytest.raises(ResumeMismatch, match="blocks: 2 there, 1 now"):
        gansdk.compress(given("cyclegan"), **settings(**changes, distiller={**OMGD, "blocks": 1}))


@pytest.mark.slow
def test_the_discriminator_that_a_generator_brought_is_not_the_students_once_it_was_trained_without(tmp_path):
    bare = given()
    brought = replace(bare, discriminator=bare.adapter.task(bare.module).discriminator)
    kept = gansdk.compress(brought, **settings(distiller=None))
    assert kept.discriminator is not None
    assert gansdk.compress(brought, **settings(distiller=OMGD, steps=1), out_dir=tmp_path).discriminator is None
    assert not list((tmp_path / "student").glob("*discriminator*"))


SCRIPT = """
import os, sys, torch, gansdk
from gansdk.contracts import MAIN, Batch, Pairing

class Colours(gansdk.DataSource):
    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        x = torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(step % 997)) * 2 - 1
        return Batch({MAIN: x}, {MAIN: x.flip(1)})

    def images(self, split):
        yield self.train_batch(1, seed=0, step=1)

told = {}
def tell(event):
    told.update(getattr(event, "metrics", {}))

adapter = gansdk.registry.parts.open_adapter({"name": "pix2pix", "size": [32, 32], "discriminator_width": 4})
torch.manual_seed(int(os.environ["RANK"]))
net = adapter.create("mobile-resnet", width=4, blocks=1)
net.load_state_dict({name: tensor * 0 + 0.01 * torch.arange(tensor.numel()).view_as(tensor) % 0.1
                     for name, tensor in net.state_dict().items()})
(made,) = gansdk.registry.parts.open_distillers(
    {"name": "omgd", "perceptual": None, "style_weight": 0, "feature_weight": 0, "student_steps": 2}
)
result = gansdk.compress(
    net.eval(), adapter=adapter, budget="1.5x", data=Colours(), steps=3, batch_size=4, device="cpu",
    pruner={"name": "one-step", "recovery": "none"},
    distiller=made, out_dir=sys.argv[1], observers=[tell],
)
nets = [result.student, *(net for t in made.regime._teachers for net in (t.module, t.task.network))]
weights = {f"{i}.{name}": p.detach() for i, net in enumerate(nets) for name, p in net.named_parameters()}
torch.save(weights, f"{sys.argv[1]}-{os.environ['RANK']}.pt")
assert os.environ["RANK"] != "0" or "loss" in told
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_one_student_on_teachers_that_stay_the_same_in_both(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.replace("import os,", "import gansdk.pipeline.opening, os,"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = tmp_path / "out"
    done = subprocess.run([*torchrun, str(tmp_path / "script.py"), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(f"{out}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert {name.split(".")[0] for name in first} == set("01234")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
