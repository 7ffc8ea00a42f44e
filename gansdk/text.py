"""What a terminal may show of words that came from a file, a plugin or a user. Torch-free."""

from __future__ import annotations

import json
import reprlib

LONGEST = 4000
"""Characters of a message; about two screens."""
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 300, 120, 60
_SHORT.maxlevel = 3


def readable(text: str) -> str:
    """The text on one line, as `visible` shows it; of a very long one the beginning, the end and its length."""
    if len(text) <= LONGEST and len(shown := visible(text)) <= LONGEST:
        return shown
    # Cut before it is written out, as it may be a gigabyte, and after, as that makes it longer.
    half = LONGEST // 2 - 50
    return f"{visible(text[:half])[:half]} [... {len(text):,} characters in all ...] {visible(text[-half:])[-half:]}"


def visible(text: str) -> str:
    """The text with everything that a terminal obeys instead of showing it written out, as `repr` does."""
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_json(text: str) -> str:
    """JSON that says the same, with such characters as its own escapes; line breaks between values stay."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def one_line(text: str, longest: int = 300) -> str:
    """Somebody else's text in one line without control characters, and not longer than that."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def quoted(value: object) -> str:
    """A value as messages show it: its repr in one line, shortened where it is long; its type where it has none."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except Exception:  # a stranger's object, or more digits or levels than Python prints
        return f"<{type(value).__name__}>"


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
