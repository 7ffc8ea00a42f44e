"""The checks of options that plugins use: what they take, and that they refuse everything else by the option's name."""

import inspect
import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import AfterValidator, Field
from torch import nn

from gansdk.errors import InvalidOption
from gansdk.recipe import Recipe, check_bounds
from gansdk.testing import hostile
from gansdk.toolkit import options
from gansdk.validation.json_fields import read_json

NO_NUMBERS = ("x", None, True, [1], math.nan, math.inf, -math.inf, 10**400, 1 + 1j)
TAKEN = {
    "Positive": ((0.5, 3), (0, -1, *NO_NUMBERS)),
    "AtLeastZero": ((0, 0.5), (-1e-9, *NO_NUMBERS)),
    "Share": ((0, 0.5, 1), (-0.1, 1.1, *NO_NUMBERS)),
    "Count": ((1, 10**400), (0, -1, 1.0, "1", None, True, 10**5000)),
    "CountOrZero": ((0, 1, 10**400), (-1, 1.0, "1", None, True, 10**5000)),
    "HeightWidth": (((4, 6),), ([64], [64, 64, 3], "64x64", [64, "64"], [0, 4], 0, -1, 2**17, 1.5, None, True)),
    "Shares": (((1, 0.5), (0.0,)), ([], 0.5, "half", ["half"], [math.nan], [True], [1.1], None)),
    "Names": ((("a", "b"),), ([], "a", ["a", "a"], [1], None)),
}
TYPES = {**{name: getattr(options, name) for name in TAKEN}, "bool": bool, "Literal": Literal["a", "b"]}


@pytest.mark.parametrize("name", TAKEN)
def test_an_option_is_given_back_or_refused_by_name(name):
    good, bad = TAKEN[name]
    for given in good:
        assert options.check(TYPES[name], given, "an_option") == given
    for given in bad:
        with pytest.raises(InvalidOption, match=r"^an_option=.* must be (a|an) .*\.$"):
            options.check(TYPES[name], given, "an_option")


@pytest.mark.parametrize("name", TAKEN)
def test_a_value_that_was_checked_is_not_changed_by_a_second_check(name):
    for given in TAKEN[name][0]:
        once = options.check(TYPES[name], given, "x")
        twice = options.check(TYPES[name], once, "x")
        assert (twice, type(twice)) == (once, type(once))


def test_one_side_is_a_square():
    assert options.check(options.HeightWidth, 64, "size") == (64, 64)
    assert options.check(options.HeightWidth, [64, 32], "size") == (64, 32)


def test_lists_become_tuples_and_numbers_floats():
    assert options.check(options.Names, ["a", "b"], "x") == ("a", "b")
    shares = options.check(options.Shares, [1, 0], "x")
    assert shares == (1.0, 0.0)
    assert {type(item) for item in (*shares, options.positive(3, "x"))} == {float}


def test_choices_and_least_counts_are_named():
    assert options.one_of(("a", "b"), "b", "x") == "b"
    with pytest.raises(InvalidOption, match="x='c' is not known; choose one of 'a', 'b'"):
        options.one_of(("a", "b"), "c", "x")
    with pytest.raises(InvalidOption, match=r"choose one of 'db3', 'haar', 4\. Did you mean 'haar'\?$"):
        options.one_of(("db3", "haar", 4), "harr", "x")
    for other in (True, 1.0, "1", np.bool_(True)):
        with pytest.raises(InvalidOption, match="choose one of 1, 2"):
            options.one_of((1, 2), other, "x")
    assert options.count(0, "x", least=0) == 0
    with pytest.raises(InvalidOption, match="integer >= 2"):
        options.count(1, "x", least=2)


def test_numbers_of_numpy_are_numbers_and_come_back_as_pythons():
    assert type(options.count(np.int64(3), "x")) is int
    assert options.positive(np.float32(0.5), "x") == 0.5
    assert options.check(options.HeightWidth, [np.int64(4), 6], "x") == (4, 6)
    assert options.one_of((2, 4), np.int32(4), "x") == 4
    with pytest.raises(InvalidOption, match=r"x=.*True.* must be an integer"):
        options.count(np.bool_(True), "x")


@pytest.mark.parametrize("value", hostile.VALUES)
@pytest.mark.parametrize("name", TYPES)
def test_no_value_gives_anything_but_itself_or_a_short_refusal(name, value):
    words = hostile.told(lambda: options.check(TYPES[name], hostile.VALUES[value](), "an_option"))
    assert not words or words.startswith("an_option=")


def _even(number: int) -> int:
    if number % 2:
        raise ValueError("it must be even")
    return number


@options.checked
def part(
    weight: options.Positive = 1.0,
    *,
    norm: Literal["l1", "l2"] = "l1",
    size: "options.HeightWidth | None" = None,
    wide: options.Positive | None = 2.0,
    deep: options.Positive | Literal["auto"] | None = None,
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    pairs: Annotated[int, AfterValidator(_even)] = 2,
    step: Annotated[int, Field(multiple_of=4)] = 4,
    network: nn.Module | None = None,
    **others: options.Count,
) -> dict[str, Any]:
    """A part's factory."""
    return dict(locals())


