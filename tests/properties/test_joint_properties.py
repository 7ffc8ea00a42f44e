"""Spaces of several generators as one: costs add up, plans come apart again, and carving all is carving each."""

from dataclasses import fields

from hypothesis import given
from torch import nn

from gansdk.budget.cost import Cost
from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import Plan, Space
from gansdk.channels.join import join, split
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings


def joined(cases: dict[str, Carving]) -> tuple[Space, Plan]:
    keep = {f"{key}.{name}": kept for key, case in cases.items() for name, kept in case.plan.items()}
    return join({key: case.space for key, case in cases.items()}, "both"), Plan(keep)


@DETERMINISTIC
@given(carvings(), carvings())
def test_the_cost_of_several_is_the_sum_and_their_plans_come_apart(first: Carving, second: Carving):
    cases = {"there": first, "back": second}
    space, plan = joined(cases)
    found = CostModel(space).cost(plan)
    parts = [CostModel(case.space).cost(case.plan) for case in cases.values()]
    assert found == Cost(**{item.name: sum(getattr(part, item.name) for part in parts) for item in fields(Cost)})
    assert split(plan, {key: case.space for key, case in cases.items()}) == {
        key: case.plan for key, case in cases.items()
    }
    assert Space.from_dict(space.to_dict()) == space


@DETERMINISTIC
@given(carvings(), carvings())
def test_carving_several_as_one_carves_each(first: Carving, second: Carving):
    cases = {"there": first, "back": second}
    space, plan = joined(cases)
    whole = carve(nn.ModuleDict({key: case.module for key, case in cases.items()}), space, plan)
    each = nn.ModuleDict({key: carve(case.module, case.space, case.plan) for key, case in cases.items()})
    shapes = ({name: value.shape for name, value in net.state_dict().items()} for net in (whole, each))
    assert next(shapes) == next(shapes)
    assert all(bool((value == each.state_dict()[name]).all()) for name, value in whole.state_dict().items())
    carved = {key: carve_space(case.space, case.plan) for key, case in cases.items()}
    assert join(carved, "both").shapes == carve_space(space, plan).shapes
