"""CAT's golden pruning cases on the real inception generator, by the general one-step pruner with other options."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch

import gansdk
from gansdk.budget.budget import Budget
from gansdk.channels.carve import carve
from gansdk.errors import BudgetUnreachable
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.testing.oracles import measured_params
from gansdk_adapters.networks.inception import InceptionGenerator, InceptionSizes

CAT = {"name": "one-step", "importance": "norm-scale", "selection": "threshold", "floor_width": 16, "inherit": "none"}
"""Section 2 of cat_and_gan_compression.md in the words of the general pruner; the scripts' lower bound is 16."""
STEM = ("down_sampling.1", "down_sampling.4", "down_sampling.7", "up_sampling.0", "up_sampling.3")
FULL = [64, 128, 256, 128, 64]
FLOORS = {"instance-affine": 546_897_920, "batch": 544_210_944}


@cache
def teacher(norm):
    """The published teacher with the scales of section 2.4: (j + 1) / C in every norm of C channels."""
    with torch.random.fork_rng(devices=[]):
        module = InceptionGenerator(InceptionSizes.of(norm=norm)).eval()
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.copy_(torch.arange(1, len(parameter) + 1) / len(parameter))
    return module


def plan(norm, macs):
    return gansdk.plan(teacher(norm), Budget.parse({"macs": macs}, counting="paper"), CAT)


def widths(report, names):
    return [report.widths[name][0] for name in names]


def branch_widths(report):
    return {kept for name, (kept, _) in report.widths.items() if name.startswith("features.")}


@pytest.mark.parametrize(
    ("norm", "budget", "threshold", "stem", "middle", "macs", "params"),
    [
        ("instance-affine", "2.6G", 0.7777271270751953, [16, 29, 57, 29, 16], 10, 2_573_611_008, 442_818),
        ("batch", "4.6G", 0.690544605255127, [20, 40, 80, 40, 20], 13, 4_495_503_360, None),
    ],
)
def test_golden_cases_have_the_recorded_threshold_widths_and_costs(
    norm, budget, threshold, stem, middle, macs, params, caplog
):
    with caplog.at_level(logging.INFO, logger="gansdk_pruners.threshold"):
        report = plan(norm, budget)
    assert [record.args for record in caplog.records] == [(threshold,)]
    assert widths(report, STEM) == stem
    assert branch_widths(report) == {middle}
    assert len(report.widths) == 59
    assert report.after.paper_macs == macs
    assert params is None or report.after.params == params


def test_the_golden_student_really_has_the_recorded_parameters():
    report = plan("instance-affine", "2.6G")
    student = ElasticStudent.of(gansdk.pipeline.opening.open_generator(teacher("instance-affine")))
    assert measured_params(carve(student.module, student.space, report.plan)) == 442_818


@pytest.mark.parametrize("norm", FLOORS)
def test_at_the_floor_every_branch_is_gone_and_stem_and_ends_have_sixteen_channels(norm):
    report = plan(norm, FLOORS[norm])
    assert report.after.paper_macs == FLOORS[norm]
    assert branch_widths(report) == {0}
    assert widths(report, STEM) == [16] * 5
    with pytest.raises(BudgetUnreachable):
        plan(norm, FLOORS[norm] - 1)


def test_branches_with_small_scales_are_emptied_and_their_block_passes_its_input_on():
    module = InceptionGenerator(InceptionSizes.of(16, 2))
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            dead = name.startswith(("features.0.", "features.1.res_ops.2."))
            parameter.data.copy_(torch.linspace(0.9, 1.0, len(parameter)) * (1e-3 if dead else 1.0))
    full = ElasticStudent.of(gansdk.pipeline.opening.open_generator(module))
    report = gansdk.plan(module, "macs<=70%", CAT)
    student = carve(full.module, full.space, report.plan)
    assert student.features[0].pw_bn is None
    assert [branch is None for branch in student.features[1].res_ops] == [False, False, True]
    x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))[:, : report.widths[STEM[2]][0]]
    assert torch.equal(student.features[0](x), x)
