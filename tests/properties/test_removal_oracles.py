"""Why the oracle zeroes what consumers read: what zeroing producers does instead, structure by structure."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.channels.carve import carve
from gansdk.channels.groups import Plan, Space
from gansdk.channels.tracing.trace import trace
from gansdk.modules.fold import fold
from gansdk.testing.blocks import ConvBlock, Padding, conv
from gansdk.testing.networks import Network, network
from gansdk.testing.oracles import dropped_entries, relative_error, zero_consumers
from gansdk.testing.published import Spade, Trunk
from gansdk.testing.weights import build


def halved(space: Space) -> Plan:
    """Every second channel of every prunable group."""
    return Plan({group.name: tuple(range(0, group.size, 2)) for group in space.prunable})


def zero_producers(module: nn.Module, space: Space, plan: Plan, *, norms: bool = False) -> nn.Module:
    """A copy in which the filters and biases that make dropped channels are zero, and with `norms` their norms."""
    zeroed = copy.deepcopy(module)
    state = zeroed.state_dict()
    rows = {(op.weight, op.out_dim) for op in space.ops} | {(op.bias, 0) for op in space.ops}
    if norms:
        affine = [path for path, part in module.named_modules() if getattr(part, "num_features", None)]
        rows |= {(f"{path}.{name}", 0) for path in affine for name in ("weight", "bias")}
    for name, dim in rows:
        if name in state:
            state[name].index_fill_(dim, torch.tensor(dropped_entries(space, plan, name, dim), dtype=torch.int64), 0.0)
    return zeroed


def errors(entry: Network, *, norms: bool = False) -> float:
    """How far zeroed producers are from the carved network."""
    module, _ = fold(entry.build(seed=1))
    space = trace(module, entry.example())
    plan, x = halved(space), entry.example(batch=2)
    with torch.no_grad():
        carved = carve(module, space, plan)(x)
        assert relative_error(carved, zero_consumers(module, space, plan)(x)) < 1e-5
        return relative_error(zero_producers(module, space, plan, norms=norms)(x), carved)


@pytest.mark.parametrize("name", ["resnet-in", "edsr", "vdsr", "rrdb", "spade-in", "gated"])
def test_zeroed_producers_equal_removal_where_nothing_makes_a_constant_of_zero(name: str):
    assert errors(network(name)) < 1e-5


@pytest.mark.parametrize("name", ["resnet-in-affine", "resnet-bn-zero", "unet-bn", "srresnet-slopes"])
def test_zeroed_producers_do_not_equal_removal_behind_affine_or_tracked_norms(name: str):
    assert errors(network(name)) > 1e-2


def test_zeroing_the_affine_norms_too_equals_removal():
    assert errors(network("resnet-in-affine"), norms=True) < 1e-5
    assert errors(network("resnet-bn-zero"), norms=True) < 1e-5


def test_zeroing_the_affine_norms_is_not_enough_where_a_norm_only_tracks_statistics():
    def untracked() -> nn.Module:
        module = Spade(norm="batch", form="chunk")
        for part in (module.before, module.inside, module.after):
            part.norm = nn.BatchNorm2d(part.norm.num_features, affine=False)
        return module

    entry = Network(name="spade-bn-plain", make=untracked, shape=(1, 5, 16, 16))
    assert errors(entry, norms=True) > 1e-2


def folded_constant(padding: Padding) -> tuple[Tensor, Tensor]:
    """(expected, found): a channel that is constant everywhere, read by a convolution or added to its bias."""
    rng = torch.Generator().manual_seed(0)
    layer = build(lambda: conv(3, 2, padding=padding))
    x = torch.randn(1, 3, 8, 8, generator=rng)
    x[:, 1] = 0.7
    without = F.pad(x, (1, 1, 1, 1), mode="constant" if padding == "zeros" else padding)
    without[:, 1] = 0
    bias = layer.bias + 0.7 * layer.weight[:, 1].sum((1, 2))
    return layer(x).detach(), F.conv2d(without, layer.weight, bias).detach()


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_a_constant_channel_folds_exactly_into_the_next_bias_when_borders_repeat_it(padding: Padding):
    expected, found = folded_constant(padding)
    assert relative_error(found, expected) < 1e-6


def test_a_constant_channel_folds_into_the_next_bias_only_inside_when_borders_are_zero():
    expected, found = folded_constant("zeros")
    inside = (..., slice(1, -1), slice(1, -1))
    assert relative_error(found[inside], expected[inside]) < 1e-6
    assert relative_error(found, expected) > 1e-2


def test_spectral_norm_put_back_on_a_carved_student_changes_its_function():
    """Why students stay folded: the norm of half a matrix is another number."""
    entry = network("spectral-norm")
    module, notes = fold(entry.build())
    space = trace(module, entry.example())
    student = carve(module, space, halved(space))
    x = entry.example()
    with torch.no_grad():
        before = student(x)
        rng = torch.get_rng_state()
        torch.manual_seed(0)
        torch.nn.utils.parametrizations.spectral_norm(student.body)
        torch.set_rng_state(rng)
        assert relative_error(student.eval()(x), before) > 1e-2
    assert len(notes) == 2


def test_random_norms_and_slopes_are_what_makes_the_oracle_sharp():
    """On fresh norms and slopes a channel taken from the wrong place goes unnoticed; `randomise` is for that."""
    module = build(lambda: Trunk(ConvBlock(4, 4, norm="batch"), nn.PReLU(4), width=4))
    norm, slopes = module.parts[0][1], module.parts[1]
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, slopes.weight):
        assert len(tensor.unique()) == 4
