"""Scores against literal transcriptions of what they say."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import gansdk
from gansdk.channels.tracing.trace import trace
from gansdk.contracts import MAIN
from gansdk.generators.elastic_student import ElasticStudent
from gansdk_pruners.importance import IMPORTANCES, Importance


@pytest.fixture
def student():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)
    ).double()
    net.eval()
    contract = gansdk.Contract(channels_in=3, channels_out=3, size=(8, 8))
    return ElasticStudent(net, trace(net, torch.zeros(1, 3, 8, 8, dtype=torch.float64)), contract, {})


class Probing:
    seed = 7
    task = gansdk.generators.wrapping.ReconstructionTask()

    def __init__(self):
        rng = torch.Generator().manual_seed(3)
        self.inputs = [torch.randn(1, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(3)]
        self.targets = [torch.randn(1, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(3)]

    def probe_batches(self, count):
        return [gansdk.Batch({MAIN: x}, {MAIN: y}) for x, y in zip(self.inputs, self.targets, strict=True)]


def gated(net, x, channel, gate):
    hidden = net[2](net[1](net[0](x))).clone()
    hidden[:, channel] = hidden[:, channel] * gate
    return net[3](hidden)


def slope(function, step=1e-5):
    return (function(1 + step) - function(1 - step)) / (2 * step)


def test_every_importance_can_be_chosen():
    assert get_args(Importance) == ("auto", *IMPORTANCES)


def test_gauss_newton_is_the_root_mean_square_of_projected_gate_derivatives(student):
    run, net = Probing(), student.module
    rng = torch.Generator().manual_seed(run.seed)
    rows = []
    with torch.no_grad():
        for x in run.inputs:
            v = torch.randn((1, 3, 8, 8), generator=rng).double()
            rows.append([slope(lambda g, c=c: float((gated(net, x, c, g) * v).sum())) for c in range(4)])  # noqa: B023
    expected = np.sqrt(np.mean(np.square(rows), axis=0))
    np.testing.assert_allclose(IMPORTANCES["gauss-newton"](student, run)["0"], expected, rtol=1e-6)


def test_taylor_is_the_root_mean_square_of_the_losses_gate_derivatives(student):
    run, net = Probing(), student.module
    rows = []
    with torch.no_grad():
        for x, y in zip(run.inputs, run.targets, strict=True):
            rows.append([slope(lambda g, c=c: float((gated(net, x, c, g) - y).abs().mean())) for c in range(4)])  # noqa: B023
    expected = np.sqrt(np.mean(np.square(rows), axis=0))
    np.testing.assert_allclose(IMPORTANCES["taylor"](student, run)["0"], expected, rtol=1e-6)


def test_consumer_norm_is_the_norm_of_the_columns_that_read_a_channel(student):
    expected = student.module[3].weight.detach().pow(2).sum((0, 2, 3)).sqrt().numpy()
    np.testing.assert_allclose(IMPORTANCES["consumer-norm"](student, Probing())["0"], expected)


def test_norm_scale_is_the_absolute_gamma(student):
    with torch.no_grad():
        student.module[1].weight.copy_(torch.tensor([-2.0, 0.5, 1.0, -0.1]))
    np.testing.assert_allclose(IMPORTANCES["norm-scale"](student, Probing())["0"], [2.0, 0.5, 1.0, 0.1])


def test_torch_prunings_score_on_our_groups_equals_its_own_where_its_graph_is_right(student):
    import torch_pruning as tp

    net = student.module.float()
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=(torch.zeros(1, 3, 8, 8),))
    group = graph.get_pruning_group(net[0], tp.prune_conv_out_channels, idxs=list(range(4)))
    expected = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)(group).detach().numpy()
    np.testing.assert_allclose(IMPORTANCES["torch-pruning"](student, Probing())["0"], expected, rtol=1e-5)
