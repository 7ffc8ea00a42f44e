"""The weight-sharing view: gradients of a subnet reach the full weights, and only the kept channels."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gansdk.channels.carve import carve, slices
from gansdk.channels.elastic import Elastic
from gansdk.testing.strategies import DETERMINISTIC, Carving, carvings, example, plans


@DETERMINISTIC
@given(carvings())
def test_elastic_gradients_are_the_carved_gradients_and_zero_on_inactive_channels(case: Carving):
    x, carved = example(), carve(case.module, case.space, case.plan)
    _pull(carved(x))
    _pull(Elastic(case.module, case.space).call(case.plan, x))
    cuts = slices(case.space, case.plan)
    small = dict(carved.named_parameters())
    for name, parameter in case.module.named_parameters():
        found, expected = parameter.grad, small[name].grad
        if expected is None:
            assert found is None or not found.any()
            continue
        kept = found
        for dim, entries in cuts.get(name, ()):
            kept = kept.index_select(dim, entries)
        torch.testing.assert_close(kept, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        assert torch.count_nonzero(found) == torch.count_nonzero(kept)


@DETERMINISTIC
@given(carvings())
def test_the_gradient_to_the_input_is_the_carved_networks(case: Carving):
    ours, theirs = example().requires_grad_(), example().requires_grad_()
    _pull(Elastic(case.module, case.space).call(case.plan, ours))
    _pull(carve(case.module, case.space, case.plan)(theirs))
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9 * float(theirs.grad.abs().max()))


@DETERMINISTIC
@given(carvings(), st.data())
def test_a_call_leaves_no_trace_for_the_next_one(case: Carving, data: st.DataObject):
    elastic, x = Elastic(case.module, case.space), example()
    other = data.draw(plans(case.space))
    with torch.no_grad():
        before, full = elastic.call(case.plan, x), case.module(x)
        elastic.call(other, x)
        assert torch.equal(elastic.call(case.plan, x), before)
        assert torch.equal(case.module(x), full)


@DETERMINISTIC
@given(carvings())
def test_a_dry_run_gives_the_shapes_of_the_real_output(case: Carving):
    elastic, x = Elastic(case.module, case.space), example()
    with torch.no_grad():
        assert elastic.dry_run(case.plan, x).shape == elastic.call(case.plan, x).shape


def _pull(output: Tensor) -> None:
    """Backpropagate a fixed random direction."""
    rng = torch.Generator().manual_seed(7)
    (output * torch.randn(output.shape, generator=rng, dtype=output.dtype)).sum().backward()
