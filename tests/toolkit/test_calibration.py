"""Statistics of norms measured for one subnet: PyTorch's own cumulative averages, and no other subnet disturbed."""

import pytest
import torch
from torch import nn

import gansdk
from gansdk.channels.groups import Plan
from gansdk.contracts import Contract
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.testing.networks import network
from gansdk.toolkit.calibration import calibrate, calibrated, measure_statistics, on_batch_statistics, tracks_statistics

TRACKED = ["resnet-bn-zero", "unet-bn", "resnet-in-tracked"]


def student_of(name: str, inference="eval") -> ElasticStudent:
    entry = network(name)
    contract = Contract(channels_in=entry.shape[1], channels_out=3, size=tuple(entry.shape[2:]), inference=inference)
    return ElasticStudent.of(gansdk.wrap(entry.build(), contract=contract, taps={}))


def half(student: ElasticStudent) -> Plan:
    """Every second channel of every group, so that a prefix would be the wrong one."""
    full = dict(student.space.full_plan())
    return Plan(full | {g.name: tuple(range(g.size))[1::2] or (0,) for g in student.space.prunable if g.size > 1})


def images(name: str) -> list[torch.Tensor]:
    return [network(name).example(seed, batch=3) for seed in (5, 6, 7)]


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if "running_" in name}


@pytest.mark.parametrize("name", ["resnet-bn-zero", "unet-bn"])
def test_a_subnet_is_calibrated_as_pytorch_averages_its_carved_network(name):
    student = student_of(name)
    plan = half(student)
    carved = student.carve(plan).module
    for part in carved.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # cumulative
    carved.train()
    with torch.no_grad():
        for x in images(name):
            carved(x)
    expected = statistics(carved)
    with calibrated(student, plan, images(name)):
        found = statistics(student.carve(plan).module)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize("name", TRACKED)
def test_what_was_calibrated_is_computed_by_the_elastic_view_and_by_the_carved_network_alike(name):
    student = student_of(name)
    plan, x = half(student), network(name).example(9)
    student.train(False)
    student.activate(plan)
    with torch.no_grad():
        before = student.observe(x).image
        with calibrated(student, plan, images(name)):
            expected = student.observe(x).image
        carved = student.carve(plan)
        calibrate(carved, carved.space.full_plan(), images(name))
        carved.train(False)
        found = carved.observe(x).image
    assert not torch.allclose(before, expected, atol=1e-3 * float(expected.abs().max()))
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", TRACKED)
def test_afterwards_every_statistic_weight_and_mode_is_as_it_was(name):
    student = student_of(name)
    before = {key: value.clone() for key, value in student.module.state_dict().items()}
    active = student.plan
    with calibrated(student, half(student), images(name)):
        now = student.module.state_dict()
        assert any(not torch.equal(now[key], value) for key, value in before.items())
    after = student.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert student.plan == active
    assert not any(part._forward_pre_hooks for part in student.module.modules())


@pytest.mark.parametrize("name", TRACKED)
def test_on_batch_statistics_a_subnet_gives_what_its_carved_network_gives_in_training(name):
    student = student_of(name)
    plan, x = half(student), images(name)[0]
    carved = student.carve(plan).module.train()
    for part in carved.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    before = statistics(student.module)
    with torch.no_grad():
        expected = carved(x)
        student.activate(plan)
        with on_batch_statistics(student):
            student.train()
            found = student.observe(x).image
            assert not statistics(student.module)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    after = statistics(student.module)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_channels_that_a_subnet_lacks_keep_their_statistics():
    student = student_of("resnet-bn-zero")
    plan = half(student)
    before = statistics(student.module)
    calibrate(student, plan, images("resnet-bn-zero"))
    kept = {axis.tensor: plan[group.name] for group in student.space.prunable for axis in group.axes}
    lost = 0
    for key, value in statistics(student.module).items():
        rest = sorted(set(range(len(value))) - set(kept.get(key, range(len(value)))))
        lost += len(rest)
        assert torch.equal(value[rest], before[key][rest])
    assert lost


def test_a_tracked_instance_norm_gets_the_mean_of_its_images_own_statistics():
    student = student_of("resnet-in-tracked")
    seen = []
    norms = [part for part in student.module.modules() if isinstance(part, nn.InstanceNorm2d)]
    hook = norms[0].register_forward_pre_hook(lambda part, args: seen.append(args[0].clone()))
    measured = next(iter(measure_statistics(student, student.space.full_plan(), images("resnet-in-tracked")).values()))
    hook.remove()
    per_image = torch.cat(seen).flatten(2)
    assert torch.allclose(measured[0], per_image.mean(2).mean(0), atol=1e-5)
    assert torch.allclose(measured[1], per_image.var(2).mean(0), rtol=1e-4)


def test_generators_without_tracked_statistics_or_run_on_batch_statistics_need_none():
    assert tracks_statistics(student_of("resnet-bn-zero"))
    assert not tracks_statistics(student_of("resnet-in"))
    student = student_of("unet-bn", inference="batch-statistics")
    assert not tracks_statistics(student)
    before = statistics(student.module)
    calibrate(student, half(student), images("unet-bn"))
    assert all(torch.equal(value, before[key]) for key, value in statistics(student.module).items())
