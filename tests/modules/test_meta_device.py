"""MACs of what cannot be pruned, against counts by hand; and the light rules for the meta device."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from gansdk.channels.tracing.trace import trace
from gansdk.modules.meta_device import LIGHT, LightMeta
from gansdk.testing.published import Trunk
from gansdk.testing.sequences import LearnedBasis, MultiHead, PositionAttention, Scanlines
from gansdk.testing.weights import build

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


def test_tracing_a_generator_imports_neither_pytorchs_compiler_nor_sympy():
    code = (
        "import sys, torch; from gansdk.channels.tracing.trace import trace; "
        "from gansdk.testing.networks import network\n"
        "entry = network('resnet-in'); trace(entry.build(), entry.example())\n"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


X = torch.empty(2, 3, 4, 5, device="meta")
C3 = torch.empty(3, device="meta")
ONE = ([1], [0], [1], False, [0], 1)
COLUMN = torch.empty(6, 1, 1, 4, 1, device="meta")


@pytest.mark.parametrize("function", LIGHT, ids=str)
def test_a_light_rule_gives_the_shape_and_type_of_pytorchs_own(function):
    name = str(function)
    others = (X, COLUMN, X[0, :1].double(), X.half(), X.int(), 2.5)
    if "native_batch_norm" in name:
        calls = [(X, C3, C3, C3, C3, training, 0.1, 1e-5) for training in (True, False)]
        calls.append((X, None, None, None, None, True, 0.1, 1e-5))
    elif "reflection_pad2d" in name:
        calls = [(x, [1, 2, 3, 0]) for x in (X, X[0], X.half())]
    elif "repeat" in name:
        calls = [(C3, [2]), (C3, [4, 2]), (X.half(), [1, 2, 3, 1])]
    elif "convolution" in name:
        w, pair = torch.empty(4, 3, 3, 2, device="meta"), ([2, 1], [1, 0], [1, 2], False, [0, 0], 1)
        calls = [(X, w, None, *pair), (X, w, torch.empty(4, device="meta"), [1], [2], [1], False, [0], 1)]
        calls += [(X, w[:3, :1], C3, [1, 1], [1, 1], [1, 1], False, [0, 0], 3)]
        calls += [(X.half(), w[:3].half(), None, [2, 3], [1, 0], [1, 1], True, [1, 2], 1)]
        calls += [(X, w[:3, :2], None, [2, 2], [0, 1], [1, 2], True, [0, 1], 3), (X[..., 0], w[..., 0], None, *ONE)]
    elif name.endswith("Tensor"):
        calls = [(x, other) for x in (X, X.half(), X[0]) for other in others]
    else:
        calls = [(X,), (X.half(),), (X.transpose(1, 2),)]
    for args in calls:
        expected = function(*args)
        with LightMeta():
            found = function(*args)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        for a, b in pairs:
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


@pytest.mark.parametrize("size", [2, 4])
def test_a_norm_of_another_width_is_refused_on_the_meta_device(size: int):
    norm = nn.BatchNorm2d(size, device="meta").eval()
    with LightMeta(), pytest.raises(RuntimeError, match="3 channels"):
        torch.ops.aten.native_batch_norm(X, norm.weight, norm.bias, None, None, True, 0.1, 1e-5)


def test_reflection_beyond_an_image_is_refused_on_the_meta_device():
    with LightMeta(), pytest.raises(RuntimeError, match="below the sides 4x5"):
        nn.ReflectionPad2d(4)(X)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 2, 1, device="meta"), "was given"),
        (nn.ConvTranspose2d(2, 2, 1, device="meta"), "was given"),
        (nn.Conv2d(3, 2, 5, device="meta"), "leaves nothing"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused_on_the_meta_device(layer: nn.Module, message: str):
    with LightMeta(), pytest.raises(RuntimeError, match=message):
        layer(X)


def test_too_few_repeats_are_refused_on_the_meta_device():
    with LightMeta(), pytest.raises(RuntimeError, match="one number per dimension"):
        X.repeat(2, 2)


def test_shapes_that_do_not_broadcast_are_refused_on_the_meta_device():
    with LightMeta(), pytest.raises(RuntimeError, match="cannot be broadcast"):
        X + X[..., :2]
