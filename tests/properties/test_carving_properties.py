"""Carving removes exactly the channels a plan drops, on random generators."""

import json

import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import nn

from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan, Space
from gansdk.channels.tracing.trace import trace
from gansdk.testing.oracles import outputs_of, relative_error, spread, zero_consumers
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings, example, generators, plans

TOLERANCE = 1e-6
"""In float64, so that a wrong channel cannot hide in rounding."""


@settings(DETERMINISTIC, max_examples=120)
@given(carvings())
def test_carved_equals_elastic_equals_the_original_with_the_consumers_columns_zeroed(case: Carving):
    x = example()
    # With gradients: PyTorch picks another kernel, and other last bits, for weights that need none.
    expected = zero_consumers(case.module, case.space, case.plan)(x)
    carved = carve(case.module, case.space, case.plan)(x)
    elastic = Elastic(case.module, case.space).call(case.plan, x)
    changed = relative_error(carved, case.module(x)) > 1e-3
    assume(spread(expected) > 1e-3)
    event(f"the plan changes the output: {changed}")
    assert relative_error(carved, expected) < TOLERANCE
    assert torch.equal(elastic, carved)


@DETERMINISTIC
@given(carvings())
def test_carved_equals_the_oracle_with_batch_statistics_too(case: Carving):
    case.module.train()
    for part in case.module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()  # dropout draws masks of other shapes
    x = example(batch=3)
    with torch.no_grad():
        expected = zero_consumers(case.module, case.space, case.plan)(x)
        carved = carve(case.module, case.space, case.plan)(x)
    assume(spread(expected) > 1e-3)
    assert relative_error(carved, expected) < TOLERANCE


@DETERMINISTIC
@given(generators())
def test_keeping_everything_is_the_identity_bit_for_bit(module: nn.Module):
    x = example()
    space = trace(module, example(batch=1))
    with torch.no_grad():
        expected = module(x)
        for plan in (space.full_plan(), Plan()):
            assert torch.equal(carve(module, space, plan)(x), expected)
            assert torch.equal(Elastic(module, space).call(plan, x), expected)
    assert carve_space(space, space.full_plan()) == space


@DETERMINISTIC
@given(carvings(), st.data())
def test_carving_twice_equals_carving_by_the_composed_plan(case: Carving, data: st.DataObject):
    small = carve_space(case.space, case.plan)
    later = data.draw(plans(small))
    twice = carve(carve(case.module, case.space, case.plan), small, later)
    once = carve(case.module, case.space, case.plan.then(later))
    x = example()
    with torch.no_grad():
        assert torch.equal(twice(x), once(x))
    assert _state_bytes(twice) == _state_bytes(once)
    assert carve_space(small, later) == carve_space(case.space, case.plan.then(later))


@DETERMINISTIC
@given(carvings(), st.data())
def test_a_carved_space_describes_the_carved_module(case: Carving, data: st.DataObject):
    carved, small = carve(case.module, case.space, case.plan), carve_space(case.space, case.plan)
    assert {name: tuple(tensor.shape) for name, tensor in carved.state_dict().items()} == dict(small.shapes)
    assert [group.size for group in small.groups] == [case.plan.width(group) for group in case.space.groups]
    later = data.draw(plans(small))
    x = example()
    with torch.no_grad():
        expected = zero_consumers(carved, small, later)(x)
        assume(spread(expected) > 1e-3)
        assert relative_error(Elastic(carved, small).call(later, x), expected) < TOLERANCE


@DETERMINISTIC
@given(carvings(), st.sampled_from(((16, 16), (8, 24), (24, 8), (32, 16))), st.integers(1, 3))
def test_no_plan_changes_the_shape_of_the_output_at_any_legal_size(case: Carving, size: tuple[int, int], batch: int):
    x = example(batch=batch, size=size)
    with torch.no_grad():
        try:
            expected = case.module(x)
        except (RuntimeError, ValueError):
            assume(False)  # the full generator itself refuses this size
        carved = carve(case.module, case.space, case.plan)(x)
        assert [y.shape for y in outputs_of(carved)] == [y.shape for y in outputs_of(expected)]
        oracle = zero_consumers(case.module, case.space, case.plan)(x)
    assume(spread(oracle) > 1e-3)
    assert relative_error(carved, oracle) < TOLERANCE


@DETERMINISTIC
@given(carvings())
def test_the_same_plan_gives_the_same_bytes(case: Carving):
    first, second = (carve(case.module, case.space, case.plan) for _ in range(2))
    assert _state_bytes(first) == _state_bytes(second)


@DETERMINISTIC
@given(carvings(), st.integers(0, 9))
def test_a_plan_and_a_state_dict_rebuild_the_student_bit_for_bit(case: Carving, seed: int):
    from gansdk.testing.weights import randomise

    student = carve(case.module, case.space, case.plan)
    text = json.dumps(case.plan.to_dict())
    other = randomise(carve(case.module, case.space, Plan()), seed + 100)
    rebuilt = carve(other, case.space, Plan.from_dict(json.loads(text)))
    rebuilt.load_state_dict(student.state_dict(), strict=True)
    x = example()
    with torch.no_grad():
        assert torch.equal(rebuilt(x), student(x))


@DETERMINISTIC
@given(carvings())
def test_carving_on_the_meta_device_gives_the_same_shapes(case: Carving):
    real = carve(case.module, case.space, case.plan).state_dict()
    meta = carve(carve(case.module, case.space, Plan()).to("meta"), case.space, case.plan).state_dict()
    assert {name: tensor.shape for name, tensor in meta.items()} == {name: t.shape for name, t in real.items()}


@DETERMINISTIC
@given(carvings())
def test_spaces_and_plans_survive_json(case: Carving):
    space = Space.from_dict(json.loads(json.dumps(case.space.to_dict())))
    assert space == case.space
    assert Plan.from_dict(json.loads(json.dumps(case.plan.to_dict()))) == case.plan
    assert CostModel(space).cost(case.plan) == CostModel(case.space).cost(case.plan)


@DETERMINISTIC
@given(carvings())
def test_nothing_is_done_to_the_users_module(case: Carving):
    x = example()
    case.module(x).sum().backward()
    before, rng = _fingerprint(case.module), torch.get_rng_state()
    space = trace(case.module, x)
    carve(case.module, space, case.plan)(x)
    Elastic(case.module, space).dry_run(case.plan, x)
    Elastic(case.module, space).call(case.plan, x)
    assert _fingerprint(case.module) == before
    assert torch.equal(torch.get_rng_state(), rng)


def _state_bytes(module: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in module.state_dict().items()}


def _fingerprint(module: nn.Module) -> list[object]:
    """Everything of a module that a careless visitor might leave changed."""
    rows: list[object] = [_state_bytes(module)]
    for path, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, int | float | str | tuple)}
        hooks = [len(value) for key, value in vars(part).items() if key.endswith("_hooks")]
        rows.append((path, type(part), plain, hooks))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        grad = None if tensor.grad is None else tensor.grad.numpy().tobytes()
        rows.append((name, id(tensor), tensor.requires_grad, grad, sorted(vars(tensor))))
    return rows
