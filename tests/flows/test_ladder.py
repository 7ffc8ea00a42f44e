"""Ladders: several students from one run, whatever the pruner; the same as one by one wherever nothing is shared."""

import inspect
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import gansdk
from gansdk.budget.budget import Budget
from gansdk.errors import (
    BudgetSyntaxError,
    BudgetUnreachable,
    GansdkWarning,
    InvalidOption,
    OutputError,
    QualityFloorMissed,
    ResumeMismatch,
)
from gansdk.events import Finished, SearchStep, StageStarted, StepDone, Warned
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.wrapping import WrappedAdapter
from gansdk.interfaces import Pruner
from gansdk.recipe import read_recipe
from gansdk.registry.parts import open_distillers
from gansdk_adapters.tasks.adversarial import ImageToImageTask

BUDGETS = ["macs<=70%", "3x"]
NAMES = ["macs-at-most-70%", "3x"]
SHARES = (0.7, 1 / 3)
ONCE = {
    "name": "once-for-all",
    "steps": 4,
    "population": 6,
    "iterations": 2,
    "shares": [0.75, 0.5, 0.25],
    "multiple_of": 1,
}
SUPERNET, EACH = 4, 3
pytestmark = pytest.mark.filterwarnings("ignore:Subnets are compared on images:gansdk.errors.GansdkWarning")


class Interrupted(Exception):
    """Raised by an observer in place of a kill."""


@pytest.fixture
def settings(photos):
    data = {"name": "folder", "path": str(photos), "holdout": 0.4}
    return {"data": data, "steps": EACH, "batch_size": 2, "patch": 8, "device": "cpu", "distiller": "pixel"}


@dataclass
class SelfTraining(Pruner):
    """Trains while it searches and while it recovers; knows nothing of several students."""

    trains = True

    def search(self, student, limits, run):
        run.distil(2)
        space = student.space
        for cut in range(1, 6):
            keep = {group.name: tuple(range(max(group.floor, group.size - cut))) for group in space.prunable}
            plan = gansdk.Plan({**space.full_plan(), **keep})
            if limits.fits(student.cost(plan)):
                return plan
        raise AssertionError("the tests ask for no less")

    def recover(self, full, carved, plan, run):
        run.distil(1)


class Judged(WrappedAdapter):
    """A wrapped generator whose task trains a discriminator."""

    def task(self, module, *, discriminator=None):
        return ImageToImageTask(nn.Conv2d(3, 1, 3), conditional=False, gan_weight=50.0)


@pytest.fixture
def judged(given):
    generator = given("wrapped")
    return replace(generator, adapter=Judged(generator.contract, generator.taps))


def steps_of(events):
    """Stage -> steps that were told."""
    counted: dict[str, int] = {}
    for event in events:
        if isinstance(event, StepDone):
            counted[event.stage] = counted.get(event.stage, 0) + 1
    return counted


def bytes_of(result, content):
    weights = content(result.student)
    judge = result.discriminator or {}
    return weights + b"".join(tensor.numpy().tobytes() for tensor in judge.values())


# Several students, one training.


@pytest.fixture(scope="module")
def shared(photos, given, tmp_path_factory):
    """One once-for-all ladder, its events and its folder."""
    seen, out = [], tmp_path_factory.mktemp("ladder")
    made = gansdk.ladder(
        given(),
        budgets=BUDGETS,
        pruner=ONCE,
        distiller="pixel",
        data={"name": "folder", "path": str(photos), "holdout": 0.4},
        steps=EACH,
        batch_size=2,
        patch=8,
        device="cpu",
        out_dir=out,
        observers=[seen.append],
    )
    return made, seen, out


def test_shared_weights_are_trained_once_for_all_students(shared):
    made, seen, _ = shared
    assert steps_of(seen) == {"prepare-0": SUPERNET, **{f"{name}/distil-0": EACH for name in NAMES}}
    assert sum(isinstance(event, Finished) for event in seen) == 1
    assert [len(result.history) for result in made.results] == 2 * [SUPERNET + EACH]
    assert made.results[0].history[:SUPERNET] == made.results[1].history[:SUPERNET]


