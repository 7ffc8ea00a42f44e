"""The size of patches follows from the network."""

import pytest
import torch
from torch import nn

import gansdk
from gansdk.contracts import Contract
from gansdk.generators.patches import ENLARGED, SAME_SIZE, fitting_patch
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes


def wrapped(net, side=256, **contract):
    return gansdk.wrap(
        net, contract=Contract(**{"channels_in": 3, "channels_out": 3, "size": (side, side), **contract})
    )


def chain(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def conv(stride=1, dilation=1, width=4):
    return nn.Conv2d(width, width, 3, stride, dilation, dilation)


def ends(*middle):
    return chain(nn.Conv2d(3, 4, 3, 1, 1), *middle, nn.Conv2d(4, 3, 3, 1, 1))


def test_a_shallow_network_gets_the_least_and_no_more_than_the_contracts_size():
    assert fitting_patch(wrapped(ends())) == SAME_SIZE
    assert fitting_patch(wrapped(ends(), side=40)) == 40
    assert fitting_patch(wrapped(chain(nn.Conv2d(3, 12, 3, 1, 1), nn.PixelShuffle(2)), scale=2)) == ENLARGED


def test_the_smallest_feature_map_has_eight_cells_along_a_side():
    down = [conv(stride=2) for _ in range(4)]
    net = ends(*down, nn.Upsample(scale_factor=16))
    assert fitting_patch(wrapped(net)) >= 8 * 16


def test_twice_the_effective_receptive_field_fits_in():
    assert fitting_patch(wrapped(ends(*[conv(dilation=16) for _ in range(4)]))) > SAME_SIZE


def test_patches_are_multiples_where_the_network_wants_them():
    net = ends(*[conv(stride=2) for _ in range(4)], nn.Upsample(scale_factor=16))
    assert fitting_patch(wrapped(net, side=240, multiple_of=48)) % 48 == 0


def test_a_family_says_its_own_and_a_source_gets_it_unless_another_is_asked_for(tmp_path):
    from gansdk.pipeline.opening import open_generator, open_source

    known = open_generator(SRResNet(SRResNetSizes(width=4, blocks=1, scale=2)))
    assert fitting_patch(known) == known.adapter.patch == 24
    other = wrapped(chain(nn.Conv2d(3, 12, 3, 1, 1), nn.PixelShuffle(2)), scale=2)
    for generator, asked, side in ((known, None, 24), (other, None, ENLARGED), (other, 16, 16)):
        batch = open_source("photos", generator, patch=asked).train_batch(1, seed=0, step=0)
        assert batch.inputs["main"].shape[2:] == (side, side)
    named = open_source({"name": "photos", "patch": 20}, other).train_batch(1, seed=0, step=0)
    assert named.inputs["main"].shape[2:] == (20, 20)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_networks_without_a_gradient_get_the_least(value):
    net = ends()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    assert fitting_patch(wrapped(net)) == SAME_SIZE
