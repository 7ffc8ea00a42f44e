"""MACs of what cannot be pruned, against counts by hand."""

import pytest
import torch
from torch import Tensor, nn

from gansdk.channels.trace import trace
from gansdk.testing.networks import Trunk, build
from gansdk.testing.sequences import LearnedBasis, MultiHead, PositionAttention, Scanlines

SIDE, C = 6, 4
PIXELS = SIDE * SIDE
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def fixed_macs(*parts: nn.Module, batch: int = 1) -> int:
    """Of the parts between two 3x3 convolutions."""
    return trace(build(lambda: Trunk(*parts, width=C)), torch.zeros(batch, 3, SIDE, SIDE)).fixed_macs


@pytest.mark.parametrize("spelling", ["baddbmm", "einsum", "scaled-dot-product", "tensordot", "inference-mode"])
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_costs_two_products_of_all_pairs_of_positions(spelling, batch: int):
    assert fixed_macs(PositionAttention(C, spelling), batch=batch) == 2 * PIXELS * PIXELS * C


def test_multi_head_attention_also_costs_its_four_projections():
    assert fixed_macs(MultiHead(C)) == 2 * PIXELS * PIXELS * C + 4 * PIXELS * C * C


@pytest.mark.parametrize("kind", GATES)
def test_a_recurrent_layer_costs_both_matrices_of_every_gate_in_every_step_and_direction(kind: type[nn.RNNBase]):
    assert fixed_macs(Scanlines(C, kind)) == 2 * PIXELS * GATES[kind] * (C * C + C * C)


def test_products_with_a_parameter_of_no_layer_are_counted():
    assert fixed_macs(LearnedBasis(C)) == 2 * PIXELS * C * C


class Looking(nn.Module):
    """A forward that looks at a value, so that it is traced with real tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.abs().sum().item() < 0 else -x


@pytest.mark.parametrize(
    "part", [Scanlines(C), Scanlines(C, nn.GRU), MultiHead(C), PositionAttention(C, "scaled-dot-product")]
)
def test_a_trace_with_real_tensors_counts_the_same_as_one_on_the_meta_device(part: nn.Module):
    assert fixed_macs(part, Looking()) == fixed_macs(part)


def test_convolutions_that_can_be_pruned_are_not_counted_as_fixed():
    assert fixed_macs(nn.Conv2d(C, C, 3, padding=1), nn.ConvTranspose2d(C, C, 3, padding=1, groups=2)) == 0