def test_every_student_keeps_to_its_budget_and_stands_in_the_order_asked(shared):
    made, _, _ = shared
    full = made.results[0].before.macs
    for result, share in zip(made.results, SHARES, strict=True):
        assert result.after.macs <= share * full
        assert sum(p.numel() for p in result.student.parameters()) == result.after.params
        assert result.quality
    assert [made.label(result) for result in made.results] == NAMES
    assert [point["name"] for point in made.curve()] == ["teacher", *NAMES]
    assert [point["macs"] for point in made.curve()] == [full, *(result.after.macs for result in made.results)]


def test_a_larger_budget_never_gets_a_subnet_of_a_worse_score_and_no_subnet_is_scored_twice(shared):
    made, _, out = shared
    best = [result.search[-1]["best"] for result in made.results]
    assert best == sorted(best)
    rows = [json.loads(line) for line in (out / "run" / "candidates.jsonl").read_text().splitlines()]
    assert len({tuple(row["config"]) for row in rows}) == len(rows)
    full = made.results[0].before.macs
    for result, share in zip(made.results, SHARES, strict=True):
        fitting = [row for row in rows if row["macs"] <= share * full]
        seen = [tuple(point) for point in result.search[-1]["front"]]
        assert set(seen) <= {(row["macs"], row["score"]) for row in fitting}
        assert (result.after.macs, result.search[-1]["best"]) == seen[-1]


def test_the_smallest_student_is_the_one_that_compress_makes(shared, given, settings, content):
    made, _, _ = shared
    alone = gansdk.compress(given(), budget="3x", pruner=ONCE, **settings)
    assert alone.plan == made.results[-1].plan
    assert content(alone.student) == content(made.results[-1].student)
    assert alone.search == made.results[-1].search


def test_an_exhaustive_search_gives_every_budget_what_compress_gives_it(given, settings, content):
    pruner = {**ONCE, "shares": [0.25], "search": "exhaustive"}
    made = gansdk.ladder(given(), budgets=BUDGETS, pruner=pruner, **settings)
    for budget, result in zip(BUDGETS, made.results, strict=True):
        assert content(gansdk.compress(given(), budget=budget, pruner=pruner, **settings).student) == content(
            result.student
        )


def test_every_student_is_carved_from_the_weights_that_were_trained_for_all(shared):
    made, _, out = shared
    weights = torch.load(out / "run" / "prepare-0.pt", weights_only=True)["student"]
    full = ElasticStudent.of(made.results[0].generator)
    assert not any(torch.equal(value, weights[f"main/{name}"]) for name, value in full.module.named_parameters())
    full.load_state_dict({**full.state_dict(), **weights})
    for name, result in zip(NAMES, made.results, strict=True):
        begun = torch.load(out / "run" / name / "recover.pt", weights_only=True)["student"]
        carved = full.carve(result.plan).module.named_parameters()  # statistics are measured anew for every student
        assert all(torch.equal(value, begun[f"main/{key}"]) for key, value in carved)


def test_the_folder_holds_students_reports_and_one_run(shared):
    made, _, out = shared
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES, "ladder.html", "ladder.json", "run"])
    for name, result in zip(NAMES, made.results, strict=True):
        assert result.out_dir == out / name
        assert content_of(gansdk.load(out / name / "student")) == content_of(result.student)
        recipe = out / name / "student" / "recipe.toml"
        assert read_recipe(recipe)["budgets"] == [result.budget]
        assert "one of a ladder: macs<=70%, macs/3" in recipe.read_text()
    told = json.loads((out / "ladder.json").read_text())
    assert told["curve"] == json.loads(json.dumps(made.curve()))
    assert list(told["students"]) == NAMES
    assert told["students"]["3x"]["settings"]["ladder"] == ["macs<=70%", "macs/3"]
    assert told["students"]["3x"]["after"]["macs"] == made.results[1].after.macs


def content_of(module):
    return b"".join(tensor.detach().numpy().tobytes() for tensor in module.state_dict().values())


# The same as one by one.


