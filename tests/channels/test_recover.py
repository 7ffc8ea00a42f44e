"""Layer-wise least squares."""

import pytest
import torch
from torch import nn

from gansdk.channels.carve import carve
from gansdk.channels.groups import Plan
from gansdk.channels.recover import _as_matrix, _rows, least_squares
from gansdk.channels.tracing.trace import trace


def images(count=3, side=12):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, side, side, generator=rng) for _ in range(count)]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 5), stride=2, padding=(1, 2), dilation=2, bias=False),
        nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.ConvTranspose2d(3, 4, 3, stride=3, dilation=2),
    ],
    ids=str,
)
def test_the_equations_of_a_layer_hold_for_its_own_weights(layer):
    x = images(1)[0]
    with torch.no_grad():
        y = layer(x)
        rows, values = _rows(layer, x, layer.bias is not None), y.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(
            (rows.double() @ _as_matrix(layer, layer.bias)).float(), values, rtol=1e-4, atol=1e-5
        )


def test_a_linear_layers_equations_hold_for_its_own_weights():
    layer, x = nn.Linear(3, 4), torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = _rows(layer, x, True).double()
        torch.testing.assert_close((rows @ _as_matrix(layer, layer.bias)).float(), layer(x).flatten(0, -2))


def doubled():
    """A network whose channels 4..7 repeat 0..3, read by other weights: half of it is redundant."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    with torch.no_grad():
        net[0].weight[4:] = net[0].weight[:4]
        net[0].bias[4:] = net[0].bias[:4]
    return net


def test_dropping_repeated_channels_is_recovered_exactly_and_the_full_network_is_untouched():
    net = doubled()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    space = trace(net, torch.zeros(1, 3, 12, 12))
    plan = Plan({**space.full_plan(), "0": (0, 1, 2, 3)})
    carved = carve(net, space, plan)
    x = images(1, side=16)[0]
    with torch.no_grad():
        raw = (carved(x) - net(x)).abs().max()
        assert least_squares(net, carved, space, plan, images(), ridge=1e-9) >= 1
        assert (carved(x) - net(x)).abs().max() < 1e-4 < raw
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_nothing_is_refitted_where_nothing_was_removed():
    net = doubled()
    space = trace(net, torch.zeros(1, 3, 12, 12))
    copy = carve(net, space, space.full_plan())
    assert least_squares(net, copy, space, space.full_plan(), images()) == 0
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), net.parameters(), strict=True))
