"""Floors under the student's quality, and how it was measured in words."""

from dataclasses import replace

import pytest

from gansdk.errors import InvalidOption
from gansdk.evaluation.findings import CHECKS, Finding
from gansdk.evaluation.quality import Bound, QualityFloor, protocols
from gansdk.interfaces import Quality


def measured(metric="psnr-y", student=29.0, reference="ground-truth", protocol="whole images") -> Quality:
    return Quality(metric=metric, reference=reference, teacher=None, student=student, images=1, protocol=protocol)


def floor(*bounds: tuple[str, str, float], checks: tuple[str, ...] = ()) -> QualityFloor:
    return QualityFloor(tuple(Bound(*bound) for bound in bounds), checks)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("psnr-y>=29.5", floor(("psnr-y", ">=", 29.5))),
        ("  ssim >= 0.9 ", floor(("ssim", ">=", 0.9))),
        ("kid(efficientnet-lite0)<=5e-2", floor(("kid(efficientnet-lite0)", "<=", 0.05))),
        ("score>=-3", floor(("score", ">=", -3.0))),
        ("finite", floor(checks=("finite",))),
        ("finite, psnr>=20 ,baseline", floor(("psnr", ">=", 20.0), checks=("finite", "baseline"))),
        ("kid(a,b)<=1,worst-psnr>=9", floor(("kid(a,b)", "<=", 1.0), ("worst-psnr", ">=", 9.0))),
        *((name, floor(checks=(name,))) for name in (*CHECKS, "checks")),
    ],
)
def test_a_floor_is_bounds_and_checks(text: str, expected: QualityFloor):
    assert QualityFloor.parse(text) == expected


def test_no_floor_stays_none():
    assert QualityFloor.parse(None) is None


@pytest.mark.parametrize(
    "text",
    ["", "psnr-y", "psnr-y>29", "29>=psnr-y", "psnr-y>=much", "psnr-y>=29 dB", "finite,", "finite,x", "Finite"],
)
def test_what_cannot_be_read_is_refused_with_an_example_and_all_checks(text: str):
    with pytest.raises(InvalidOption, match=r"psnr-y>=29\.5.*teacher, finite, range, baseline"):
        QualityFloor.parse(text)


def test_a_part_that_cannot_be_read_is_named_with_the_nearest_check():
    with pytest.raises(InvalidOption, match=r"in 'finit',.*Did you mean 'finite'"):
        QualityFloor.parse("psnr>=3,finit")


def test_a_metric_that_is_not_measured_is_refused_by_naming_those_that_are():
    with pytest.raises(InvalidOption, match=r"'fid'.*psnr, ssim, kid, or of psnr, ssim worst-NAME or NAME-to"):
        floor(("fid", "<=", 30.0)).check(("psnr", "ssim"), ("kid",))
    floor(("worst-psnr-to-teacher", ">=", 3.0), ("ssim-to-teacher", ">=", 0.1), ("fid", "<=", 9.0)).check(
        ("psnr", "ssim"), ("fid",)
    )
    for name in ("worst-fid", "fid-to-teacher"):  # of sets of images, not of single ones
        with pytest.raises(InvalidOption, match=name):
            floor((name, "<=", 30.0)).check(("psnr", "ssim"), ("fid",))


@pytest.mark.parametrize(("sign", "worse", "better"), [(">=", 28.9, 29.1), ("<=", 29.1, 28.9)])
def test_a_bound_holds_on_its_side_and_at_its_value(sign: str, worse: float, better: float):
    asked = floor(("psnr-y", sign, 29.0))
    assert asked.missed([measured(student=better)]) == ""
    assert asked.missed([measured(student=29.0)]) == ""
    assert f"{worse:.4g}, not {sign} 29" in asked.missed([measured(student=worse)])


def test_the_ground_truth_decides_where_there_is_one_unless_the_teacher_is_asked_for():
    truth, teacher = measured(student=20.0), measured(student=40.0, reference="teacher")
    asked = floor(("psnr-y", ">=", 29.0))
    assert "to the ground-truth is 20" in asked.missed([teacher, truth])
    assert asked.missed([teacher]) == ""
    by_teacher = floor(("psnr-y-to-teacher", ">=", 29.0))
    assert by_teacher.missed([teacher, truth]) == ""
    assert "to the teacher is 20" in by_teacher.missed([replace(teacher, student=20.0), truth])


def test_the_worst_image_is_named_with_its_value():
    row = replace(measured(student=40.0), worst=12.0, worst_image="cat.png")
    assert "on its worst image, 'cat.png', is 12, not >= 29" in floor(("worst-psnr-y", ">=", 29.0)).missed([row])
    assert floor(("worst-psnr-y", ">=", 11.0)).missed([row]) == ""
    assert "could not be measured" in floor(("worst-psnr-y", ">=", 11.0)).missed([measured()])


def test_nothing_measured_misses_the_floor_and_nan_does_too():
    asked = floor(("psnr-y", ">=", 29.0))
    assert "could not be measured" in asked.missed([measured("ssim-y")])
    assert asked.missed([measured(student=float("nan"))])


def test_checks_are_missed_where_they_are_out_of_line_and_where_one_that_was_named_was_not_made():
    passed, failed, left = (
        Finding(check=name, passed=outcome, text=f"About {name}.")
        for name, outcome in (("finite", True), ("range", False), ("training", None))
    )
    findings = [passed, failed, left]
    assert floor(checks=("finite",)).missed([], findings) == ""
    assert floor(checks=("range",)).missed([], findings) == "Check 'range': About range."
    assert floor(checks=("training",)).missed([], findings) == "Check 'training': About training."
    assert floor(checks=("baseline",)).missed([], findings) == "The check 'baseline' was not run."
    assert floor(checks=("checks",)).missed([], findings) == "Check 'range': About range."
    assert floor(checks=("checks",)).missed([], [passed, left]) == ""
    both = floor(("psnr-y", ">=", 60.0), checks=("range", "checks")).missed([measured()], findings)
    assert both == "The student's psnr-y to the ground-truth is 29, not >= 60. Check 'range': About range."


def test_metrics_that_share_a_protocol_share_its_sentence():
    rows = [
        measured("psnr"),
        measured("ssim"),
        measured("psnr", reference="teacher"),
        measured("fid", protocol="crops"),
    ]
    assert protocols(rows) == ["psnr, ssim: whole images", "fid: crops"]
