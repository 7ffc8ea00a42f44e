"""One-step and uniform pruning, found by name as a user finds them."""

import pytest
import torch

import gansdk
from gansdk.budget import Budget
from gansdk.channels.select import floor_of
from gansdk.contracts import MAIN
from gansdk.errors import BudgetUnreachable, ContractError, GansdkError, GansdkWarning, IncompatibleParts
from gansdk.opening import open_pruner
from gansdk.student import ElasticStudent
from gansdk.testing.networks import network

NAMES = ["resnet-in-affine", "resnet-bn-zero", "unet-bn", "srresnet-slopes", "edsr", "rrdb"]


class Probing:
    """The part of a run that pruners ask: probe images and the task, from a fixed seed."""

    seed = 0

    def __init__(self, student, count=4):
        shape = student.contract.example_shape
        rng = torch.Generator().manual_seed(1)
        self.batches = [
            gansdk.Batch(
                {MAIN: (x := torch.rand(shape, generator=rng))},
                {
                    MAIN: student.observe(x).image.detach()
                    + 0.1 * torch.randn(student.observe(x).image.shape, generator=rng)
                },
            )
            for _ in range(count)
        ]
        self.contract = student.contract
        self.task = gansdk.adapter.ReconstructionTask()
        self.rng = rng

    def probe_batches(self, count):
        return self.batches


class Dataless:
    seed = 0

    def probe_batches(self, count):
        return None


@pytest.fixture
def student(request):
    entry = network(request.param)
    module = entry.build()
    with torch.no_grad():
        out = module(entry.example())
    contract = gansdk.Contract(
        channels_in=entry.shape[1],
        channels_out=out.shape[1],
        size=tuple(entry.shape[2:]),
        scale=out.shape[2] // entry.shape[2],
    )
    return ElasticStudent.of(gansdk.wrap(module, contract=contract))


students = pytest.mark.parametrize("student", NAMES, indirect=True)


def limits(student, budget):
    return Budget.parse(budget).resolve(student.cost(student.space.full_plan()))


@students
@pytest.mark.parametrize("pruner", ["one-step", "uniform"])
def test_a_plan_fits_the_budget_and_keeps_every_floor_and_every_frozen_group(student, pruner):
    plan = open_pruner(pruner).search(student, limits(student, "1.5x"), Probing(student))
    assert limits(student, "1.5x").fits(student.cost(plan))
    for group in student.space.groups:
        assert plan.width(group) >= (group.size if group.frozen else floor_of(group, 0.0))


@students
def test_the_same_seed_gives_the_same_plan_and_a_larger_budget_keeps_a_superset(student):
    found = [
        open_pruner("one-step").search(student, limits(student, b), Probing(student)) for b in ("1.5x", "1.5x", "1.2x")
    ]
    assert found[0] == found[1]
    assert all(set(found[0][name]) <= set(found[2][name]) for name in found[0])


@students
def test_a_budget_below_the_floor_names_the_floor(student):
    with pytest.raises(BudgetUnreachable) as caught:
        open_pruner("one-step").search(student, limits(student, "macs<=1"), Probing(student))
    assert caught.value.floor["macs"] > 1


@pytest.mark.parametrize("student", ["resnet-bn-zero"], indirect=True)
def test_without_images_weights_rank_and_a_warning_says_so(student):
    with pytest.warns(GansdkWarning, match="no images"):
        plan = open_pruner("one-step").search(student, limits(student, "1.5x"), Dataless())
    assert limits(student, "1.5x").fits(student.cost(plan))


@pytest.mark.parametrize("importance", ["gauss-newton", "taylor", "norm-scale", "consumer-norm", "torch-pruning"])
@pytest.mark.parametrize("allocation", ["global", "per-layer"])
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
        {"no": 1},
    ],
)
def test_unknown_options_are_refused_by_name(options):
    with pytest.raises(GansdkError, match=next(iter(options))):
        open_pruner({"name": "one-step", **options})


@pytest.mark.parametrize("student", ["resnet-in"], indirect=True)
@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (-1, 0), (0, 99)])
def test_a_malformed_plan_of_a_plugin_is_refused_in_words(student, kept):
    name = student.space.prunable[0].name
    with pytest.raises(ContractError, match="ids must ascend"):
        gansdk.Plan({name: kept}).check(student.space)


@pytest.mark.parametrize("student", ["resnet-in"], indirect=True)
def test_a_plan_that_names_an_unknown_or_cuts_a_frozen_group_is_refused(student):
    with pytest.raises(ContractError, match="does not have"):
        gansdk.Plan({"nowhere": (0,)}).check(student.space)
    with pytest.raises(ContractError, match="image input"):
        gansdk.Plan({"input": (0,)}).check(student.space)
