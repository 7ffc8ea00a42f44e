"""The once-for-all pruner: its space, its search, what it trains, and whole runs that are killed on the way."""

import itertools
import json
import math
from dataclasses import replace
from functools import cache
from html import unescape
from random import Random
from types import SimpleNamespace

import pytest
import torch

import gansdk
from gansdk.budget.budget import Budget
from gansdk.channels.configs import config_of, plan_of, spelled
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import Knob, Plan
from gansdk.channels.tracing.trace import trace
from gansdk.contracts import MAIN, Batch, Contract, Pairing
from gansdk.errors import (
    BudgetUnreachable,
    CheckpointError,
    DataError,
    GansdkWarning,
    IncompatibleParts,
    InvalidOption,
    MissingData,
    NothingPruned,
    ResumeMismatch,
    TrainingDiverged,
)
from gansdk.events import SearchStep, StepDone
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.interfaces import DataSource
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_distillers, open_pruner
from gansdk.reporting.report import render_html
from gansdk.testing.networks import network
from gansdk.training.run import CompressionRun
from gansdk_adapters.cyclegan import CycleGAN
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.pix2pix import Pix2Pix
from gansdk_pruners.once_for_all import OnceForAll
from gansdk_pruners.subnets import Subnets, positions_of, rank

NETS = ["resnet-in", "resnet-bn-zero", "edsr", "mobile-resnet", "srresnet-slopes"]
SHARES = (0.75, 0.5, 0.25)


@cache
def generator(name="resnet-in"):
    entry = network(name)
    module = entry.build()
    with torch.no_grad():
        out = module(entry.example())
    scale = out.shape[2] // entry.shape[2]
    contract = Contract(
        channels_in=entry.shape[1], channels_out=out.shape[1], size=tuple(entry.shape[2:]), scale=scale, multiple_of=4
    )
    return gansdk.wrap(module, contract=contract)


def student_of(name="resnet-in"):
    return ElasticStudent.of(generator(name))


def subnets_of(student, ranking=None, **options):
    positions = positions_of(student.space, **{"shares": SHARES, "multiple_of": 1, **options})
    return Subnets(student.space, positions, ranking)