@pytest.mark.parametrize("pruner", ["one-step", "uniform", SelfTraining], ids=str)
@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_pruners_that_share_nothing_give_the_students_of_separate_runs(
    pruner, kept, judged, settings, content, tmp_path
):
    """Down to the discriminators, which every student must find as they were at first."""

    def chosen():
        return pruner() if callable(pruner) else pruner

    out = {"out_dir": tmp_path / "out"} if kept else {}
    made = gansdk.ladder(judged, budgets=["1.3x", "1.8x"], pruner=chosen(), **settings, **out)
    for budget, result in zip(["1.3x", "1.8x"], made.results, strict=True):
        alone = gansdk.compress(judged, budget=budget, pruner=chosen(), **settings)
        assert result.plan == alone.plan
        assert bytes_of(result, content) == bytes_of(alone, content)
        assert result.history == alone.history
        assert [item.student for item in result.quality] == [item.student for item in alone.quality]
    assert bytes_of(made.results[0], content) != bytes_of(made.results[1], content)


@pytest.mark.parametrize("instance", [False, True])
def test_a_regime_that_trains_networks_of_its_own_begins_anew_for_every_student(instance, given, photos, content):
    """Data-free distillation trains the generator of its inputs."""
    free = {"name": "data-free", "student_steps": 2, "latent": 8}
    call = {"pruner": "uniform", "distiller": free, "eval_data": str(photos), "steps": 4, "batch_size": 2, "patch": 32}
    shared = {**call, "distiller": open_distillers(free) if instance else free}
    made = gansdk.ladder(given("vdsr"), budgets=["1.3x", "1.8x"], device="cpu", **shared)
    for budget, result in zip(["1.3x", "1.8x"], made.results, strict=True):
        alone = gansdk.compress(given("vdsr"), budget=budget, device="cpu", **call)
        assert (content(result.student), result.history) == (content(alone.student), alone.history)


def test_ladder_takes_what_compress_takes_with_the_same_defaults():
    one, several = (dict(inspect.signature(call).parameters) for call in (gansdk.compress, gansdk.ladder))
    assert (one.pop("budget").name, several.pop("budgets").name) == ("budget", "budgets")
    assert one == several


def test_a_dry_run_carves_every_plan_and_writes_nothing(given, settings, tmp_path):
    made = gansdk.ladder(given(), budgets="2x,3x", **settings, out_dir=tmp_path / "out", dry_run=True)
    assert [made.label(result) for result in made.results] == ["2x", "3x"]
    assert all(not result.history and not result.quality for result in made.results)
    assert list(tmp_path.iterdir()) == []


def test_a_student_that_was_not_trained_has_no_discriminator(judged, settings):
    found = {
        steps: gansdk.compress(judged, budget="1.3x", pruner="uniform", **{**settings, "steps": steps})
        for steps in (0, 1)
    }
    assert (found[0].history, found[0].discriminator) == ([], None)
    assert found[1].discriminator


# Killed and continued.

KILLED = f"""
import os, signal, sys, torch, gansdk
from gansdk.events import StepDone
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, stage, step = sys.argv[1:]

def die(event):
    if isinstance(event, StepDone) and event.stage == stage and event.step == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
net.load_state_dict(torch.load(state))
gansdk.ladder(
    net.eval(), budgets={BUDGETS!r}, pruner={ONCE!r}, distiller="pixel", steps={EACH}, batch_size=2, patch=8,
    data={{"name": "folder", "path": photos, "holdout": 0.4}}, device="cpu", out_dir=out_dir, observers=[die],
)
"""


def test_a_ladder_killed_in_its_second_student_goes_on_there(shared, photos, build, given, settings, tmp_path, content):
    made, _, straight = shared
    torch.save(build().state_dict(), tmp_path / "net.pth")
    out = tmp_path / "out"
    arguments = [str(photos), str(out), str(tmp_path / "net.pth"), f"{NAMES[0]}/distil-0", "2"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / "3x" / "student").is_dir()
    before = os.stat(out / "run" / "3x" / "distil-0.pt").st_mtime_ns

    seen = []
    resumed = gansdk.ladder(given(), budgets=BUDGETS, pruner=ONCE, **settings, out_dir=out, observers=[seen.append])
    # The step that was told last had not been saved yet.
    assert steps_of(seen) == {f"{NAMES[0]}/distil-0": EACH - 1}
    assert not any(isinstance(event, SearchStep) for event in seen)
    assert os.stat(out / "run" / "3x" / "distil-0.pt").st_mtime_ns == before
    for one, other in zip(resumed.results, made.results, strict=True):
        assert content(one.student) == content(other.student)
        assert (one.plan, one.history, one.search) == (other.plan, other.history, other.search)
    for name in NAMES:
        weights = f"{name}/student/model.safetensors"
        assert (out / weights).read_bytes() == (straight / weights).read_bytes()


