"""The plans that one-step tries out: measured, bounded, told, and carried over to the student."""

import itertools
import math
import warnings

import pytest
import torch

import gansdk
from gansdk.events import PlansCompared, StageSaved
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes
from gansdk_pruners.trials import Attempt, together

SIZES = SRResNetSizes(width=16, blocks=2, scale=2)
SETTINGS = {"budget": "3x", "data": "photos", "patch": 16, "distiller": None, "device": "cpu"}


class Killed(BaseException):
    pass


def network(seed=0):
    return randomise(SRResNet(SIZES), seed=seed)


def compressed(pruner=None, *, observers=(), **changes):
    asked = "one-step" if pruner is None else {"name": "one-step", **pruner}
    with warnings.catch_warnings():
        warnings.simplefilter("default", gansdk.errors.GansdkWarning)
        return gansdk.compress(network(), pruner=asked, observers=observers, **{**SETTINGS, **changes})


def trials(result):
    return {trial["name"]: trial for trial in result.compared["trials"]}


def equal(one, other):
    return all(map(torch.equal, one.student.state_dict().values(), other.student.state_dict().values()))


@pytest.fixture(scope="module")
def result():
    return compressed({"trials": 10_000})


def test_the_best_of_what_was_measured_is_taken_and_it_is_never_worse_than_the_baselines(result):
    found = trials(result)
    (chosen,) = [trial for trial in found.values() if trial["chosen"]]
    assert chosen["psnr"] == max(trial["psnr"] for trial in found.values())
    assert {"uniform, not refitted", "magnitude, not refitted"} <= set(found)
    assert all(trial["worst"] <= trial["psnr"] for trial in found.values())
    assert result.after.macs == chosen["macs"]
    assert all(trial["macs"] <= result.before.macs / 3 for trial in found.values())
    names = [name.partition(",") for name in found]
    assert {way for way, *_ in names} == {"cost", "global", "per-layer", "uniform", "magnitude", "cost in two rounds"}
    assert {repair.strip() for *_, repair in names} == {
        "not refitted",
        "refitted",
        "refitted with cross-validation",
        "refitted where images gain",
    }


def test_the_student_is_the_one_that_was_measured(result):
    """What is validated is what is used: the same probes, the same error, to the last digit."""
    from gansdk.pipeline.opening import open_generator, open_source

    generator = open_generator(network())
    source = open_source("photos", generator, patch=16)
    probes = [source.probe(20 + i, seed=0).inputs["main"] for i in range(8)]
    teacher = network().eval()
    with torch.no_grad():
        errors = [float((result.student(x) - teacher(x)).double().square().mean()) for x in probes]
    (chosen,) = [trial for trial in trials(result).values() if trial["chosen"]]
    assert -10 * math.log10(sum(errors) / 8) == pytest.approx(chosen["psnr"], abs=1e-3)
    assert -10 * math.log10(max(errors)) == pytest.approx(chosen["worst"], abs=1e-3)


def test_a_guarded_refit_is_never_worse_on_what_guards_it_than_none():
    losses = {}
    for recovery in ("none", "guarded"):
        student = compressed({"allocation": "per-layer", "recovery": recovery})
        from gansdk.pipeline.opening import open_generator, open_source

        source = open_source("photos", open_generator(network()), patch=16)
        probes = [source.probe(16 + i, seed=0).inputs["main"] for i in range(4)]
        teacher = network().eval()
        with torch.no_grad():
            losses[recovery] = sum(float((student.student(x) - teacher(x)).square().mean()) for x in probes)
    assert losses["guarded"] < losses["none"]


def test_trials_are_bounded_and_the_ranking_alone_may_be_asked_for(result):
    assert compressed({"trials": 0}).compared == {}
    few, many = compressed({"trials": 1}).compared["trials"], result.compared["trials"]
    assert 1 <= len(few) < len(many)
    assert few[0]["name"] == "cost, refitted with cross-validation"  # made however short the time is
    assert compressed({"allocation": "cost", "recovery": "none"}).compared == {}
    only = trials(compressed({"allocation": "per-layer", "trials": 4}))
    assert {name.partition(",")[0] for name in only} == {"per-layer"}


