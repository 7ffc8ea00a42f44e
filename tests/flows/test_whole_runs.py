import itertools
import random
from html import unescape

import numpy as np
import pytest
import torch
from torch import nn

import gansdk
from gansdk.budget.cost import Limits
from gansdk.channels.groups import Plan
from gansdk.contracts import Contract
from gansdk.errors import GansdkWarning, InvalidOption
from gansdk.events import Carved, DistillerChosen, Finished, PlanFound, PlansCompared, StageStarted, StepDone, Warned
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.pipeline.stages import why_unused
from gansdk_adapters.networks.edsr import EDSR, EDSRBasicSR, EDSRSizes
from gansdk_pruners.uniform import Uniform

NETWORKS = ("srresnet", "edsr", "vdsr", "wrapped")
PRUNERS = ("one-step", "uniform")
DISTILLERS = (None, "pixel", "gka", "feature", "wavelet", ["gka", "feature", "wavelet"])
RUNS = list(itertools.product(NETWORKS, PRUNERS, DISTILLERS))


@pytest.mark.parametrize(("network", "pruner", "distiller"), RUNS, ids=str)
def test_every_generator_pruner_and_distiller_compress_end_to_end(
    network, pruner, distiller, build, given, quick, content, tmp_path
):
    module = build(network)
    before, grads = content(module), [p.requires_grad for p in module.parameters()]
    result = gansdk.compress(given(network, module), pruner=pruner, distiller=distiller, **quick, out_dir=tmp_path)

    assert result.after.macs <= 0.6 * result.before.macs
    assert sum(p.numel() for p in result.student.parameters()) == result.after.params
    assert type(result.student) is type(module)
    assert not result.student.training
    assert content(module) == before
    assert [p.requires_grad for p in module.parameters()] == grads
    assert not module.training
    low, high = result.generator.contract.output_range
    assert set(result.checks) == {"teacher -> traced copy", "plan -> carved", "saved -> loaded"}
    assert max(result.checks.values()) <= 1e-5 * (high - low)

    x = _noise(result)
    with torch.no_grad():
        assert torch.equal(gansdk.load(tmp_path / "student")(x), result.student(x))
    assert len(result.history) == (0 if distiller is None else quick["steps"])
    assert result.quality


@pytest.mark.parametrize("network", NETWORKS)
def test_results_say_how_much_of_the_budget_is_used_and_why_not_more(network, given, quick, tmp_path):
    result = gansdk.compress(given(network), distiller=None, out_dir=tmp_path, **quick)
    limits = gansdk.Budget.parse(result.budget).resolve(result.before)
    assert result.used == limits.usage(result.after) <= 1
    assert bool(result.unused) == (result.used < 0.95)
    shown = f"{result.used:.1%} of the budget {result.budget} is used"
    for report in ("report.html", "README.md"):
        assert shown in unescape((tmp_path / "student" / report).read_text())


def test_what_keeps_a_plan_from_using_its_budget_is_said_in_words():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False))
    student = ElasticStudent.of(gansdk.wrap(net, contract=Contract(channels_in=3, channels_out=3, size=(4, 4))))
    full = student.space.full_plan()
    (group,) = student.space.prunable
    half = Plan({**full, group.name: (0, 3)})
    macs = student.cost(half).macs

    def said(plan, limit):
        return why_unused(student, plan, Limits(macs=round(limit)))

    assert said(half, macs) == said(half, macs / 0.95) == ""
    assert said(half, 1.25 * macs) == (
        f"one more channel of any group exceeds the budget; with one of {group.name!r}, 120.0% would be used"
    )
    assert said(half, 1.5 * macs) == "1 group could keep one more channel within the budget"
    assert said(full, 4 * macs) == "nothing was taken out"


@pytest.mark.parametrize("network", NETWORKS)
def test_training_changes_the_student_that_pruning_alone_gives(network, given, quick, content):
    pruned = gansdk.compress(given(network), distiller=None, **quick)
    trained = gansdk.compress(given(network), distiller="pixel", **quick)
    assert pruned.plan == trained.plan
    assert content(pruned.student) != content(trained.student)