@pytest.mark.parametrize("where", [("prepare-0", 2), ("3x/search", 1), ("macs-at-most-70%/search", 2)], ids=str)
def test_a_ladder_interrupted_anywhere_ends_as_the_straight_one(where, shared, given, settings, tmp_path, content):
    made, _, _ = shared
    place, number = where
    at = ""

    def stop(event):
        nonlocal at
        at = event.stage if isinstance(event, StageStarted) else at
        reached = {StepDone: "step", SearchStep: "generation"}.get(type(event))
        if at == place and reached is not None and getattr(event, reached) == number:
            raise Interrupted

    with pytest.raises(Interrupted):
        gansdk.ladder(given(), budgets=BUDGETS, pruner=ONCE, **settings, out_dir=tmp_path, observers=[stop])
    resumed = gansdk.ladder(given(), budgets=BUDGETS, pruner=ONCE, **settings, out_dir=tmp_path)
    for one, other in zip(resumed.results, made.results, strict=True):
        assert content(one.student) == content(other.student)
        assert (one.plan, one.history, one.search) == (other.plan, other.history, other.search)


@pytest.mark.parametrize("stage", ["recover-0", "distil-0"])
def test_a_discriminator_trained_in_the_search_is_found_again_by_a_continued_run(
    stage, judged, settings, content, tmp_path
):
    """Killed after the search, before the next stage has saved anything."""

    def stop(event):
        if isinstance(event, StepDone) and event.stage == stage:
            raise Interrupted

    call = {"budget": "1.5x", "pruner": SelfTraining(), **settings}
    straight = gansdk.compress(judged, **call)
    with pytest.raises(Interrupted):
        gansdk.compress(judged, **call, out_dir=tmp_path, observers=[stop])
    resumed = gansdk.compress(judged, **call, out_dir=tmp_path)
    assert bytes_of(resumed, content) == bytes_of(straight, content)


def test_other_budgets_are_another_run(given, settings, tmp_path):
    gansdk.ladder(given(), budgets=["2x", "3x"], **settings, out_dir=tmp_path)
    with pytest.raises(ResumeMismatch, match=r"ladder\[1\]: 'macs/3' there, 'macs/4' now"):
        gansdk.ladder(given(), budgets=["2x", "4x"], **settings, out_dir=tmp_path)


# Refused before any compute.


@pytest.mark.parametrize(
    ("budgets", "error", "said"),
    [
        (["4x", "2x"], InvalidOption, "'macs/2' is not smaller than the preceding 'macs/4'"),
        (["2x", "2x"], InvalidOption, "'macs/2' is not smaller than the preceding 'macs/2'"),
        (["2x", "macs<=50%"], InvalidOption, "is not smaller than"),
        (["2x", "params<=25%"], InvalidOption, "neither of 'macs/2' and 'params/4' is within the other"),
        (["2x", "3x,params<=90%", "4x"], InvalidOption, "is within the other"),
        ([], BudgetSyntaxError, "list of budgets is empty"),
        (["2x", "0.1"], BudgetSyntaxError, "could mean two things"),
        ("2x,3x,params<=25%", BudgetSyntaxError, r"several ratios \(2x, 3x\)"),
        (
            ["2x", Budget.parse("4x", counting="paper")],
            InvalidOption,
            "'macs/2' by 'true', 'macs/4' by 'paper'. Use the same counting for all",
        ),
    ],
    ids=str,
)
def test_budgets_that_are_no_ladder_are_refused(budgets, error, said, given, settings, tmp_path):
    seen = []
    with pytest.raises(error, match=said):
        gansdk.ladder(given(), budgets=budgets, **settings, out_dir=tmp_path, observers=[seen.append])
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_students_folder_will_be_is_refused_before_any_work(given, settings, tmp_path):
    (tmp_path / "2x").write_text("mine")
    seen = []
    with pytest.raises(OutputError, match=r"2x' is a file"):
        gansdk.ladder(given(), budgets=["2x", "3x"], **settings, out_dir=tmp_path, observers=[seen.append])
    assert seen == []


