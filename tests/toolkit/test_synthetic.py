"""Images that are made without data."""

import pytest
import torch

from gansdk.contracts import Contract, Labels
from gansdk.toolkit.synthetic import synthetic_input


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_inputs_lie_within_the_range_and_have_the_shape_of_the_contract(channels, low_high):
    contract = Contract(channels_in=channels, channels_out=3, size=(60, 48), multiple_of=4, input_range=low_high)
    x = synthetic_input(contract, 50, seed=0)
    assert x.shape == (1, channels, 48, 48)
    assert low_high[0] <= float(x.min()) < float(x.max()) <= low_high[1]
    assert float(x.std()) > 0.1 * (low_high[1] - low_high[0])


def test_the_seed_alone_decides():
    contract = Contract(channels_in=3, channels_out=3, size=(32, 32))
    state = torch.get_rng_state()
    one, same, other = (synthetic_input(contract, 32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_images_have_edges_and_flat_regions_as_photographs_have_and_noise_has_not():
    """The kurtosis of differences between neighbours: 3 for Gaussian noise, far more for photographs."""
    contract = Contract(channels_in=3, channels_out=3, size=(96, 96))
    x = torch.cat([synthetic_input(contract, 96, seed=seed) for seed in range(4)])
    steps = (x[..., 1:] - x[..., :-1]).double()
    assert float(steps.pow(4).mean() / steps.square().mean() ** 2) > 6


def test_label_maps_have_one_class_a_pixel_and_edges_where_it_changes():
    labels = Labels(classes=4, unknown=True, edges=True)
    contract = Contract(channels_in=6, channels_out=3, size=(32, 32), labels=labels)
    x = synthetic_input(contract, 32, seed=0)
    assert torch.equal(x[:, :5].sum(1), torch.ones(1, 32, 32))
    assert x[:, :4].sum() == 32 * 32  # no pixel is of no class
    kind, edge = x[0, :5].argmax(0), x[0, 5].bool()
    assert edge[:, 1:][kind[:, 1:] != kind[:, :-1]].all()
    assert edge[:-1][kind[1:] != kind[:-1]].all()
    assert not edge.all()


def test_what_is_no_image_gets_noise():
    contract = Contract(channels_in=64, channels_out=1, size=(1, 1), scale=28)
    assert synthetic_input(contract, 48, seed=0).shape == (1, 64, 1, 1)