class Part:
    @options.checked
    def __init__(self, size: options.HeightWidth = (1, 1), *, keep: bool = True) -> None:
        self.size, self.keep = size, keep


def test_a_checked_function_is_called_with_what_fits():
    assert part(2, size=4, norm="l2", network=3) == {
        "weight": 2.0,
        "norm": "l2",
        "size": (4, 4),
        "wide": 2.0,
        "deep": None,
        "rate": 0.5,
        "pairs": 2,
        "step": 4,
        "network": 3,
        "others": {},
    }
    assert Part([4, 6]).size == (4, 6)
    assert list(inspect.signature(Part).parameters) == ["size", "keep"]
    with pytest.raises(TypeError, match="positional"):
        part(1, 2)
    with pytest.raises(TypeError, match="unexpected"):
        Part(depth=3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weight": 0}, "weight=0 must be a finite number above zero; to do without, leave it out."),
        ({"norm": "l11"}, "norm='l11' is not known; choose one of 'l1', 'l2'. Did you mean 'l1'?"),
        (
            {"size": "64"},
            "size='64' must be a side in pixels or (height, width), with sides of 1 to 65536; to do without, omit it.",
        ),
        ({"wide": -1}, "wide=-1 must be a finite number above zero; to do without, give None."),
        ({"deep": "x"}, "deep='x' must be a finite number above zero or 'auto'; to do without, omit it."),
        ({"rate": 1}, "rate=1 must be a number >= 0 and < 1."),
        ({"pairs": 3}, "pairs=3: it must be even."),
        ({"pairs": "3"}, "pairs='3' must be an integer."),
        ({"step": 3}, "step=3: Input should be a multiple of 4."),
        ({"weight": "\x1b" * 5000}, None),
    ],
)
def test_a_checked_function_says_what_it_expects(given, says):
    with pytest.raises(InvalidOption) as refused:
        part(**given)
    assert says in (None, str(refused.value))
    assert len(str(refused.value)) < 2000
    assert str(refused.value).isprintable()


def test_a_checked_class_refuses_too():
    with pytest.raises(InvalidOption, match=r"^keep=1 must be true or false\.$"):
        Part(keep=1)


def test_types_that_pydantic_cannot_read_are_not_looked_at():
    class Odd:
        def __get_pydantic_core_schema__(self, *_: object) -> None:
            raise RuntimeError("odd")

    assert options.check(Annotated[int, Odd()], "x", "an_option") == "x"
    assert options.check(Annotated[int, ["unhashable"]], 3, "an_option") == 3


def test_a_check_without_words_of_a_type_that_is_not_plain_refuses_in_words():
    def refuse(value: object) -> None:
        raise ValueError

    with pytest.raises(InvalidOption, match=r"^x=3 must be a value that its check accepts > 0\.$"):
        options.check(Annotated[nn.Module, AfterValidator(refuse), Field(gt=0)], 3, "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        ('"' + "n" * 2**20 + '"', "characters"),
    ],
)
def test_json_that_is_too_deep_too_long_or_says_two_things_is_refused(text, says):
    with pytest.raises(InvalidOption, match=says) as refused:
        read_json(text)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("text", ["{", "NaN", "[Infinity]", "1" * 5000])
def test_what_is_no_json_is_none(text):
    with pytest.raises(ValueError, match=r"JSON|Expecting|digits"):
        read_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**64), ("seed", -1), ("steps", 2**70), ("batch_size", 2**70), ("patch", 10**400)]
    + [("learning_rate", value) for value in (0, math.nan, math.inf, 10**400)],
)
def test_numbers_that_nothing_can_be_done_with_are_refused_with_their_range(name, value):
    with pytest.raises(InvalidOption, match=rf"^{name}=.* must be (an integer from \d+ to \d+|a number > 0)"):
        check_bounds(Recipe, {name: value})


def test_every_seed_of_64_bits_is_one():
    check_bounds(Recipe, {"seed": 2**64 - 1})
    torch.Generator().manual_seed(2**64 - 1)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (options.positive, 0.5, 0),
        (options.at_least_zero, 0, -1),
        (options.share, 1, 1.5),
        (options.shares, [0.5], []),
        (options.count, 3, 0),
        (options.height_width, 8, 0),
        (options.flag, False, "no"),
        (options.names, ["a"], ["a", "a"]),
    ],
)
def test_single_values_are_checked_by_hand_as_by_their_types(check, good, bad):
    assert check(good, "x") in (good, (0.5,), (8, 8), ("a",))
    with pytest.raises(InvalidOption, match=r"^x="):
        check(bad, "x")


def test_how_to_do_without_is_said_where_there_is_a_way():
    for without, said in (("", "leave it out"), ("None", "give None"), (None, "above zero.")):
        with pytest.raises(InvalidOption, match=said):
            options.positive(0, "x", without=without)


def test_nothing_can_be_chosen_from_nothing():
    with pytest.raises(InvalidOption, match="nothing to choose from"):
        options.one_of((), "a", "x")
