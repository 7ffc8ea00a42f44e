"""Every network of the zoo: what is found prunable, and that carving, the elastic view and costs are right on it."""

from functools import cache

import pytest
import torch
from torch import nn

from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import ChannelGroup, Plan, Space
from gansdk.channels.tracing.trace import trace
from gansdk.modules.fold import copy_module, fold
from gansdk.testing.networks import NETWORKS, Network, network
from gansdk.testing.oracles import (
    convolution_macs,
    measured_bytes,
    measured_macs,
    measured_params,
    outputs_of,
    relative_error,
    saturation,
    spread,
    zero_consumers,
)

zoo = pytest.mark.parametrize("entry", NETWORKS, ids=lambda entry: entry.name)
seeds = pytest.mark.parametrize("seed", [0, 1])


@cache
def traced(entry: Network) -> tuple[nn.Module, Space]:
    """Shared by the tests: nothing here may change the module."""
    module, _ = fold(entry.build())
    return module, trace(module, entry.example())


def random_plan(space: Space, seed: int) -> Plan:
    """About half of every prunable group."""
    rng = torch.Generator().manual_seed(seed)
    keep = {}
    for group in space.prunable:
        count = max(group.floor, int(torch.randint(1, group.size + 1, (), generator=rng)))
        keep[group.name] = tuple(sorted(torch.randperm(group.size, generator=rng)[:count].tolist()))
    return Plan(keep)


def makers(space: Space, path: str) -> list[ChannelGroup]:
    """The groups of the output channels of the layer at `path`."""
    return [group for op in space.ops if op.module == path for group, _ in space.axes_of[op.weight].get(op.out_dim, ())]


@zoo
def test_the_trace_finds_what_is_prunable_and_what_is_not(entry: Network):
    _, space = traced(entry)
    for path in entry.prunable:
        assert any(not group.frozen for group in makers(space, path)), f"{path} should be prunable"
    for path in entry.frozen:
        assert makers(space, path), f"{path} was not seen"
        assert all(group.frozen for group in makers(space, path)), f"{path} should be frozen"


@zoo
def test_the_output_dimension_of_every_op_carries_channels(entry: Network):
    _, space = traced(entry)
    assert all(op.out_dim in space.axes_of[op.weight] for op in space.ops)


@zoo
@seeds
def test_carved_equals_elastic_equals_the_original_with_the_consumers_columns_zeroed(entry: Network, seed: int):
    module, space = traced(entry)
    plan, x = random_plan(space, seed), entry.example(seed, batch=1 + seed)
    expected = zero_consumers(module, space, plan)(x)
    carved, elastic = carve(module, space, plan)(x), Elastic(module, space).call(plan, x)
    assert spread(expected) > 0.01
    assert saturation(expected) < 0.5
    assert relative_error(carved, expected) < 1e-5
    for found, same in zip(outputs_of(elastic), outputs_of(carved), strict=True):
        assert torch.equal(found, same)


@zoo
def test_an_effective_plan_changes_the_output(entry: Network):
    """Else the equalities of the other tests would prove nothing."""
    module, space = traced(entry)
    plan = Plan({group.name: tuple(range(0, group.size, 2)) for group in space.prunable})
    x = entry.example(batch=2)
    with torch.no_grad():
        changed = relative_error(carve(module, space, plan)(x), module(x)) > 1e-3
    assert changed == any(group.size > 1 for group in space.prunable)


@zoo
@seeds
def test_predicted_costs_equal_measured_ones(entry: Network, seed: int):
    module, space = traced(entry)
    plan = random_plan(space, seed)
    carved, cost = carve(module, space, plan), CostModel(space).cost(plan)
    assert cost.macs == measured_macs(carved, entry.example())
    assert (cost.params, cost.bytes) == (measured_params(carved), measured_bytes(carved))
    again = trace(carved, entry.example())
    assert CostModel(again).cost(again.full_plan()) == cost
    small = carve_space(space, plan)
    assert CostModel(small).cost(small.full_plan()) == cost