def test_every_trial_is_told_when_it_is_made_and_the_last_word_names_the_best():
    told = []
    compressed(observers=[lambda event: told.append(event) if isinstance(event, PlansCompared) else None])
    assert [len(event.trials) for event in told[:-1]] == list(range(1, len(told)))
    assert [event.done for event in told] == [False] * (len(told) - 1) + [True]
    assert sum(trial.chosen for trial in told[-1].trials) == 1


@pytest.mark.parametrize("stage", ["trials", "search", "recover"])
def test_a_run_that_was_killed_after_the_trials_gives_the_same_files(stage, tmp_path):
    def die(event):
        over = isinstance(event, PlansCompared) and event.done and stage == "trials"
        if over or (isinstance(event, StageSaved) and event.stage == stage):
            raise Killed

    few = {"trials": 4}
    straight = compressed(few, out_dir=tmp_path / "straight")
    with pytest.raises(Killed):
        compressed(few, out_dir=tmp_path / "killed", observers=[die])
    continued = compressed(few, out_dir=tmp_path / "killed")
    assert equal(straight, continued)
    assert continued.compared == straight.compared
    notes = [(tmp_path / name / "run" / "plans.jsonl").read_text().splitlines() for name in ("straight", "killed")]
    assert [len(lines) for lines in notes] == [1, 1]


def test_two_rounds_carve_the_student_from_what_the_first_round_left(result):
    from gansdk_pruners.trials import Cut, relative

    full = result.space.full_plan()
    half = gansdk.Plan({name: kept[::2] if len(kept) > 3 else kept for name, kept in full.items()})
    plan = gansdk.Plan({name: kept[::2] if len(kept) > 2 else kept for name, kept in half.items()})
    assert half.then(relative(half, plan)) == plan
    assert Cut(plan, half).first == half


def test_without_images_plans_are_compared_on_synthetic_images_with_a_warning():
    result = compressed({"trials": 1}, data=None, patch=None)
    assert any("synthetic images" in warning for warning in result.warnings)
    assert "synthetic images" in result.compared["measure"]
    assert max(trial["psnr"] for trial in result.compared["trials"]) > 10


class Flat(gansdk.DataSource):
    pairing = gansdk.Pairing.INPUTS_ONLY

    def __init__(self, spots):
        self.spots = spots

    def train_batch(self, size, *, seed, step):
        x = torch.full((size, 3, 16, 16), 0.1 + step % 7 / 10)
        x[..., 0, 0] += self.spots
        return gansdk.Batch({"main": x})

    def images(self, split):
        rng = torch.Generator().manual_seed(0)
        yield gansdk.Batch({"main": torch.rand(1, 3, 16, 16, generator=rng)})


@pytest.mark.parametrize(("spots", "told"), [(0.0, True), (0.1, False)])
def test_probes_of_one_colour_are_warned_of(spots, told):
    result = compressed({"trials": 0}, data=Flat(spots), patch=None)
    assert any("of one colour" in warning for warning in result.warnings) == told


def test_inputs_of_one_size_pass_together_up_to_a_number_of_pixels():
    def batch(side):
        return gansdk.Batch({"main": torch.zeros(1, 3, side, side)})

    sides = [8, 8, 16, 16, 8, 256, 256]
    found = together([batch(side) for side in sides])
    shapes = [tuple(one.inputs["main"].shape) for one in found]
    assert [shape[2] for shape in shapes] == [8, 16, 8, 256, 256]
    assert [shape[0] for shape in shapes] == [2, 2, 1, 1, 1]
    assert list(itertools.chain.from_iterable([s[2]] * s[0] for s in shapes)) == sides


def test_recipes_say_what_they_are():
    assert str(Attempt("cost", "guarded", rounds=2)) == "cost in two rounds, refitted where images gain"
