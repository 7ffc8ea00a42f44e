"""Floors under the student's quality, and how it was measured in words."""

import pytest

from gansdk.errors import InvalidOption
from gansdk.interfaces import Quality
from gansdk.quality import QualityFloor, protocols


def measured(metric="psnr-y", student=29.0, reference="ground-truth", protocol="whole images") -> Quality:
    return Quality(metric=metric, reference=reference, teacher=None, student=student, images=1, protocol=protocol)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("psnr-y>=29.5", QualityFloor("psnr-y", ">=", 29.5)),
        ("  ssim >= 0.9 ", QualityFloor("ssim", ">=", 0.9)),
        ("kid(efficientnet-lite0)<=5e-2", QualityFloor("kid(efficientnet-lite0)", "<=", 0.05)),
        ("score>=-3", QualityFloor("score", ">=", -3.0)),
    ],
)
def test_a_floor_is_a_metric_and_a_bound(text: str, expected: QualityFloor):
    assert QualityFloor.parse(text) == expected


def test_no_floor_stays_none():
    assert QualityFloor.parse(None) is None


@pytest.mark.parametrize("text", ["", "psnr-y", "psnr-y>29", "29>=psnr-y", "psnr-y>=much", "psnr-y>=29 dB"])
def test_what_cannot_be_read_is_refused_with_an_example(text: str):
    with pytest.raises(InvalidOption, match=r"psnr-y>=29\.5"):
        QualityFloor.parse(text)


def test_a_metric_that_is_not_measured_is_refused_by_naming_those_that_are():
    floor = QualityFloor("fid", "<=", 30.0)
    with pytest.raises(InvalidOption, match=r"'fid'.*psnr, ssim"):
        floor.check(("psnr", "ssim"))
    floor.check(("psnr", "fid"))


@pytest.mark.parametrize(("sign", "worse", "better"), [(">=", 28.9, 29.1), ("<=", 29.1, 28.9)])
def test_a_floor_holds_on_its_side_and_at_its_value(sign: str, worse: float, better: float):
    floor = QualityFloor("psnr-y", sign, 29.0)
    assert floor.missed([measured(student=better)]) == ""
    assert floor.missed([measured(student=29.0)]) == ""
    assert f"{worse:.4g}, not {sign} 29" in floor.missed([measured(student=worse)])


def test_the_ground_truth_decides_where_there_is_one():
    floor = QualityFloor("psnr-y", ">=", 29.0)
    truth, teacher = measured(student=20.0), measured(student=40.0, reference="teacher")
    assert "to the ground-truth is 20" in floor.missed([teacher, truth])
    assert floor.missed([teacher]) == ""


def test_nothing_measured_misses_the_floor_and_nan_does_too():
    floor = QualityFloor("psnr-y", ">=", 29.0)
    assert "could not be measured" in floor.missed([measured("ssim-y")])
    assert floor.missed([measured(student=float("nan"))])


def test_metrics_that_share_a_protocol_share_its_sentence():
    rows = [
        measured("psnr"),
        measured("ssim"),
        measured("psnr", reference="teacher"),
        measured("fid", protocol="crops"),
    ]
    assert protocols(rows) == ["psnr, ssim: whole images", "fid: crops"]
