"""What the plugin promises, on networks small enough to check by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import gansdk_plugin_magnitude.plugin
import numpy as np
import pytest
import torch
from gansdk_plugin_magnitude.pruner import Magnitude, reader_norms
from torch import Tensor, nn

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost
from gansdk.channels.carve import carve
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan
from gansdk.channels.tracing.trace import trace
from gansdk.contracts import MAIN, Contract, Observation, Route
from gansdk.errors import BudgetUnreachable
from gansdk.interfaces import Inherit, Student
from gansdk.registry.discovery import Registry


class PlainStudent(Student):
    """A student of one network whose only feature is its image."""

    taps = ()

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        self.network = network
        self.contracts = {MAIN: contract}
        self.space = trace(network, torch.zeros(contract.example_shape))
        self.plan = self.space.full_plan()
        self.cost_model = CostModel(self.space)

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        return Observation(Elastic(self.network, self.space).call(self.plan, x) if image else None, {})

    def activate(self, plan: Plan) -> None:
        self.plan = plan

    def channels(self, tap: str) -> Tensor:
        raise KeyError(tap)

    def width(self, tap: str) -> int:
        raise KeyError(tap)

    def cost(self, plan: Plan) -> Cost:
        return self.cost_model.cost(plan)

    def carve(self, plan: Plan, *, inherit: Inherit = "all") -> Student:
        return PlainStudent(carve(self.network, self.space, plan), self.contracts[MAIN])

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.network.parameters()

    def networks(self) -> Mapping[Route, nn.Module]:
        return {MAIN: self.network}

    def train(self, mode: bool = True) -> None:
        self.network.train(mode)


@pytest.fixture
def student() -> PlainStudent:
    """Conv, conv, pixel shuffle by 2, conv; six and five channels inside."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 20, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(5, 3, 1)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return PlainStudent(network, Contract(channels_in=3, channels_out=3, size=(8, 8), scale=2))


def search(student: Student, budget: str) -> Plan:
    limits = Budget.parse(budget).resolve(student.cost(student.space.full_plan()))
    return Magnitude(multiple_of=1).search(student, limits, run=None)  # type: ignore[arg-type] # it looks at no run


def test_the_plugin_is_found_and_its_pruner_is_loaded_by_name() -> None:
    registry = Registry.isolated(strict=True)
    registry.register(gansdk_plugin_magnitude.plugin, "gansdk-plugin-magnitude")
    assert registry.load("pruner", "magnitude") is Magnitude


def test_a_channel_scores_the_norm_of_all_weights_that_read_it(student: PlainStudent) -> None:
    second, last = student.network[2].weight.detach(), student.network[4].weight.detach()
    scores = reader_norms(student.space, student.network.state_dict())
    by_size = {len(values): values for values in scores.values()}
    assert np.allclose(by_size[6], torch.linalg.vector_norm(second, dim=(0, 2, 3)).numpy())
    assert np.allclose(by_size[5], torch.linalg.vector_norm(last, dim=(0, 2, 3)).numpy())


def test_the_plan_fits_the_budget_and_uses_it(student: PlainStudent) -> None:
    plan = search(student, "2x")
    full = student.cost(student.space.full_plan())
    assert full.macs // 3 < student.cost(plan).macs <= full.macs // 2


def test_of_each_group_the_largest_stay(student: PlainStudent) -> None:
    plan = search(student, "2x")
    for name, values in reader_norms(student.space, student.network.state_dict()).items():
        best = np.argsort(-values)[: len(plan[name])]
        assert set(plan[name]) == set(best.tolist())


def test_the_student_is_left_as_it_was(student: PlainStudent) -> None:
    before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    assert search(student, "2x") == search(student, "2x")
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.network.state_dict().items())


def test_the_carved_student_still_makes_images(student: PlainStudent) -> None:
    carved = student.carve(search(student, "2x"))
    image = carved.observe(torch.zeros(1, 3, 8, 8)).image
    assert image is not None
    assert image.shape == (1, 3, 16, 16)


def test_a_budget_below_the_floor_is_refused(student: PlainStudent) -> None:
    with pytest.raises(BudgetUnreachable):
        search(student, "macs<=10")
