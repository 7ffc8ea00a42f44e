"""One-step and uniform pruning, found by name as a user finds them."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch

import gansdk
from gansdk.budget.budget import Budget
from gansdk.budget.cost import Limits
from gansdk.channels.select import FLOOR_SHARE, TARGET_USE, floor_of
from gansdk.contracts import MAIN, Contract
from gansdk.errors import (
    BudgetUnreachable,
    ContractError,
    GansdkWarning,
    IncompatibleParts,
    InvalidOption,
    MissingData,
    NothingPruned,
)
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.pipeline.checks import floor_plan
from gansdk.registry.parts import open_pruner
from gansdk.testing.networks import NETWORKS, network

IMAGE_TO_IMAGE = [entry.name for entry in NETWORKS if len(entry.shape) == 4 and entry.name != "two-outputs"]


@cache
def student_of(name: str) -> ElasticStudent:
    """Shared by the tests: pruners may activate plans, never change weights."""
    entry = network(name)
    module = entry.build()
    with torch.no_grad():
        out = module(entry.example())
    contract = Contract(
        channels_in=entry.shape[1],
        channels_out=out.shape[1],
        size=tuple(entry.shape[2:]),
        scale=out.shape[2] // entry.shape[2],
    )
    return ElasticStudent.of(gansdk.wrap(module, contract=contract, taps={}))


PRUNABLE = [name for name in IMAGE_TO_IMAGE if student_of(name).space.prunable]
FROZEN = [name for name in IMAGE_TO_IMAGE if name not in PRUNABLE]
students = pytest.mark.parametrize("student", PRUNABLE, indirect=True)
pruners = pytest.mark.parametrize("pruner", ["one-step", "uniform"])
budgets = pytest.mark.parametrize("budget", ["2x", "4x"])


@pytest.fixture
def student(request: pytest.FixtureRequest) -> ElasticStudent:
    return student_of(request.param)


class Probing:
    """The part of a run that pruners ask: probe images and the task, from a fixed seed."""

    seed = 0
    task = gansdk.generators.wrapping.ReconstructionTask()

    def __init__(self, student, count=3, targets=True):
        rng = torch.Generator().manual_seed(1)
        self.batches = []
        for _ in range(count):
            x = torch.rand(student.contract.example_shape, generator=rng)
            y = student.observe(x).image.detach()
            y = y + 0.1 * torch.randn(y.shape, generator=rng)
            self.batches.append(gansdk.Batch({MAIN: x}, {MAIN: y} if targets else {}))

    def probe_batches(self, count):
        return [self.batches[i % len(self.batches)] for i in range(count)]

    def note(self, name, row):
        return row

    def notes(self, name):
        return []

    def emit(self, event):
        pass


class Dataless:
    seed = 0

    def probe_batches(self, count):
        return None

    def synthetic_batches(self, count):
        return []


def limits(student: ElasticStudent, budget: str) -> Limits:
    return Budget.parse(budget).resolve(student.cost(student.space.full_plan()))


def search(student, budget="1.5x", pruner="one-step", **options):
    ranking = {"trials": 0} if pruner == "one-step" else {}
    made = open_pruner({"name": pruner, **ranking, **options})
    return made.search(student, limits(student, budget), Probing(student))


def can_reach(student, budget):
    return limits(student, budget).fits(student.cost(floor_plan(student.space)))


@students
@pruners
@budgets
def test_a_plan_fits_the_budget_or_the_error_names_the_floor(student, pruner, budget):
    if not can_reach(student, budget):
        with pytest.raises(BudgetUnreachable) as refused:
            search(student, budget, pruner)
        assert refused.value.floor["macs"] > limits(student, budget).macs
        return
    plan = search(student, budget, pruner)
    plan.check(student.space)
    assert limits(student, budget).fits(student.cost(plan))
    share = FLOOR_SHARE if pruner == "one-step" else 0.0
    assert all(plan.width(group) >= floor_of(group, share) for group in student.space.prunable)


@students
@pruners
@budgets
def test_a_budget_is_used_to_95_percent_or_as_far_as_the_networks_steps_allow(student, pruner, budget):
    if not can_reach(student, budget):
        return
    plan, allowed = search(student, budget, pruner), limits(student, budget)
    widths = plan.widths(student.space)
    steps = [
        student._costs.cost({**widths, group.name: widths[group.name] + 1})
        for group in student.space.prunable
        if widths[group.name] < group.size
    ]
    assert allowed.usage(student.cost(plan)) >= TARGET_USE or not all(allowed.fits(step) for step in steps)


@students
@pruners
def test_the_same_seed_gives_the_same_plan_and_a_larger_budget_keeps_a_superset(student, pruner):
    reachable = [budget for budget in ("3x", "2x", "1.5x", "1.2x", "1x") if can_reach(student, budget)]
    plans = [search(student, budget, pruner) for budget in reachable]
    assert plans[0] == search(student, reachable[0], pruner)
    for smaller, larger in itertools.pairwise(plans):
        assert all(set(smaller[name]) <= set(larger[name]) for name in smaller)
    assert plans[-1] == student.space.full_plan()


@students
def test_searching_changes_no_weight_and_moves_no_global_random_number(student):
    weights = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    before = torch.get_rng_state()
    search(student, "1.2x" if can_reach(student, "1.2x") else "1x")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.module.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())


@students
@pruners
def test_a_budget_below_the_floor_is_refused_before_any_image_is_asked_for(student, pruner):
    with pytest.raises(BudgetUnreachable) as caught:
        open_pruner(pruner).search(student, limits(student, "macs<=1"), run=None)
    assert caught.value.floor["macs"] > 1


@pytest.mark.parametrize("student", FROZEN, indirect=True)
@pruners
def test_a_network_whose_groups_are_all_frozen_is_refused_with_the_reasons(student, pruner):
    with pytest.raises(NothingPruned) as caught:
        search(student, "2x", pruner)
    assert len(caught.value.reasons) == len(student.space.groups)


@pytest.mark.parametrize("student", ["resnet-in-affine"], indirect=True)
def test_uniform_keeps_the_first_channels_of_every_group_by_one_factor(student):
    plan = search(student, "2x", "uniform")
    shares = [plan.width(group) / group.size for group in student.space.prunable]
    assert all(plan[group.name] == tuple(range(plan.width(group))) for group in student.space.prunable)
    steps = [1 / group.size for group in student.space.prunable]
    assert max(shares) - min(shares) <= max(steps)
    assert min(shares) < 1


@pytest.mark.parametrize("student", ["edsr"], indirect=True)
def test_per_layer_allocation_cuts_every_group_by_about_the_same_share(student):
    plan = search(student, "2x", allocation="per-layer", multiple_of=1)
    rounding = [1 / group.size for group in student.space.prunable]
    shares = [plan.width(group) / group.size for group in student.space.prunable]
    assert max(shares) - min(shares) <= 2 * max(rounding)


@pytest.mark.parametrize("student", ["edsr"], indirect=True)
def test_global_allocation_follows_the_scores_across_groups(student, monkeypatch):
    """The most important group by far, with every channel of it equal, keeps what unequal groups lose."""
    from gansdk_pruners.importance import IMPORTANCES

    spared, *others = student.space.prunable
    scores = {group.name: np.geomspace(1e-3, 1.0, group.size) for group in others}
    scores[spared.name] = np.full(spared.size, 100.0)
    monkeypatch.setitem(IMPORTANCES, "consumer-norm", lambda student, run: scores)
    plan = search(student, "1.2x", importance="consumer-norm", allocation="global", multiple_of=1)
    assert plan.width(spared) == spared.size
    assert all(set(plan[group.name]) == set(range(group.size - plan.width(group), group.size)) for group in others)


@pytest.mark.parametrize("student", ["srresnet-slopes"], indirect=True)
def test_taylor_without_ground_truth_is_refused(student):
    with pytest.raises(MissingData, match="gauss-newton"):
        open_pruner({"name": "one-step", "importance": "taylor"}).search(
            student, limits(student, "1.5x"), Probing(student, targets=False)
        )


@pytest.mark.parametrize("importance", ["gauss-newton", "taylor"])
@pytest.mark.parametrize("student", ["srresnet-slopes"], indirect=True)
def test_an_importance_that_needs_images_is_refused_without_them(student, importance):
    with pytest.raises(MissingData, match="consumer-norm"):
        open_pruner({"name": "one-step", "importance": importance}).search(student, limits(student, "1.5x"), Dataless())


@pytest.mark.parametrize("student", ["resnet-bn-zero"], indirect=True)
def test_without_images_weights_rank_and_a_warning_says_so(student):
    with pytest.warns(GansdkWarning, match="no images"):
        plan = open_pruner("one-step").search(student, limits(student, "1.5x"), Dataless())
    assert limits(student, "1.5x").fits(student.cost(plan))


@pytest.mark.parametrize("importance", ["gauss-newton", "taylor", "norm-scale", "consumer-norm", "torch-pruning"])
@pytest.mark.parametrize("allocation", ["auto", "cost", "global", "per-layer"])
@pytest.mark.parametrize("student", ["resnet-in-affine"], indirect=True)
def test_every_importance_leads_to_a_plan_within_the_budget(student, importance, allocation):
    pruner = open_pruner({"name": "one-step", "importance": importance, "allocation": allocation})
    plan = pruner.search(student, limits(student, "1.5x"), Probing(student))
    assert limits(student, "1.5x").fits(student.cost(plan))


@pytest.mark.parametrize("student", ["resnet-in-affine"], indirect=True)
def test_the_threshold_rule_runs_on_any_channel_groups(student):
    pruner = open_pruner({"name": "one-step", "importance": "norm-scale", "selection": "threshold"})
    plan = pruner.search(student, limits(student, "1.5x"), Probing(student))
    assert limits(student, "1.5x").fits(student.cost(plan))


@pytest.mark.parametrize("student", ["edsr"], indirect=True)
def test_norm_scales_are_refused_where_there_are_no_norms(student):
    with pytest.raises(IncompatibleParts, match="gauss-newton"):
        open_pruner({"name": "one-step", "importance": "norm-scale"}).search(
            student, limits(student, "1.5x"), Probing(student)
        )


@pytest.mark.parametrize(
    "options",
    [
        {"importance": "magic"},
        {"allocation": "x"},
        {"selection": "x"},
        {"recovery": "x"},
        {"multiple_of": 0},
        {"multiple_of": "8"},
        {"floor_share": "half"},
        {"floor_width": True},
        {"no": 1},
    ],
)
def test_unknown_options_are_refused_by_name(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        open_pruner({"name": "one-step", **options})


def test_the_baseline_knows_what_can_be_inherited():
    with pytest.raises(InvalidOption, match="inherit='x'"):
        open_pruner({"name": "uniform", "inherit": "x"})


@pytest.mark.parametrize("student", ["resnet-in"], indirect=True)
@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (-1, 0), (0, 99)])
def test_a_malformed_plan_of_a_plugin_is_refused_in_words(student, kept):
    name = student.space.prunable[0].name
    with pytest.raises(ContractError, match="ids must ascend" if kept else "keeps no channel of group"):
        gansdk.Plan({name: kept}).check(student.space)


@pytest.mark.parametrize("student", ["resnet-in"], indirect=True)
def test_a_plan_that_names_an_unknown_or_cuts_a_frozen_group_is_refused(student):
    with pytest.raises(ContractError, match="does not have"):
        gansdk.Plan({"nowhere": (0,)}).check(student.space)
    with pytest.raises(ContractError, match="image input"):
        gansdk.Plan({"input": (0,)}).check(student.space)
