"""Parts by name: options are held against the factory's annotations, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import pytest
from pydantic import AfterValidator, Field
from torch import nn

from gansdk.errors import InvalidOption, PluginFailed
from gansdk.interfaces import Distiller, Term
from gansdk.registry.description import options_of
from gansdk.registry.discovery import registry
from gansdk.registry.parts import instantiate, open_distillers
from gansdk.registry.records import recorded
from gansdk.toolkit.options import HeightWidth, Names, Positive, checked


class Seen(Term):
    name = "seen"

    def __init__(self, *values: object) -> None:
        self.values = values

    def __call__(self, student: object, teacher: object) -> object:
        raise NotImplementedError


def seen(
    weight: Positive = 1.0,
    *,
    size: HeightWidth | None = None,
    times: Annotated[int, Field(ge=2, le=5)] = 2,
    taps: Names | None = None,
    network: nn.Module | None = None,
) -> Distiller:
    """A factory that checks nothing itself."""
    return Distiller((Seen(weight, size, times, taps, network),))


@pytest.fixture(params=["unchecked", "checked"])
def factory(request, monkeypatch):
    """A stranger's part "seen", which may use `checked` or not."""
    chosen = checked(seen) if request.param == "checked" else seen
    load = registry().load
    entry = registry().find("distiller", "pixel")
    monkeypatch.setattr(registry(), "load", lambda kind, name: chosen if name == "seen" else load(kind, name))
    monkeypatch.setattr(registry(), "find", lambda kind, name: entry)
    return chosen


def test_a_strangers_options_are_converted_and_recorded_as_they_were_given(factory):
    [made] = open_distillers({"name": "seen", "weight": 2, "size": 8, "taps": ["a", "b"], "network": "any"})
    assert made.terms[0].values == (2.0, (8, 8), 2, ("a", "b"), "any")
    assert recorded(made)["options"] == {
        "weight": 2,
        "size": 8,
        "times": 2,
        "taps": ["a", "b"],
        "network": "any",
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight": 0}, "weight=0 must be a finite number above zero; to do without, leave it out."),
        ({"times": 6}, "times=6 must be an integer >= 2 and <= 5."),
        ({"times": True}, "times=True must be an integer >= 2 and <= 5."),
        ({"taps": ["a", "a"]}, "taps=['a', 'a'] must be a list of different names; to do without, omit it."),
    ],
)
def test_a_strangers_options_are_refused_once_and_by_name(factory, options, says):
    with pytest.raises(InvalidOption) as refused:
        open_distillers({"name": "seen", **options})
    assert str(refused.value) == f"The distiller 'seen': {says}"


def test_options_are_described_with_their_bounds(factory):
    assert {option.name: (option.type, option.default) for option in options_of(factory)} == {
        "weight": ("float > 0", "1.0"),
        "size": ("tuple[int >= 1 and <= 65536, int >= 1 and <= 65536] | None", "None"),
        "times": ("int >= 2 and <= 5", "2"),
        "taps": ("Sequence[str] | None", "None"),
        "network": ("torch.nn.modules.module.Module | None", "None"),
    }


def broken(value: float) -> float:
    raise TypeError("boom")


def with_a_broken_check(weight: Annotated[float, AfterValidator(broken)] = 1.0) -> Distiller:
    return Distiller((Seen(weight),))


def test_a_strangers_check_of_an_option_that_breaks_is_the_plugins_fault(monkeypatch):
    entry = registry().find("distiller", "pixel")
    monkeypatch.setattr(type(registry()), "find", lambda *_: replace(entry, origin="gansdk-stranger"))
    with pytest.raises(PluginFailed, match=r"gansdk-stranger.*the check of its options.*boom"):
        instantiate("distiller", "pixel", with_a_broken_check, {"weight": 2.0}, Distiller)


@pytest.mark.parametrize("patch", [0, -1, 1.5])
def test_a_sides_length_is_at_least_a_pixel_wherever_it_is_given(patch):
    factory = registry().load("source", "photos")
    with pytest.raises(InvalidOption, match=r"patch=.* must be an integer >= 1"):
        instantiate("source", "photos", factory, {"patch": patch, "contract": None}, object)
