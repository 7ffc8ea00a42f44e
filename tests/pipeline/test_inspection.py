"""Looking before compressing: costs, floors, reasons, and plans without data."""

import json

import pytest
import torch

import gansdk
from gansdk.contracts import Contract
from gansdk.errors import BudgetUnreachable, GansdkWarning, NothingPruned
from gansdk.testing.blocks import conv
from gansdk.testing.layers import Branch
from gansdk.testing.networks import network
from gansdk.testing.oracles import measured_macs, measured_params


def given(name: str = "resnet-bn-zero"):
    contract = Contract(channels_in=3, channels_out=3, size=(16, 16), multiple_of=4)
    return gansdk.wrap(network(name).build(), contract=contract)


def test_the_cost_is_that_of_the_module():
    generator = given()
    found = gansdk.inspect(generator)
    assert found.cost.macs == measured_macs(generator.module, torch.zeros(1, 3, 16, 16))
    assert found.cost.params == measured_params(generator.module)
    assert found.floor.macs < found.cost.macs
    assert f"{found.floor.macs / found.cost.macs:.1%}" in found.verdict
    assert f"{found.cost.macs / 1e3:.3g} K MACs" in found.verdict


def test_every_frozen_group_has_its_reason():
    groups = gansdk.inspect(given("cumulative-sum")).groups
    reasons = [group["frozen"] for group in groups if group["frozen"]]
    assert any("cumsum" in reason for reason in reasons)
    assert any("image output" in reason for reason in reasons)


def frozen(module, channels=3) -> dict[str, str]:
    contract = gansdk.Contract(channels_in=channels, channels_out=channels, size=(16, 16))
    groups = gansdk.inspect(gansdk.wrap(module, contract=contract)).groups
    return {group["name"]: group["frozen"] for group in groups if group["frozen"]}


def test_a_layer_is_never_called_the_input_because_the_image_is_added_to_what_it_makes():
    assert frozen(network("vdsr").build(), 1) == {"output": "it is the image output"}
    inner = Branch(torch.nn.Sequential(conv(3, 4), conv(4, 3)))
    reasons = frozen(torch.nn.Sequential(inner, conv(3, 4), conv(4, 3)))
    assert reasons == {"0.body.1": "the image input is joined with it", "2": "it is the image output"}


def test_a_generator_that_cannot_shrink_is_said_to_be_so_and_has_no_budget():
    generator = given("cumulative-sum")
    found = gansdk.inspect(generator)
    assert "Nothing can be pruned" in found.verdict
    assert found.floor == found.cost
    with pytest.raises(NothingPruned, match="cumsum"):
        gansdk.inspect(generator, "1.1x")


def test_a_budget_is_checked_against_the_floor():
    generator = given()
    floor = gansdk.inspect(generator).floor.macs
    assert "can be met" in gansdk.inspect(generator, f"macs<={floor}").verdict
    with pytest.raises(BudgetUnreachable) as caught:
        gansdk.inspect(generator, f"macs<={floor - 1}")
    assert caught.value.floor["macs"] == floor


def test_a_plan_needs_no_data_keeps_to_the_budget_and_says_so():
    generator = given()
    with pytest.warns(GansdkWarning, match="no images"):
        found = gansdk.plan(generator, "macs<=60%")
    assert found.after.macs <= 0.6 * found.before.macs  # one channel of so narrow a network is a fifth of its cost
    assert found.used == pytest.approx(found.after.macs / (0.6 * found.before.macs), rel=1e-3)
    assert {name: kept for name, (kept, _) in found.widths.items()} == {
        name: len(found.plan[name]) for name in found.widths
    }


def test_reports_are_plain_json():
    generator = given()
    with pytest.warns(GansdkWarning):
        plan = gansdk.plan(generator, "macs<=60%")
    for report in (gansdk.inspect(generator), plan):
        data = report.to_dict()
        assert json.loads(json.dumps(data)).keys() == data.keys()


def test_looking_changes_nothing_of_the_module():
    generator = given()
    before = {name: tensor.clone() for name, tensor in generator.module.state_dict().items()}
    gansdk.inspect(generator, "macs<=60%")
    with pytest.warns(GansdkWarning):
        gansdk.plan(generator, "macs<=60%", pruner="one-step")
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.module.state_dict().items())
