"""What a trace finds does not depend on how it was looked for."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gansdk.channels.carve import carve, carve_space
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import Space
from gansdk.channels.tracing.trace import trace
from gansdk.testing.published import Trunk
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings, example, generators


class LooksAtValues(nn.Module):
    """The generator behind a check of its input's values, which only a real forward pass can answer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            raise ValueError("the input is not finite")
        return self.inner(x)


@DETERMINISTIC
@given(generators(), st.integers(2, 4))
def test_a_space_does_not_depend_on_the_batch_size(module: nn.Module, batch: int):
    assert trace(module, example(batch=batch)) == trace(module, example(batch=1))


@DETERMINISTIC
@given(generators())
def test_a_space_does_not_depend_on_the_device_of_the_trace(module: nn.Module):
    on_meta, for_real = trace(module, example(batch=1)), trace(LooksAtValues(module), example(batch=1))
    assert [(g.size, bool(g.frozen), len(g.axes)) for g in for_real.groups] == [
        (g.size, bool(g.frozen), len(g.axes)) for g in on_meta.groups
    ]
    assert CostModel(for_real).cost(for_real.full_plan()) == CostModel(on_meta).cost(on_meta.full_plan())


@DETERMINISTIC
@given(generators(), st.integers(0, 9))
def test_a_space_does_not_depend_on_values_or_on_the_mode(module: nn.Module, seed: int):
    space = trace(module, example(batch=1))
    assert trace(module.train(), example(batch=1, seed=seed)) == space


@DETERMINISTIC
@given(generators())
def test_axes_of_one_dimension_do_not_overlap_and_stay_inside(module: nn.Module):
    space = trace(module, example(batch=1))
    for tensor, dims in space.axes_of.items():
        for dim, rows in dims.items():
            ends = [axis.start + axis.unit * group.size for group, axis in rows]
            starts = [axis.start for _, axis in rows]
            assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
            assert starts[0] >= 0
            assert ends[-1] <= space.shapes[tensor][dim]


@DETERMINISTIC
@given(generators())
def test_the_image_input_and_output_are_frozen_and_names_are_unique(module: nn.Module):
    space = trace(module, example(batch=1))
    assert len(space.by_name) == len(space.groups)
    for tensor, dim in (("stem.weight", 1), ("head.weight", 0)):
        assert all(group.frozen for group, _ in space.axes_of[tensor][dim])


@DETERMINISTIC
@given(carvings())
def test_tracing_a_carved_generator_again_finds_the_same_cost(case: Carving):
    carved = carve(case.module, case.space, case.plan)
    again = trace(carved, example(batch=1))
    assert CostModel(again).cost(again.full_plan()) == CostModel(case.space).cost(case.plan)


@DETERMINISTIC
@given(carvings())
def test_tracing_a_carved_generator_again_finds_as_many_channels(case: Carving):
    """Only without widths of one, where a depthwise convolution looks dense and broadcasting hides a coupling."""
    small = carve_space(case.space, case.plan)
    if min(group.size for group in small.groups) > 1 and not small.notes:
        again = trace(carve(case.module, case.space, case.plan), example(batch=1))
        assert _channels(again) == _channels(small)


def _channels(space: Space) -> int:
    return sum(group.size for group in space.prunable)


def test_a_space_lists_a_tap_as_a_tensor_of_its_own():
    from gansdk.testing.blocks import ConvBlock
    from gansdk.testing.weights import build

    module = build(lambda: Trunk(ConvBlock(3, 4), width=3, outputs=4))
    space = trace(module, torch.zeros(1, 3, 16, 16), {"body": "parts.0"})
    ((group, axis),) = space.axes_of["tap:body"][1]
    assert (group.size, axis.start, axis.unit) == (4, 0, 1)