@zoo
def test_fvcore_counts_the_same_convolutions_and_linear_layers(entry: Network):
    if entry.name in ("two-outputs", "computed-weight", "attention-multi-head"):
        pytest.skip("fvcore takes no dictionaries, and counts layers with computed or frozen weights among the others")
    module, space = traced(entry)
    assert convolution_macs(module, entry.example()) == CostModel(space).cost(Plan()).macs - space.fixed_macs


@zoo
def test_other_legal_sizes_keep_their_output_shape_and_stay_exact(entry: Network):
    if entry.multiple_of is None:
        pytest.skip("this generator takes one size only")
    module, space = traced(entry)
    plan, side = random_plan(space, 0), max(8, entry.multiple_of)
    small = side + entry.multiple_of
    for size in ((side * 2, side), (small, side * 2)):
        x = entry.example(size=size)
        with torch.no_grad():
            carved = carve(module, space, plan)(x)
            assert [y.shape for y in outputs_of(carved)] == [y.shape for y in outputs_of(module(x))]
            assert relative_error(carved, zero_consumers(module, space, plan)(x)) < 1e-5


@zoo
def test_folding_keeps_the_function_and_the_users_module_untouched(entry: Network):
    module, x = entry.build(), entry.example(batch=2)
    outputs_of(module(x))[0].sum().backward()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded, _ = fold(module)
    with torch.no_grad():
        for found, expected in zip(outputs_of(folded(x)), outputs_of(module(x)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert all(part.training == module.training for part in folded.modules())


@zoo
def test_a_copy_shares_no_tensor_with_the_original_even_after_a_training_step(entry: Network):
    module = entry.build().train()
    outputs_of(module(entry.example(batch=2)))
    copied = copy_module(module)
    ours = {tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers()) if tensor.numel()}
    assert not ours & {tensor.data_ptr() for tensor in (*copied.parameters(), *copied.buffers()) if tensor.numel()}
    assert copied.training


@pytest.mark.parametrize("name", ["spectral-norm-hook", "spectral-norm", "weight-norm-hook", "weight-norm"])
def test_folding_names_every_weight_that_was_computed(name: str):
    _, notes = fold(network(name).build())
    assert [note.split(".")[0] for note in notes] == ["body", "head"]


@zoo
def test_carving_keeps_what_is_trained_and_in_which_mode(entry: Network):
    module, space = traced(entry)
    module = copy_module(module).train()
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    carved = carve(module, space, random_plan(space, 0))
    assert all(part.training for part in carved.modules())
    flags = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in carved.named_parameters()} == flags


def test_a_floor_is_a_property_of_the_group_that_plans_can_go_down_to():
    module, space = traced(network("resnet-in"))
    smallest = Plan({group.name: tuple(range(group.floor)) for group in space.prunable})
    x = network("resnet-in").example(batch=2)
    with torch.no_grad():
        carved = carve(module, space, smallest)(x)
        assert relative_error(carved, zero_consumers(module, space, smallest)(x)) < 1e-5


def test_building_a_network_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    for entry in NETWORKS:
        entry.build()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_builds_the_same_network():
    for entry in NETWORKS:
        first, second = (entry.build(3).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["property", "class"])
def test_a_width_that_a_norm_reads_off_its_weight_or_its_class_follows_the_plan(kind: str):
    class Norm(nn.Module):
        num_features = property(lambda self: len(self.weight)) if kind == "property" else 6

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(1, 2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == self.num_features
            return torch.nn.functional.instance_norm(x, weight=self.weight)

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), Norm(), nn.Conv2d(6, 3, 3)).eval()
    x = torch.rand(1, 3, 8, 8)
    space = trace(module, x)
    (group,) = space.prunable
    plan = Plan({group.name: (0, 2, 5)})
    full = module(x)
    assert torch.equal(Elastic(module, space).call(plan, x), carve(module, space, plan)(x))
    assert torch.equal(module(x), full)
    assert "num_features" not in vars(module[1])
