"""What a terminal may show."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gansdk.errors import CheckpointError, GansdkError, GansdkWarning, IncompatibleParts
from gansdk.text import LONGEST, readable, visible_json


@given(st.text())
def test_readable_text_is_on_one_line_and_holds_nothing_that_a_terminal_obeys(text):
    assert readable(text).isprintable()
    assert readable(readable(text)) == readable(text)


@pytest.mark.parametrize("text", ["", "macs<=60% at 256x256, 'résnet' \\ größe 写真", "a" * LONGEST])
def test_ordinary_words_stay_as_they_are_to_the_byte(text):
    assert readable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff.png", "\\udcff.png"),
    ],
)
def test_characters_that_change_how_others_look_are_written_out(text, shown):
    assert readable(text) == shown


@pytest.mark.parametrize("character", ["k", "\x1b", "\n"])
def test_of_a_very_long_text_beginning_end_and_length_are_shown(character):
    text = f"begin{character * 10**6}the end"
    shown = readable(text)
    assert shown.startswith("begin")
    assert shown.endswith("the end")
    assert "1,000,012 characters in all" in shown
    assert len(shown) <= LONGEST
    assert readable(shown) == shown


@pytest.mark.parametrize("kind", [GansdkError, CheckpointError, GansdkWarning])
def test_messages_of_errors_and_warnings_are_readable_whoever_raises_them(kind):
    assert str(kind("the key '\x1b[2J' is new")) == "the key '\\x1b[2J' is new"
    assert len(str(kind("key " * 10**6))) <= LONGEST
    assert str(kind()) == ""
    assert IncompatibleParts("a\nb", missing=["c"]).missing == ("c",)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_with_its_terminal_codes_written_out_says_the_same(value):
    text = json.dumps(value, indent=2, ensure_ascii=False)
    shown = visible_json(text)
    assert json.loads(shown) == value
    assert all(line.isprintable() for line in shown.split("\n"))
