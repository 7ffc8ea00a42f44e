"""Branches that are emptied leave the network: carved, elastic, costed and put back alike."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan, Space
from gansdk.channels.recover import least_squares
from gansdk.channels.tracing.trace import trace
from gansdk.errors import ContractError
from gansdk.testing.blocks import InceptionBlock
from gansdk.testing.oracles import measured_bytes, measured_macs, measured_params, relative_error, zero_consumers
from gansdk.testing.published import ResNet
from gansdk.testing.strategies import DETERMINISTIC, plans
from gansdk.testing.weights import randomise

BLOCKS = ("trunk.0", "trunk.1")
BRANCHES = {key: value for path in BLOCKS for key, value in InceptionBlock.emptiable(path).items()}
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(norm="instance-affine", seed=0):
    with torch.random.fork_rng(devices=[]):
        module = ResNet(depth=2, block=lambda channels: InceptionBlock(channels, norm=norm), norm=norm)
    return randomise(module, seed).eval().double()


NETS = {norm: network(norm) for norm in ("instance-affine", "batch")}
SPACES = {norm: trace(net, X, branches=BRANCHES) for norm, net in NETS.items()}
EMPTIABLE = [group.name for group in SPACES["batch"].prunable if group.floor == 0]


@st.composite
def emptying_plans(draw, space):
    """Plans in which branches, and sometimes all branches of a block, are empty."""
    gone = set(draw(st.sets(st.sampled_from(EMPTIABLE), max_size=4)))
    for block in draw(st.sets(st.sampled_from(BLOCKS))):
        gone |= {name for name in EMPTIABLE if name.startswith(f"{block}.")}
    return Plan({**draw(plans(space)), **{name: () for name in gone if name in space.by_name}})


def without(module, space, plan):
    """The oracle: columns zeroed where channels go, and None written where branches go, by hand."""
    zeroed = zero_consumers(module, space, plan)
    for block in BLOCKS:
        part, left = zeroed.get_submodule(block), 0
        for path, (layer, *more) in InceptionBlock.emptiable(block).items():
            if not more and plan.get(layer, (0,)) == ():
                _, _, kind, index = path.split(".")
                part._modules[kind]._modules[index] = None
            left += not more and plan.get(layer, (0,)) != ()
        if not left:
            part.norm = None
    return zeroed


@pytest.mark.parametrize("norm", NETS)
def test_exactly_the_private_widths_of_branches_may_be_emptied(norm):
    space = SPACES[norm]
    assert {group.name for group in space.groups if group.floor == 0} == {
        layer for layers in BRANCHES.values() if len(layers) == 1 for layer in layers
    }
    assert {branch.module for branch in space.branches} == set(BRANCHES)


@pytest.mark.parametrize("norm", NETS)
@settings(DETERMINISTIC, max_examples=6)
@given(data=st.data())
def test_carved_equals_elastic_equals_none_written_by_hand(norm, data):
    module, space = NETS[norm], SPACES[norm]
    plan = data.draw(emptying_plans(space))
    plan.check(space)
    names = [name for name, _ in module.named_modules()]
    carved = carve(module, space, plan)
    assert relative_error(carved(X), without(module, space, plan)(X)) < 1e-6
    assert torch.equal(Elastic(module, space).call(plan, X), carved(X))
    assert [name for name, _ in module.named_modules()] == names


@pytest.mark.parametrize("norm", NETS)
@settings(DETERMINISTIC, max_examples=6)
@given(data=st.data())
def test_the_cost_of_a_plan_is_that_of_the_carved_network_measured_and_traced_again(norm, data):
    module, space = NETS[norm], SPACES[norm]
    plan = data.draw(emptying_plans(space))
    carved, cost = carve(module, space, plan), CostModel(space).cost(plan)
    # A depthwise convolution of one channel is a dense one to whoever looks at the carved network, and costs as much.
    assert cost == CostModel(trace(carved, X)).cost(Plan())
    assert (cost.macs, cost.params, cost.bytes) == (
        measured_macs(carved, X),
        measured_params(carved),
        measured_bytes(carved),
    )
    assert CostModel(carve_space(space, plan)).cost(Plan()) == cost


@settings(DETERMINISTIC, max_examples=6)
@given(data=st.data())
def test_carving_twice_equals_carving_by_the_composed_plan(data):
    module, space = NETS["batch"], SPACES["batch"]
    plan = data.draw(emptying_plans(space))
    small = carve_space(space, plan)
    assert Space.from_dict(json.loads(json.dumps(small.to_dict()))) == small
    later = Plan({name: kept for name, kept in data.draw(emptying_plans(small)).items() if name in small.by_name})
    twice = carve(carve(module, space, plan), small, later)
    both = Plan.from_dict(json.loads(json.dumps(plan.then(later).to_dict())))
    assert torch.equal(twice(X), carve(module, space, both)(X))
    assert carve_space(small, later) == carve_space(space, both)


def test_a_failed_forward_leaves_the_module_whole():
    module, space = NETS["batch"], SPACES["batch"]
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(RuntimeError):
        Elastic(module, space).call(Plan(dict.fromkeys(EMPTIABLE, ())), X[:, :2])
    assert [name for name, _ in module.named_modules()] == before


def test_nothing_but_branches_can_be_emptied():
    space = SPACES["batch"]
    with pytest.raises(ContractError, match=r"'stem\.1'.*Keep at least one"):
        Plan({"stem.1": ()}).check(space)


def test_recovery_passes_over_what_is_gone():
    module, space = NETS["batch"], SPACES["batch"]
    stays = EMPTIABLE[-1]
    plan = Plan({**dict.fromkeys(EMPTIABLE, ()), stays: (0,), "stem.1": (0,)})
    carved = carve(module, space, plan)
    assert least_squares(module, carved, space, plan, [X]) > 0
    assert carved(X).isfinite().all()


# What an adapter may get wrong.


def test_a_branch_or_layer_that_does_not_exist_is_an_error():
    with pytest.raises(ContractError, match=r"'trunk\.7'"):
        trace(NETS["batch"], X, branches={"trunk.7": ("stem.1",)})
    with pytest.raises(ContractError, match=r"'trunk\.0\.norm'.*channels cannot be traced"):
        trace(NETS["batch"], X, branches={"trunk.0.dense.0": ("trunk.0.norm",)})


def test_a_branch_whose_channels_are_read_elsewhere_stays_and_a_note_says_so():
    space = trace(NETS["batch"], X, branches={"down": ("down.1.0",)})
    assert not space.branches
    assert "down.1.0" in space.notes[-1]
    assert space.by_name["down.1.0"].floor == 1


def test_a_branch_with_a_tap_inside_stays_and_a_note_says_so():
    space = trace(NETS["batch"], X, {"inner": "trunk.0.dense.0.0"}, {"trunk.0.dense.0": ("trunk.0.dense.0.0",)})
    assert not space.branches
    assert "'inner'" in space.notes[-1]


class Insists(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.branch(x))


def test_a_network_that_does_not_run_without_its_branch_keeps_it():
    space = trace(Insists().eval(), X.float(), branches={"branch": ("branch.0",)})
    assert not space.branches
    assert space.by_name["branch.0"].floor == 1
    assert "never emptied" in space.notes[-1]