def test_every_loss_weighs_alike_whatever_range_a_network_has_outside_and_inside(quick):
    """The same EDSR as published, on [0, 255], and in BasicSR's layout, which rescales [0, 1] inside."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        raw = EDSR(EDSRSizes(width=8, blocks=2, scale=2))
    other = EDSRBasicSR(raw.sizes)
    other.load_state_dict(dict(zip(other.state_dict(), _learnt(raw), strict=True)))
    histories = [
        gansdk.compress(net.eval(), pruner="uniform", distiller=["pixel", "feature", "channel"], **quick).history
        for net in (raw, other)
    ]
    assert set(histories[0][0]) >= {"task", "pixel", "feature", "channel"}
    for first, second in zip(*histories, strict=True):
        numbers = [{key: value for key, value in row.items() if isinstance(value, float)} for row in (first, second)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-2)


def _learnt(edsr):
    """Its weights without the shifts by the mean colour, which BasicSR has no weights for."""
    return [value for name, value in edsr.state_dict().items() if "_mean" not in name]


def test_training_brings_the_student_nearer_to_its_teacher(given, quick):
    longer = {**quick, "steps": 60, "learning_rate": 3e-3}
    pruned = gansdk.compress(given("srresnet"), pruner="uniform", distiller=None, **longer)
    trained = gansdk.compress(
        given("srresnet"), pruner="uniform", distiller={"name": "pixel", "weight": 10.0}, **longer
    )
    assert _psnr_to_teacher(trained) > _psnr_to_teacher(pruned)
    assert trained.history[-1]["pixel"] < trained.history[0]["pixel"]


def test_one_seed_gives_the_same_bytes_twice_and_another_seed_others(given, quick, content):
    settings = {**quick, "distiller": ["gka", "wavelet", "pixel"]}
    first, again, other = (content(gansdk.compress(given(), **settings, seed=seed).student) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_recipe_in_a_students_folder_makes_the_same_student_again(build, quick, tmp_path):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    settings = {
        **quick,
        "pruner": {"name": "uniform"},
        "distiller": ["pixel", {"name": "gka", "weight": 2.0}],
        "seed": 3,
    }
    gansdk.compress(tmp_path / "net.pth", **settings, out_dir=tmp_path / "first")
    recipe = tmp_path / "first" / "student" / "recipe.toml"
    gansdk.compress(recipe=recipe, device="cpu", out_dir=tmp_path / "again")
    for name in ("model.safetensors", "recipe.toml"):
        first, again = ((tmp_path / run / "student" / name).read_bytes() for run in ("first", "again"))
        assert first == again


def test_a_recipe_needs_what_was_passed_as_an_object_once_more(given, quick, tmp_path):
    gansdk.compress(given(), **quick, distiller=None, out_dir=tmp_path / "first")
    recipe = tmp_path / "first" / "student" / "recipe.toml"
    assert "# model was a gansdk_adapters.networks.srresnet.SRResNet" in recipe.read_text()
    with pytest.raises(InvalidOption, match=r"The recipe has no model: .*SRResNet.* Pass model="):
        gansdk.compress(recipe=recipe)
    gansdk.compress(given(), recipe=recipe, device="cpu", out_dir=tmp_path / "again")
    first, again = ((tmp_path / run / "student" / "model.safetensors").read_bytes() for run in ("first", "again"))
    assert first == again


def test_compressing_leaves_every_global_random_generator_alone(given, quick):
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.random.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].tolist()
    gansdk.compress(given(), pruner={"name": "one-step", "inherit": "none"}, **quick)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_the_callers_random_numbers_do_not_decide_the_student(given, quick, content):
    students = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        students.append(content(gansdk.compress(given(), **quick).student))
    assert students[0] == students[1]


@pytest.mark.parametrize("inherit", ["none", "norms"])
def test_students_with_fresh_weights_are_trained_and_saved_too(inherit, given, quick, tmp_path):
    result = gansdk.compress(
        given(), pruner={"name": "one-step", "inherit": inherit}, distiller="pixel", **quick, out_dir=tmp_path
    )
    x = _noise(result)
    with torch.no_grad():
        assert torch.equal(gansdk.load(tmp_path / "student")(x), result.student(x))


def test_a_student_is_compressed_again_from_its_folder(given, quick, tmp_path):
    first = gansdk.compress(given(), **quick, out_dir=tmp_path / "first")
    second = gansdk.compress(tmp_path / "first" / "student", **quick, out_dir=tmp_path / "second")
    assert second.before == first.after
    assert second.after.macs <= 0.6 * first.after.macs
    x = _noise(second)
    with torch.no_grad():
        assert torch.equal(gansdk.load(tmp_path / "second" / "student")(x), second.student(x))


def test_a_checkpoint_file_gives_the_same_student_as_its_module(build, quick, content, tmp_path):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    from_file = gansdk.compress(str(tmp_path / "net.pth"), **quick)
    assert content(from_file.student) == content(gansdk.compress(build(), **quick).student)


def test_observers_are_told_the_story_in_order(given, quick):
    story = []
    gansdk.compress(given(), **quick, observers=[story.append])
    kinds = [type(event) for event in story if not isinstance(event, Warned)]  # which untrained networks deserve
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        DistillerChosen,
        StageStarted,
        PlansCompared,
        PlanFound,
        Carved,
        StageStarted,
        StepDone,
        StageStarted,
        Finished,
    ]
    assert [event.step for event in story if isinstance(event, StepDone)] == [1, 2, 3, 4]


def test_a_pruner_may_remember_its_plan_and_runs_that_are_saved_do_not_mind(given, quick, tmp_path):
    class Remembering(Uniform):
        def search(self, student, limits, run):
            self.plan = super().search(student, limits, run)
            return self.plan

    pruner = Remembering()
    results = [
        gansdk.compress(given("srresnet"), pruner=pruner, distiller="pixel", **quick, out_dir=tmp_path / name)
        for name in ("one", "two")
    ]
    assert results[0].plan == results[1].plan == pruner.plan


def test_without_data_the_student_is_pruned_and_a_warning_says_it_was_not_scored(given, tmp_path):
    with pytest.warns(GansdkWarning) as told:
        result = gansdk.compress(given(), budget="macs<=60%", distiller=None, out_dir=tmp_path, device="cpu")
    assert result.after.macs <= 0.6 * result.before.macs
    assert not result.quality
    assert result.warnings == [str(warning.message) for warning in told]
    assert any("not scored" in text for text in result.warnings)


def test_a_dry_run_finds_and_carves_the_plan_and_writes_nothing(given, quick, tmp_path):
    target = tmp_path / "out"
    result = gansdk.compress(given(), **quick, out_dir=target, dry_run=True)
    assert result.after.macs <= 0.6 * result.before.macs
    assert sum(p.numel() for p in result.student.parameters()) == result.after.params
    assert result.history == []
    assert not result.quality
    assert list(tmp_path.iterdir()) == []
    assert result.plan == gansdk.compress(given(), **quick).plan


def _noise(result: gansdk.CompressionResult) -> torch.Tensor:
    contract = result.generator.contract
    low, high = contract.input_range
    shape = (2, contract.channels_in, 16, 20)
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(5))


def _psnr_to_teacher(result: gansdk.CompressionResult) -> float:
    return next(q.student for q in result.quality if q.reference == "teacher" and q.metric.startswith("psnr"))