@pytest.mark.parametrize("pruner", ["one-step", "uniform", ONCE], ids=str)
@pytest.mark.parametrize("last", ["100x", "macs<=1"])
def test_a_budget_out_of_reach_is_refused_before_anything_is_spent_on_the_others(
    pruner, last, given, settings, tmp_path
):
    """By the generator's own floor, and by the pruner's."""
    seen = []
    with pytest.raises(BudgetUnreachable):
        gansdk.ladder(
            given(), budgets=["2x", last], pruner=pruner, **settings, out_dir=tmp_path, observers=[seen.append]
        )
    assert not [event for event in seen if not isinstance(event, StageStarted)]
    assert list(tmp_path.iterdir()) == []
    # The same folder serves as soon as the budgets can be met.
    assert gansdk.ladder(given(), budgets=["2x"], pruner="uniform", **settings, out_dir=tmp_path).results


def test_several_ratios_for_one_student_are_refused_with_both_ways_out(given, settings):
    with pytest.raises(BudgetSyntaxError, match=r"gansdk\.ladder.*keep the largest ratio"):
        gansdk.compress(given(), budget="2x,4x", **settings)


# What is said.


class Least(Pruner):
    """The smallest plan there is, or the full one if that fits."""

    def search(self, student, limits, run):
        space = student.space
        full = space.full_plan()
        least = {group.name: tuple(range(max(group.floor, group.size // 2))) for group in space.prunable}
        return full if limits.fits(student.cost(full)) else gansdk.Plan({**full, **least})


def test_budgets_of_one_plan_and_those_that_take_nothing_away_are_named_before_any_training(given, settings):
    seen = []
    with pytest.warns(GansdkWarning):
        made = gansdk.ladder(
            given(), budgets=["1x", "1.2x", "1.3x"], pruner=Least(), **settings, observers=[seen.append]
        )
    first, second, third = made.results
    assert [text for text in first.warnings if "'macs/1' allows the whole network" in text]
    assert [text for text in second.warnings if "'macs/1.2' has the same plan as 'macs/1.3'" in text]
    assert not [text for text in third.warnings if "the teacher itself" not in text]  # which was never trained
    told = [getattr(event, "stage", getattr(event, "message", "")) for event in seen]
    assert told.index("1.2x/distil-0") > told.index(second.warnings[0])
    assert told.index("1x/distil-0") > told.index(first.warnings[0])


def test_a_missed_floor_names_the_students_that_miss_it_and_holds_them_all(given, settings, tmp_path):
    with pytest.raises(QualityFloorMissed, match=r"2x: The student's psnr-y .* 3x: The student's") as missed:
        gansdk.ladder(given(), budgets=["2x", "3x"], quality="psnr-y>=60", **settings, out_dir=tmp_path)
    made = missed.value.result
    assert [made.label(result) for result in made.results] == ["2x", "3x"]
    assert (tmp_path / "2x" / "student" / "config.json").is_file()
    assert (tmp_path / "ladder.html").is_file()
    with pytest.raises(
        QualityFloorMissed, match=r"All students are in this error's result, and not saved: out_dir was"
    ):
        gansdk.ladder(given(), budgets="2x,3x", quality="psnr-y>=60", **settings)


class Fixed(nn.Module):
    """Runs on inputs of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.register_buffer("light", torch.ones(1, 1, 24, 24))

    def forward(self, x):
        return torch.tanh(self.tail(torch.relu(self.head(x))) * self.light)


def test_what_is_warned_about_while_saving_is_in_the_result_its_report_and_the_events(tmp_path):
    net = Fixed().eval()
    generator = gansdk.wrap(net, contract=gansdk.Contract(channels_in=3, channels_out=3, size=(24, 24)))
    seen = []
    with pytest.warns(GansdkWarning):
        result = gansdk.compress(
            generator,
            budget="1.5x",
            pruner="uniform",
            distiller=None,
            device="cpu",
            out_dir=tmp_path,
            observers=[seen.append],
        )
    assert sum("for that size alone" in text for text in result.warnings) == 1
    assert sum("for that size alone" in event.message for event in seen if isinstance(event, Warned)) == 1
    told = json.loads((tmp_path / "student" / "report.json").read_text())
    assert told["warnings"] == result.warnings