class Waves(DataSource):
    """Smooth pictures made from their position alone, as the nets of the zoo take them."""

    pairing = Pairing.INPUTS_ONLY

    def __init__(self, held_out=2):
        self.held_out = held_out

    def train_batch(self, size, *, seed, step):
        return self._batch(seed * 1000 + step % 997, size)

    def images(self, split):
        for number in range(self.held_out):
            yield self._batch((10**6 if split == "search" else 10**7) + number, 1)

    def describe(self):
        return {"held_out": self.held_out}

    def _batch(self, seed, size):
        phase = 6 * torch.rand(size, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
        return Batch({MAIN: torch.sin(phase + torch.linspace(0, 3, 16).view(16, 1) + torch.linspace(0, 2, 16))}, {})


def asked(**options):
    small = {"steps": 4, "population": 6, "iterations": 3, "shares": SHARES, "multiple_of": 1}
    return {"name": "once-for-all", **small, **options}


BATCH_NORM = "resnet-bn-zero"


def compress(name="resnet-in", *, out_dir=None, observers=(), data=None, pruner=None, distiller="pixel", **changes):
    fixed = {"budget": "2x", "steps": 2, "batch_size": 2, "device": "cpu", **changes}
    return gansdk.compress(
        generator(name),
        pruner=asked() if pruner is None else pruner,
        distiller=distiller,
        data=data or Waves(),
        out_dir=out_dir,
        observers=observers,
        **fixed,
    )


def test_the_student_of_a_search_need_not_be_trained_further(tmp_path):
    """It is carved from the shared weights and its norms are measured; a continued run finds it again."""
    seen = []
    shared = compress(BATCH_NORM, steps=0, out_dir=tmp_path, observers=[seen.append])
    assert [event.stage for event in seen if isinstance(event, StepDone)] == ["prepare-0"] * 4
    longer = compress(BATCH_NORM, steps=2)
    assert (shared.plan, shared.search, shared.history) == (longer.plan, longer.search, longer.history[:4])
    assert shared.settings["steps"] == 0
    repaired = torch.load(tmp_path / "run" / "recover.pt", weights_only=True)["student"]
    assert all(torch.equal(value, repaired[f"main/{name}"]) for name, value in shared.student.state_dict().items())
    again = compress(BATCH_NORM, steps=0, out_dir=tmp_path)
    assert all(map(torch.equal, again.student.state_dict().values(), shared.student.state_dict().values()))


# The space.


@pytest.mark.parametrize("name", NETS)
def test_choices_are_multiples_of_every_groups_shares_and_its_full_width(name):
    space = student_of(name).space
    subnets = subnets_of(student_of(name), shares=(0.5, 0.25), multiple_of=2)
    assert {position.name for position in subnets.positions} == {group.name for group in space.prunable}
    for position in subnets.positions:
        size = space.by_name[position.name].size
        assert position.choices[-1] == size
        assert list(position.choices) == sorted(set(position.choices))
        assert all(max(1, size // 4 - 2) <= choice <= max(2, size // 2) for choice in position.choices[:-1])


@pytest.mark.parametrize("name", NETS)
def test_wider_choices_keep_all_that_narrower_ones_do_and_the_best_channels_first(name):
    student = student_of(name)
    scores = {
        group.name: torch.rand(group.size, generator=torch.Generator().manual_seed(i)).numpy()
        for i, group in enumerate(student.space.prunable)
    }
    subnets = subnets_of(student, ranking=rank(scores))
    small, large = subnets.plan(subnets.smallest), subnets.plan(subnets.largest)
    assert large == student.space.full_plan()
    for group in student.space.prunable:
        kept = small[group.name]
        assert set(kept) <= set(large[group.name])
        lost = set(range(group.size)) - set(kept)
        assert not lost or min(scores[group.name][list(kept)]) >= max(scores[group.name][sorted(lost)])


def test_a_knob_sets_all_its_groups_and_leaves_the_others_their_own_choices():
    space = student_of().space
    first, second, *others = space.prunable
    factors = [(group.name, group.size // 2) for group in (first, second)]
    knobs = (Knob(name="both", choices=(1, 2), widths=tuple(factors)),)
    space = replace(space, knobs=knobs)
    subnets = Subnets(space, positions_of(space))
    assert [position.name for position in subnets.positions] == ["both", *(group.name for group in others)]
    plan = subnets.plan((1, *subnets.largest[1:]))
    assert [plan.width(group) for group in (first, second)] == [factor for _, factor in factors]
    assert all(plan.width(group) == group.size for group in others)


@pytest.mark.parametrize("name", NETS)
def test_every_sampled_plan_is_one_of_the_space_and_carves_to_what_its_elastic_view_computes(name):
    student, entry = student_of(name), network(name)
    subnets, rng, x = subnets_of(student), Random(3), entry.example()
    student.train(False)
    for _ in range(3):
        plan = subnets.plan(subnets.draw(rng))
        plan.check(student.space)
        carved = student.carve(plan)
        carved.train(False)
        student.activate(plan)
        with torch.no_grad():
            expected, found = student.observe(x).image, carved.observe(x).image
        assert torch.allclose(expected, found, atol=1e-5 * float(expected.abs().max()))
        assert carved.cost(carved.space.full_plan()) == student.cost(plan)


# Training the shared weights.


@pytest.mark.parametrize("name", ["resnet-in", "resnet-bn-zero"])
def test_a_sampled_step_leaves_no_gradient_on_inactive_channels_and_some_on_active_ones(name):
    student = student_of(name)
    subnets = subnets_of(student)
    activate = OnceForAll(steps=1).sampler(student, subnets, seed=0)
    activate(1)
    assert student.plan != student.space.full_plan()
    student.train()
    student.observe(network(name).example()).image.square().sum().backward()
    slices = {
        tensor: dims
        for tensor, dims in student.space.axes_of.items()
        if tensor in dict(student.module.named_parameters())
    }
    checked = 0
    for tensor, dims in slices.items():
        gradient = student.module.get_parameter(tensor).grad
        for dim, rows in dims.items():
            for group, axis in rows:
                lost = sorted(set(range(group.size)) - set(student.plan[group.name]))
                for channel in lost:
                    part = gradient.narrow(dim, axis.start + channel * axis.unit, axis.unit)
                    assert not part.any(), tensor
                    checked += 1
        assert gradient.isfinite().all()
    assert checked
    assert any(parameter.grad.any() for parameter in student.parameters())


def test_widths_follow_from_seed_and_step_alone_and_cover_all_choices():
    student = student_of()
    subnets = subnets_of(student)

    def at(steps, seed=0, **options):
        seen = []
        activate = OnceForAll(steps=1, **options).sampler(student, subnets, seed)
        for step in steps:
            activate(step)
            seen.append(student.plan)
        return seen

    assert at([5, 3]) == list(reversed(at([3, 5])))
    assert at(range(8)) != at(range(8), seed=1)
    for group in student.space.prunable:
        widths = {plan.width(group) for plan in at(range(60))}
        position = next(position for position in subnets.positions if position.name == group.name)
        assert widths == set(position.choices)


def test_sandwich_trains_the_largest_and_the_smallest_in_turn_with_random_ones():
    student = student_of()
    subnets = subnets_of(student)
    activate = OnceForAll(steps=1, sampling="sandwich").sampler(student, subnets, seed=0)
    plans = []
    for step in range(8):
        activate(step)
        plans.append(student.plan)
    full, least = subnets.plan(subnets.largest), subnets.plan(subnets.smallest)
    assert plans[::4] == [full, full]
    assert plans[2::4] == [least, least]
    assert len({*plans[1::2]} - {full, least}) > 1


# Whole runs.


def widths(result):
    return result.plan.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("distiller", ["pixel", ["gka", "pixel"]])
def test_a_whole_run_gives_a_trained_student_within_the_budget(distiller, tmp_path):
    seen = []
    result = compress(distiller=distiller, out_dir=tmp_path, observers=[seen.append], pruner=asked(steps=6))
    full = result.before
    assert result.after.macs <= full.macs / 2
    assert [event.stage for event in seen if isinstance(event, StepDone)] == 6 * ["prepare-0"] + 2 * ["distil-0"]
    told = [event for event in seen if isinstance(event, SearchStep)]
    assert [event.generation for event in told] == [1, 2, 3, 4]
    rows = [json.loads(line) for line in (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()]
    assert len({tuple(row["config"]) for row in rows}) == len(rows) == told[-1].scored
    assert all(row["macs"] <= full.macs / 2 for row in rows)
    assert told[-1].best == min(row["score"] for row in rows)
    assert told[-1].cost == result.after
    assert (result.after.macs, told[-1].best) in told[-1].front


def test_the_same_seed_gives_the_same_student_and_another_seed_another_search(tmp_path):
    one, two, other = compress(), compress(), compress(seed=3)
    assert widths(one) == widths(two)
    assert all(map(torch.equal, one.student.state_dict().values(), two.student.state_dict().values()))
    assert one.history == two.history != other.history


def test_the_exhaustive_search_finds_what_brute_force_finds(tmp_path):
    """Without training, so that the scores can be taken again outside of the run."""
    pruner = asked(steps=0, shares=(0.5,), search="exhaustive", order="prefix", calibration=0)
    result = compress(pruner=pruner, budget="1.5x")
    student = student_of()
    limits = Budget.parse("1.5x").resolve(student.cost(student.space.full_plan()))
    student.train(False)
    full = student.space.full_plan()
    subnets = subnets_of(student, shares=(0.5,))

    def score(plan):
        total = 0.0
        for batch in Waves().images("search"):
            images = []
            for chosen in (plan, full):
                student.activate(chosen)
                with torch.no_grad():
                    images.append(student.observe(batch.inputs[MAIN]).image)
            total += float((images[0] - images[1]).abs().mean())
        return total

    plans = [subnets.plan(config) for config in itertools.product(*subnets.choices)]
    fitting = [plan for plan in plans if limits.fits(student.cost(plan))]
    assert 1 < len(fitting) < len(plans)
    assert widths(result) == min(fitting, key=score).to_dict()


def running(module):
    return torch.cat([value.flatten() for key, value in module.state_dict().items() if "running_" in key])


def test_students_of_tracked_norms_leave_with_statistics_of_their_own():
    """Without calibration they are a slice of the teacher's."""
    student = student_of(BATCH_NORM)
    kept = compress(BATCH_NORM, pruner=asked(calibration=0, order="prefix"))
    own = compress(BATCH_NORM, pruner=asked(calibration=4, order="prefix"))
    assert torch.equal(running(kept.student), running(student.carve(kept.plan).module))
    teachers = running(student.carve(own.plan).module)
    assert (running(own.student) - teachers).abs().min() > 1e-6
    assert torch.equal(running(own.teacher), running(generator(BATCH_NORM).module))


class Killed(Exception):
    """Raised by an observer in place of a kill."""


@pytest.mark.slow
@pytest.mark.parametrize(("after", "name"), [("training", BATCH_NORM), (1, BATCH_NORM), (3, "resnet-in")])
def test_a_run_killed_in_training_or_between_generations_ends_as_the_straight_one(after, name, tmp_path):
    def die(event):
        if isinstance(event, StepDone) and after == "training" and event.step == 3:
            raise Killed
        if isinstance(event, SearchStep) and event.generation == after:
            raise Killed

    straight = compress(name, out_dir=tmp_path / "straight")
    with pytest.raises(Killed):
        compress(name, out_dir=tmp_path / "killed", observers=[die])
    resumed = compress(name, out_dir=tmp_path / "killed")
    assert widths(resumed) == widths(straight)
    assert all(map(torch.equal, resumed.student.state_dict().values(), straight.student.state_dict().values()))
    assert scored(tmp_path / "killed") == scored(tmp_path / "straight")


def scored(out_dir):
    rows = [json.loads(line) for line in (out_dir / "run" / "candidates.jsonl").read_text().splitlines()]
    return [(row["config"], row["macs"], row["score"]) for row in rows]


@pytest.mark.slow
def test_a_search_killed_within_a_generation_or_a_line_scores_only_what_is_missing(tmp_path):
    straight = compress(out_dir=tmp_path)
    whole = scored(tmp_path)
    file = tmp_path / "run" / "candidates.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:7])
    for state in ("search.pt", "recover.pt", "distil-0.pt"):
        (tmp_path / "run" / state).unlink()
    resumed = compress(out_dir=tmp_path)
    assert scored(tmp_path) == whole
    assert file.read_text().splitlines(keepends=True)[:5] == lines[:5]
    assert widths(resumed) == widths(straight)


def test_a_resumed_search_with_other_settings_is_refused_and_the_difference_shown(tmp_path):
    compress(out_dir=tmp_path)
    with pytest.raises(ResumeMismatch, match=r"settings \(pruner\.population: 6 there, 8 now\)"):
        compress(out_dir=tmp_path, pruner=asked(population=8))
    with pytest.raises(ResumeMismatch, match=r"settings \(pruner\.search: 'auto' there, 'exhaustive' now\)"):
        compress(out_dir=tmp_path, pruner=asked(search="exhaustive"))
    with pytest.raises(ResumeMismatch, match=r"settings \(pruner: \S+OnceForAll there, \S+OneStep now\)"):
        compress(out_dir=tmp_path, pruner="one-step")


def test_a_run_is_continued_with_the_very_instances_that_went_through_its_first_start(tmp_path):
    def die(event):
        if isinstance(event, SearchStep):
            raise Killed

    parts = {"pruner": open_pruner(asked()), "distiller": open_distillers(["feature", "pixel", "gka"])}
    with pytest.raises(Killed):
        compress(out_dir=tmp_path, observers=[die], **parts)
    continued = compress(out_dir=tmp_path, **parts)
    fresh = compress(pruner=open_pruner(asked()), distiller=open_distillers(["feature", "pixel", "gka"]))
    assert all(map(torch.equal, continued.student.state_dict().values(), fresh.student.state_dict().values()))


def test_a_search_under_way_can_be_ended_by_a_time_limit(tmp_path):
    def die(event):
        if isinstance(event, SearchStep) and event.generation == 1 and not event.left:
            raise Killed

    with pytest.raises(Killed):
        compress(out_dir=tmp_path, observers=[die])
    before = scored(tmp_path)
    with pytest.warns(GansdkWarning, match="stopped at max_minutes"):
        result = compress(out_dir=tmp_path, pruner=asked(max_minutes=1e-9))
    assert scored(tmp_path) == before
    assert result.after.macs == min(before, key=lambda row: (row[2], row[1]))[1]


@pytest.mark.filterwarnings("always::gansdk.errors.GansdkWarning")
def test_norms_that_nobody_measured_are_warned_of_unless_that_is_asked_for():
    config = [2] * len(subnets_of(student_of(BATCH_NORM)).positions)
    for calibration, told in ((16, True), (0, False)):
        pruner = asked(steps=0, config=config, order="prefix", calibration=calibration)
        result = gansdk.compress(generator(BATCH_NORM), budget="1.01x", pruner=pruner, distiller=None, device="cpu")
        assert any("no images to compute" in warning for warning in result.warnings) == told


def test_shared_weights_that_a_training_broke_are_told_from_a_wrong_trace(monkeypatch):
    def broken(run, steps, *, before_step=None):
        with torch.no_grad():
            next(run.student.parameters()).fill_(math.nan)

    monkeypatch.setattr(CompressionRun, "distil", broken)
    with pytest.raises(TrainingDiverged, match="smaller learning_rate"):
        compress(pruner=asked(config=[2] * len(subnets_of(student_of()).positions)), budget="1.01x")


def test_a_time_limit_ends_the_search_with_the_best_so_far_and_says_so(tmp_path):
    seen = []
    with pytest.warns(GansdkWarning, match=r"max_minutes=1e-09 in generation 1 of 4, with 1 subnets scored"):
        result = compress(out_dir=tmp_path, pruner=asked(max_minutes=1e-9), observers=[seen.append])
    rows = scored(tmp_path)
    assert len(rows) == 1
    assert result.after.macs == rows[0][1]
    assert any("max_minutes" in warning for warning in result.warnings)
    (told,) = [event for event in seen if isinstance(event, SearchStep)]
    assert (told.scored, told.left) == (1, 5)
    (row,) = result.search
    assert row["front"] == [[rows[0][1], rows[0][2]]]


def test_a_search_tells_its_progress_within_a_generation_too(monkeypatch):
    monkeypatch.setattr("gansdk_pruners.scoring.TELL_S", 0.0)
    seen = []
    pruner = asked(steps=0, shares=(0.5,), search="exhaustive", order="prefix")
    result = compress(pruner=pruner, budget="1.5x", observers=[seen.append])
    told = [event for event in seen if isinstance(event, SearchStep)]
    assert {event.generation for event in told} == {1}
    assert [event.left for event in told] == list(range(len(told) - 1, -1, -1))
    assert [event.scored for event in told] == list(range(1, len(told) + 1))
    assert len(told) > 2
    (row,) = result.search
    assert (row["scored"], row["left"]) == (len(told), 0)


@pytest.mark.parametrize("images", [3, 12])
def test_subnets_are_scored_on_as_many_held_out_images_as_asked_for_and_the_report_says_so(images, monkeypatch):
    looked_at = []
    score = CompressionRun.score

    def counted(run, plan):
        looked_at.append(run.scored_images)
        return score(run, plan)

    monkeypatch.setattr(CompressionRun, "score", counted)
    result = compress(data=Waves(14), pruner=asked(steps=0, scored_images=images, iterations=0))
    assert set(looked_at) == {images}
    assert f"mean absolute error on {images} held-out images" in result.search[-1]["measure"]
    assert result.search[-1]["measure"] in unescape(render_html(result))


# One configuration.


def test_what_a_search_found_can_be_read_in_the_report_and_carved_again():
    found = compress(pruner=asked(steps=0))
    row = found.search[-1]
    assert f"<code>{row['config']}</code>" in render_html(found)
    assert len(row["positions"]) == len(row["config"].split("_"))
    named = dict(zip(row["positions"], map(int, row["config"].split("_")), strict=True))
    for config in (row["config"], list(named.values()), named):
        again = compress(pruner=asked(steps=0, config=config))
        assert widths(again) == widths(found)
        assert again.search == []


def test_a_published_configuration_is_carved_without_images_or_training():
    module = ResNetGenerator(ResNetSizes.of(8, blocks=3)).eval()
    config = "2_3_4_2_4_6_2_1"
    pruner = {"name": "once-for-all", "steps": 0, "config": config, "order": "prefix", "calibration": 0}
    space = ElasticStudent.of(open_generator(module)).space
    found = gansdk.plan(module, "4x", pruner)
    assert found.plan == plan_of(space, config)
    assert spelled(config_of(space, found.plan)) == config


def test_shared_weights_are_trained_before_a_given_configuration_is_carved():
    seen = []
    count = len(subnets_of(student_of()).positions)
    result = compress(pruner=asked(config=[1] * count), observers=[seen.append])
    assert [event.stage for event in seen if isinstance(event, StepDone)].count("prepare-0") == 4
    assert {len(kept) for kept in (result.plan[group.name] for group in result.space.prunable)} == {1}


@pytest.mark.parametrize(
    ("config", "budget", "message"),
    [
        ("1_2", "2x", "2 values, but"),
        ("x", "2x", "integers"),
        (3.5, "2x", "config=3.5 must be text, an integer, a list of integers or a mapping"),
        ({"nothing": 1}, "2x", "no knob 'nothing'"),
        ({}, "2x", "exceeds the budget: macs"),
    ],
)
def test_a_configuration_that_is_none_or_over_the_budget_is_refused_before_training(config, budget, message):
    seen = []
    with pytest.raises(InvalidOption, match=message):
        compress(pruner=asked(config=config), budget=budget, observers=[seen.append])
    assert not any(isinstance(event, StepDone) for event in seen)


# How small it gets.


def resnet(width, blocks=9):
    return ResNetGenerator(ResNetSizes.of(width, blocks=blocks)).eval()


@pytest.mark.parametrize("model", ["demo", 16, 24])
def test_default_options_reach_a_sixteenth_of_the_macs(model):
    """A search without images is refused only after the budget was found to be in reach."""
    with pytest.raises(MissingData):
        gansdk.plan(model if model == "demo" else resnet(model), "16x", "once-for-all")


def papers_student():
    """A ResNet-9 of the papers' width, as far as a budget looks at it."""
    with torch.device("meta"):
        module = resnet(64)
    space = trace(module, torch.empty(1, 3, 256, 256, device="meta"), {}, {}, Pix2Pix().knobs(module))
    model = CostModel(space)
    return SimpleNamespace(space=space, cost=model.cost), Budget.parse("16x").resolve(model.cost(Plan()))


class WithoutImages:
    def probe_batches(self, count):
        return None


def test_the_published_space_reaches_lower_only_for_a_budget_below_it_and_with_a_warning():
    student, limits = papers_student()
    with pytest.warns(GansdkWarning, match="8_8_8_8_8_8_8_8 instead of 16_16"), pytest.raises(MissingData):
        OnceForAll().prepare(student, [limits], WithoutImages())
    with pytest.raises(BudgetUnreachable, match=r"the pruner's options space='auto' or shares="):
        OnceForAll(space="knobs").prepare(student, [limits], WithoutImages())
    at_12 = replace(limits, macs=limits.macs * 16 // 12)
    pruner = OnceForAll()
    with pytest.raises(MissingData):
        pruner.prepare(student, [at_12], WithoutImages())
    assert set(pruner._subnets.choices) == {(16, 24, 32, 40, 48, 56, 64)}


def test_given_shares_and_multiples_hold_for_knobs_too():
    space = papers_student()[0].space
    assert {p.choices for p in positions_of(space, shares=(0.5, 0.1))} == {(4, 32, 64)}
    assert {p.choices for p in positions_of(space, multiple_of=16)} == {(8, 16, 32, 48, 64)}


def test_every_group_may_have_a_width_of_its_own_where_knobs_would_set_several():
    space = papers_student()[0].space
    positions = positions_of(space, "groups")
    assert [position.name for position in positions] == [group.name for group in space.prunable]
    tied = replace(space, knobs=tuple(replace(knob, tied=True) for knob in space.knobs))
    assert positions_of(tied, "groups") == tied.knobs
    with pytest.raises(InvalidOption, match="space='knobs', but the adapter names no knobs"):
        positions_of(replace(space, knobs=()), "knobs")


def test_a_budget_below_the_smallest_subnet_is_refused_by_the_names_of_the_pruners_options():
    for options, advice in (
        ({"shares": (0.75,), "multiple_of": 2}, r"give the pruner shares below 0\.75 or multiple_of below 2\.$"),
        ({"shares": (0.75,)}, r"or give the pruner shares below 0\.75\.$"),
    ):
        with pytest.raises(BudgetUnreachable, match=advice):
            compress(pruner=asked(**options))


# Refusals.


def test_a_search_in_which_no_width_gives_a_finite_image_is_refused(tmp_path, monkeypatch):
    """Of subnets: a teacher that gives none is refused before."""

    def broken(run, steps, *, before_step=None):
        with torch.no_grad():
            for parameter in run.student.parameters():
                parameter.fill_(math.nan)

    monkeypatch.setattr(CompressionRun, "distil", broken)
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        compress(out_dir=tmp_path)
    assert {score for _, _, score in scored(tmp_path)} == {None}


def test_a_budget_below_the_smallest_subnet_is_refused_before_any_work():
    student = student_of()
    limits = Budget.parse("macs<=1").resolve(student.cost(student.space.full_plan()))
    with pytest.raises(BudgetUnreachable) as refused:
        open_pruner(asked()).prepare(student, [limits], run=None)
    subnets = subnets_of(student)
    assert refused.value.floor["macs"] == student.cost(subnets.plan(subnets.smallest)).macs


def test_a_space_without_a_choice_is_refused_with_what_to_change():
    with pytest.raises(NothingPruned, match="multiple_of=1"):
        compress(pruner=asked(shares=(1.0,)))


@pytest.mark.parametrize(
    ("limit", "message"), [("MOST_LISTED", "at most 100 are allowed"), ("MOST_SCORED", "within the")]
)
def test_an_exhaustive_search_of_a_space_too_large_is_refused_before_any_work(limit, message, monkeypatch):
    monkeypatch.setattr(f"gansdk_pruners.reach.{limit}", 100)
    seen = []
    with pytest.raises(InvalidOption, match=rf"exhaustive.* subnets.*{message}.*search='evolution'"):
        compress(pruner=asked(search="exhaustive"), observers=[seen.append])
    assert not any(isinstance(event, StepDone) for event in seen)


@pytest.mark.parametrize("held_out", [0, 1])
def test_fewer_than_two_held_out_images_are_refused_before_training(held_out):
    seen = []
    with pytest.raises(DataError, match=f"holds {held_out} image"):
        compress(data=Waves(held_out), observers=[seen.append])
    assert not any(isinstance(event, StepDone) for event in seen)


def test_a_search_without_images_is_refused():
    with pytest.raises(MissingData, match="one-step"):
        gansdk.plan(generator(), "2x", asked(steps=0))


def test_training_without_a_distiller_and_in_a_dry_run_is_refused():
    with pytest.raises(IncompatibleParts, match="distiller=None"):
        compress(distiller=None)
    with pytest.raises(IncompatibleParts, match="dry_run"):
        compress(dry_run=True)


def test_a_budget_that_the_full_generator_meets_needs_no_search():
    seen = []
    with pytest.warns(GansdkWarning, match="'macs/1' allows the whole network, so nothing was pruned"):
        result = compress(budget="1x", observers=[seen.append])
    assert result.after == result.before
    assert not any(isinstance(event, SearchStep) for event in seen)


@pytest.mark.parametrize("damage", [{"score": 1.0}, {"config": [10**6]}, {"budget": 3}])
def test_a_damaged_note_of_a_candidate_is_refused_with_what_to_do(damage, tmp_path):
    pruner = asked(steps=0)
    compress(out_dir=tmp_path, pruner=pruner)
    (tmp_path / "run" / "search.pt").unlink()
    file = tmp_path / "run" / "candidates.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    row = damage if "score" in damage else json.loads(first) | damage
    file.write_text("".join([json.dumps(row) + "\n", *others]))
    with pytest.raises(CheckpointError, match=r"candidates\.jsonl' is damaged.*resume='never'"):
        compress(out_dir=tmp_path, pruner=pruner)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": -1},
        {"steps": True},
        {"space": "x"},
        {"shares": 0.5},
        {"shares": "half"},
        {"shares": []},
        {"shares": [math.nan]},
        {"multiple_of": 0},
        {"config": 0.5},
        {"parent_ratio": "x"},
        {"max_minutes": "abc"},
        {"max_minutes": True},
        {"max_minutes": math.inf},
        {"scored_images": 1},
        {"population": 1},
        {"mutate_prob": 2.0},
        {"shares": (0.5, -1)},
        {"sampling": "x"},
        {"order": "x"},
        {"importance": "x"},
        {"search": "x"},
        {"max_minutes": 0},
        {"calibration": -1},
    ],
)
def test_options_out_of_their_range_are_refused_by_name(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        open_pruner({"name": "once-for-all", **options})


# The papers' spaces.


@pytest.mark.parametrize(("family", "count"), [(Pix2Pix, 5_764_801), (CycleGAN, 390_625)])
def test_the_published_spaces_have_as_many_subnets_as_published(family, count):
    """GAN Compression's released settings "channels-64-pix2pix" and "channels-64-cycleGAN"."""
    with torch.device("meta"):
        module = ResNetGenerator(ResNetSizes.of(64, blocks=3)).eval()
    space = trace(module, torch.empty(1, 3, 32, 32, device="meta"), {}, {}, family().knobs(module))
    subnets = Subnets(space, positions_of(space))
    assert subnets.count == count
    assert subnets.smallest == (16,) * 8
    narrow = subnets.plan((16, 16, 24, 16, 32, 64, 16, 24))
    assert sorted({narrow.width(group) for group in space.prunable}) == [16, 24, 32, 64, 96, 128, 256]
