"""Costs in closed form equal what other counters measure on the carved module."""

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gansdk.budget.cost import Cost
from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import Plan
from gansdk.channels.tracing.trace import trace
from gansdk.testing.oracles import convolution_macs, measured_bytes, measured_macs, measured_params
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings, example, plans


@DETERMINISTIC
@given(carvings())
def test_predicted_cost_equals_the_cost_measured_on_the_carved_module(case: Carving):
    carved = carve(case.module, case.space, case.plan)
    cost = CostModel(case.space).cost(case.plan)
    assert cost.macs == measured_macs(carved, example(batch=1))
    assert cost.params == measured_params(carved)
    assert cost.bytes == measured_bytes(carved)


@DETERMINISTIC
@given(carvings())
def test_predicted_macs_equal_fvcores_count_of_convolutions_and_linear_layers(case: Carving):
    carved = carve(case.module, case.space, case.plan)
    predicted = CostModel(case.space).cost(case.plan).macs - case.space.fixed_macs
    assert predicted == convolution_macs(carved, example(batch=1))


@DETERMINISTIC
@given(carvings())
def test_paper_macs_equal_a_count_by_hooks_on_the_output_grid(case: Carving):
    carved = carve(case.module, case.space, case.plan)
    counted = _paper_macs(carved) + case.space.fixed_macs
    assert CostModel(case.space).cost(case.plan).paper_macs == counted


@DETERMINISTIC
@given(carvings())
def test_the_carved_space_predicts_the_same_cost_as_the_full_space(case: Carving):
    small = carve_space(case.space, case.plan)
    assert CostModel(small).cost(small.full_plan()) == CostModel(case.space).cost(case.plan)


@DETERMINISTIC
@given(carvings(), st.data())
def test_keeping_less_never_costs_more(case: Carving, data: st.DataObject):
    less = case.plan.then(data.draw(plans(carve_space(case.space, case.plan))))
    small, large = (CostModel(case.space).cost(plan) for plan in (less, case.plan))
    assert all(getattr(small, name) <= getattr(large, name) for name in Cost.__slots__)


@DETERMINISTIC
@given(carvings())
def test_cost_depends_on_widths_only(case: Carving):
    model = CostModel(case.space)
    prefix = Plan({group.name: tuple(range(case.plan.width(group))) for group in case.space.groups})
    assert model.cost(prefix) == model.cost(case.plan) == model.cost(case.plan.widths(case.space))


@DETERMINISTIC
@given(carvings())
def test_the_batch_of_the_example_does_not_change_the_cost(case: Carving):
    cost = CostModel(trace(case.module, example(batch=3))).cost(case.plan)
    assert cost == CostModel(case.space).cost(case.plan)


def _paper_macs(module: nn.Module) -> int:
    """torchprofile's rules: elements of the weight per output position, one per element of an InstanceNorm."""
    total = 0

    def count(part: nn.Module, args: object, y: object) -> None:
        nonlocal total
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            total += part.weight.numel() * y.shape[2] * y.shape[3]
        elif isinstance(part, nn.Linear):
            total += part.weight.numel() * (y.numel() // y.shape[-1])
        elif isinstance(part, nn.InstanceNorm2d) and not part.track_running_stats:
            total += y.numel()

    for part in module.modules():
        part.register_forward_hook(count)
    module(example(batch=1))
    return total
