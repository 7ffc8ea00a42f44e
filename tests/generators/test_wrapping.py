"""Wrapping any module: what is proved about it, and which taps it gets."""

import pytest
import torch
from torch import Tensor, nn

import gansdk
from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.testing.networks import network


def contract(**changes) -> Contract:
    return Contract(**{"channels_in": 3, "channels_out": 3, "size": (16, 16), **changes})


def plain(layers: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(layers)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels_in": 4}, "does not run on"),
        ({"channels_out": 1}, "states"),
        ({"scale": 2}, r"states \(1, 3, 32, 32\)"),
    ],
)
def test_a_contract_that_the_module_does_not_keep_is_refused(changes, words: str):
    with pytest.raises(ContractError, match=words):
        gansdk.wrap(plain(2), contract=contract(**changes))


def test_a_module_of_several_outputs_is_refused_by_naming_what_it_gives():
    with pytest.raises(ContractError, match="returns dict"):
        gansdk.wrap(network("two-outputs").build(), contract=contract())


def test_what_is_no_module_is_refused():
    with pytest.raises(ContractError, match="but got dict"):
        gansdk.wrap({}, contract=contract())


@pytest.mark.parametrize("around", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))])
def test_what_is_around_a_module_for_speed_is_taken_off(around):
    net = plain(2)
    assert gansdk.wrap(around(net), contract=contract()).module is net


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(plain(2)), "TorchScript"),
        (lambda: nn.Sequential(plain(1), torch.jit.script(plain(2))), "TorchScript"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 1), nn.Conv2d(4, 3, 1)), "lazy layers"),
        (lambda: plain(2).half(), r"torch\.float16.*net\.float\(\)"),
    ],
)
def test_modules_that_cannot_be_worked_on_are_refused_in_our_words(make, words: str):
    with pytest.raises(ContractError, match=words):
        gansdk.wrap(make(), contract=contract())


def test_a_module_on_the_meta_device_is_planned_but_not_compressed():
    generator = gansdk.wrap(plain(2).to("meta"), contract=contract())
    with pytest.raises(ContractError, match="meta device"):
        gansdk.compress(generator, budget="2x", distiller=None)


def test_named_taps_are_taken_as_they_are_and_must_exist():
    net = plain(3)
    assert gansdk.wrap(net, contract=contract(), taps={"middle": "1"}).taps == {"middle": "1"}
    assert gansdk.wrap(net, contract=contract(), taps={}).taps == {}
    with pytest.raises(ContractError, match=r"nowhere|'7'"):
        gansdk.wrap(net, contract=contract(), taps={"nowhere": "7"})


def test_taps_of_a_plain_stack_lie_along_its_depth_but_not_on_the_image():
    assert list(gansdk.wrap(plain(9), contract=contract()).taps.values()) == ["1", "3", "5", "7"]
    assert list(gansdk.wrap(plain(3), contract=contract()).taps.values()) == ["0", "1"]
    assert gansdk.wrap(plain(1), contract=contract()).taps == {}


def test_taps_are_blocks_where_there_are_any():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), *(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(6)))
    found = gansdk.wrap(net, contract=contract()).taps
    assert list(found) == ["tap1", "tap2", "tap3", "tap4"]
    assert set(found.values()) <= {str(i) for i in range(1, 7)}
    assert found["tap4"] == "6"


class Twice(nn.Module):
    """One convolution runs twice: which of its feature maps a tap would mean is not clear."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.once, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.once(self.again(self.again(x))))


def test_a_submodule_that_runs_twice_is_no_tap():
    assert list(gansdk.wrap(Twice(), contract=contract()).taps.values()) == ["once"]


def test_wrapping_leaves_the_module_as_it_is():
    net = network("resnet-bn-zero").build().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    wrapped = gansdk.wrap(net, contract=contract(multiple_of=4))
    assert wrapped.module is net
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(part._forward_hooks for part in net.modules())
