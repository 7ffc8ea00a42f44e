"""The mobile forms of dense generators: their published sizes, what they inherit, and which networks have none."""

import pytest
import torch

import gansdk
from gansdk.channels.cost import CostModel
from gansdk.channels.tracing.trace import trace
from gansdk.contracts import Contract
from gansdk.errors import Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk_adapters.cyclegan import CycleGAN
from gansdk_adapters.gaugan import GauGAN
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.spade import SPADEGenerator, SPADESizes
from gansdk_adapters.pix2pix import Pix2Pix


def built(adapter, architecture="", seed=1, **sizes):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return adapter.create(architecture, **sizes).eval()


SPADE = {"width": 2, "labels": 3, "hidden": 4}
CASES = [
    (Pix2Pix(), {"width": 4, "blocks": 2}, r"\.conv_block\.\d+\.conv\."),
    (Pix2Pix(), {"width": 4, "blocks": 2, "norm": "batch", "dropout": 0.0}, r"\.conv_block\.\d+\.conv\."),
    (CycleGAN(), {"width": 4, "blocks": 1}, r"\.conv_block\.\d+\.conv\."),
    (GauGAN(), SPADE, r"\.mlp_(gamma|beta)\.conv\."),
    (GauGAN(), {**SPADE, "spectral": True}, r"\.mlp_(gamma|beta)\.conv\."),
]


def test_mobile_resnets_have_the_published_parameters_and_macs():
    """GAN Compression's MobileResNet-9 of ngf 64 at 256x256; by its own counting, norms included, 18.366 G MACs."""
    with torch.device("meta"):
        mobile = Pix2Pix().transform(ResNetGenerator(ResNetSizes.of(64)), "mobile").eval()
        space = trace(mobile, torch.empty(1, 3, 256, 256), {}, {}, ())
    cost = CostModel(space).cost(space.full_plan())
    assert cost.params == 1_987_075
    assert round(cost.macs / 1e9, 3) == 11.067
    assert round(cost.paper_macs / 1e9, 3) == 18.366


def test_mobile_spade_generators_have_the_published_parameters():
    """GAN Compression's MobileSPADE of ngf 64 for Cityscapes."""
    with torch.device("meta"):
        mobile = GauGAN().transform(SPADEGenerator(SPADESizes.of(64, spectral=False)), "mobile")
    assert sum(parameter.numel() for parameter in mobile.parameters()) == 70_680_771


@pytest.mark.parametrize(("adapter", "sizes", "separable"), CASES)
def test_what_both_networks_have_is_copied_and_separable_convolutions_are_fresh(adapter, sizes, separable):
    import re

    given = built(adapter, **sizes)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    torch.manual_seed(5)
    made = adapter.transform(given, "mobile")
    plain = ElasticStudent.of(
        gansdk.interfaces.adapter.Generator(module=given, contract=adapter.contract(given), adapter=adapter)
    )
    folded = plain.module.state_dict()
    fresh = 0
    for name, tensor in made.state_dict().items():
        if re.search(separable, name):
            assert name not in folded
            fresh += 1
        else:
            assert torch.equal(tensor, folded[name]), name
    assert fresh
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    torch.manual_seed(5)
    again = adapter.transform(given, "mobile").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(("adapter", "sizes", "separable"), CASES)
def test_a_mobile_network_keeps_contract_taps_and_widths_and_is_described(adapter, sizes, separable):
    given = built(adapter, **sizes)
    made = adapter.transform(given, "mobile").eval()
    assert adapter.contract(made) == adapter.contract(given)
    assert list(adapter.taps(made)) == list(adapter.taps(given))
    again = adapter.build(adapter.describe(made)).state_dict()
    assert {name: tensor.shape for name, tensor in again.items()} == {
        name: tensor.shape for name, tensor in made.state_dict().items()
    }


def pruned(adapter, **sizes):
    module = built(adapter, **sizes)
    student = ElasticStudent.of(
        gansdk.interfaces.adapter.Generator(module=module, contract=adapter.contract(module), adapter=adapter)
    )
    group = student.space.prunable[-1]
    return student.carve(gansdk.Plan({**student.space.full_plan(), group.name: (0,)})).module


@pytest.mark.parametrize(
    ("adapter", "module", "reason"),
    [
        (Pix2Pix(), lambda: built(Pix2Pix(), "mobile-resnet", width=2, blocks=1), "already"),
        (GauGAN(), lambda: built(GauGAN(), "mobile", **SPADE), "already"),
        (Pix2Pix(), lambda: built(Pix2Pix(), "unet", width=2, downs=5), "Only ResNets .* UNetGenerator"),
        (CycleGAN(), lambda: built(CycleGAN(), "inception", width=6, blocks=1), "Only ResNets .* InceptionGenerator"),
        (GauGAN(), lambda: built(GauGAN(), "inception", width=2, labels=3, hidden=6), "Only SPADE"),
        (Pix2Pix(size=(16, 16)), lambda: pruned(Pix2Pix(size=(16, 16)), width=2, blocks=1), "already pruned"),
    ],
)
def test_networks_without_a_mobile_form_are_refused_with_the_reason(adapter, module, reason):
    with pytest.raises(Unsupported, match=reason):
        adapter.transform(module(), "mobile")


def test_a_transform_that_a_family_lacks_is_refused_with_those_it_has():
    with pytest.raises(Unsupported, match=r"no transform 'tiny'; it has mobile"):
        Pix2Pix().transform(built(Pix2Pix(), width=2, blocks=1), "tiny")
    wrapped = gansdk.wrap(torch.nn.Conv2d(3, 3, 1), contract=Contract(channels_in=3, channels_out=3, size=(4, 4)))
    with pytest.raises(Unsupported, match="it has none"):
        gansdk.compress(wrapped, budget="2x", transform="mobile", distiller=None)
