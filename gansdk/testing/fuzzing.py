"""What a fuzzer of files and options needs: damaged bytes, hostile JSON, and the bounds that every case must keep.

Needs `gansdk[testing]`.
"""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gansdk.errors import GansdkError

NIGHTLY = "nightly"
"""Name of the hypothesis profile of many more cases: `pytest tests/fuzz --hypothesis-profile=nightly`."""
TIMES = 20
"""As many cases a night as in the test suite, each time others."""
MOST_SECONDS = 20.0
"""Of the processor: how long a case waits says more about what else the machine does."""
HANGING_S = 300.0
"""A case that has not ended then never will."""
MOST_BYTES = 10**9
"""Of memory beyond what the process had before a case."""
LONGEST_MESSAGE = 4000
CANARY = "gansdk_foreign_canary"
"""A module that hostile files try to import; it is on the path of the tests that say so, and must never be imported."""
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "shutil.rmtree")
"""Audit events that no reading of a file may raise."""


def register_profiles() -> None:
    """Make the nightly profile known to hypothesis; call it from a conftest."""
    settings.register_profile(NIGHTLY, parent=settings.get_profile("default"))


def bounded(cases: int) -> settings:
    """A decorator: `cases` cases that are the same in every run, or `TIMES` as many new ones a night."""
    nightly = settings.get_current_profile_name() == NIGHTLY
    return settings(
        max_examples=TIMES * cases if nightly else cases,
        derandomize=not nightly,
        print_blob=nightly,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Overrun(AssertionError):
    """A case took longer or more memory than it may, or had a forbidden effect."""


@dataclass
class Figures:
    """What all cases of this process came to."""

    cases: int = 0
    refused: int = 0
    """Cases that ended in an error of ours."""
    seconds: float = 0.0
    """Of the slowest."""
    bytes: int = 0
    """Of memory, of the one that took most."""

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.cases:,} cases, {self.refused:,} of them refused in words; the slowest took {self.seconds:.1f} s, "
            f"the largest {self.bytes / 1e6:,.0f} MB"
        )


FIGURES = Figures()


@contextmanager
def contained(*, expected: tuple[type[BaseException], ...] = (GansdkError,)) -> Iterator[None]:
    """Run a case: it may raise an error of ours in readable words, and must keep the bounds of this module.

    Raises:
        Overrun: it did not; what else it raised passes.
    """
    before, began = _memory(reset=True), time.process_time()
    effects: list[str] = []
    _WATCHED.append(effects)
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, HANGING_S)
    FIGURES.cases += 1
    try:
        yield
    except expected as error:
        FIGURES.refused += 1
        _check_words(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        _WATCHED.remove(effects)
    seconds, grown = time.process_time() - began, _memory() - before
    FIGURES.seconds, FIGURES.bytes = max(FIGURES.seconds, seconds), max(FIGURES.bytes, grown)
    if seconds > MOST_SECONDS:
        raise Overrun(f"it took {seconds:.1f} s")
    if grown > MOST_BYTES:
        raise Overrun(f"it took {grown / 1e9:.2f} GB")
    if effects:
        raise Overrun(f"it caused {effects[:3]}")
    if CANARY in sys.modules:
        raise Overrun("it imported a module that a file named")


def _check_words(error: BaseException) -> None:
    text = str(error)
    if not text.strip():
        raise Overrun(f"{type(error).__name__} says nothing") from error
    if len(text) > LONGEST_MESSAGE:
        raise Overrun(f"{type(error).__name__} says {len(text)} characters: {text[:200]}") from error
    strange = [letter for letter in text if not (letter.isprintable() or letter == "\n")]
    if strange:
        raise Overrun(f"{type(error).__name__} says {strange[0]!r}: {text[:200]!r}") from error


def _too_long(*_: object) -> None:
    raise Overrun(f"it has not ended after {HANGING_S:.0f} s")


def _memory(*, reset: bool = False) -> int:
    """Bytes at the highest since the last reset, or 0 where the system does not tell."""
    status = Path("/proc/self/status")
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except OSError:
        return 0
    return int(fields["VmHWM"].split()[0]) * 1024


_WATCHED: list[list[str]] = []


def watch() -> None:
    """Let `contained` see what code does; once for a process, since Python cannot take its hook away again."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _WATCHED and (event in FORBIDDEN or (event == "import" and arguments[0] == CANARY)):
        _WATCHED[-1].append(f"{event} {arguments[:1]}"[:200])


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one to four faults: flipped bits, parts cut out, doubled or overwritten, the end cut off."""
    places = st.integers(0, max(0, len(content) - 1))
    return st.lists(st.tuples(st.sampled_from(list(_FAULTS)), places, places, st.binary(max_size=12)), max_size=4).map(
        lambda faults: _with_faults(content, faults)
    )


def _with_faults(content: bytes, faults: Sequence[tuple[str, int, int, bytes]]) -> bytes:
    for name, place, other, new in faults:
        start, end = sorted((min(place, len(content)), min(other, len(content))))
        content = _FAULTS[name](content, start, end, new)
    return content


_FAULTS: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "flip": lambda old, a, b, new: old[:a] + bytes([old[a] ^ 1 << b % 8]) + old[a + 1 :] if a < len(old) else old,
    "cut": lambda old, a, b, new: old[:a],
    "leave out": lambda old, a, b, new: old[:a] + old[b:],
    "double": lambda old, a, b, new: old[:b] + old[a:],
    "put": lambda old, a, b, new: old[:a] + new + old[a + len(new) :],
    "insert": lambda old, a, b, new: old[:a] + new + old[a:],
    "zeros": lambda old, a, b, new: old[:a] + bytes(b - a) + old[b:],
}

HOSTILE_TEXTS = (
    "", " ", "\0", "..", "../../etc/passwd", "/dev/zero", "x" * 5000, "\x1b[31m", "\ud800", "‮", "%s{0}", "__class__",
    CANARY, f"{CANARY}:boom", "1e999", "nan", "[/red]", "<script>", "weight", "main", "Symbol",
)  # fmt: skip
HOSTILE_NUMBERS = (
    0, -1, 1, 2, 3, 7, 1000, 200_000, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(2**70),
    0.5, -0.0, 1e-308, 1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def hostile_values() -> st.SearchStrategy[Any]:
    """JSON values of every type and of unlikely sizes."""
    return st.one_of(
        st.sampled_from(HOSTILE_NUMBERS),
        st.sampled_from(HOSTILE_TEXTS),
        st.sampled_from((None, True, False, [], {}, [[]], [None], {"": 0}, {"name": None})),
        st.sampled_from((30, 500)).map(_nested),
        st.lists(st.sampled_from(HOSTILE_NUMBERS), max_size=5),
        st.integers(1, 3000).map(lambda count: list(range(count))),
        st.text(max_size=8),
    )


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def changed_json(draw: st.DrawFn, data: Any) -> Any:
    """A copy of JSON data with one to three values replaced, left out, added, moved to another place or retyped."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        if not places:
            return data
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "copy", "number", "text")))
        try:
            if change == "replace":
                holder[key] = draw(hostile_values())
            elif change == "remove":
                del holder[key]
            elif change == "add":
                _add(holder, draw(st.sampled_from(HOSTILE_TEXTS)), draw(hostile_values()))
            elif change == "copy":
                other, place = draw(st.sampled_from(places))
                holder[key] = copy.deepcopy(other[place])
            elif change == "number":
                holder[key] = (holder[key] if isinstance(holder[key], int) else 1) * draw(st.integers(-3, 10**6))
            else:
                holder[key] = str(holder[key])
        except (LookupError, ValueError):  # an earlier change took the place away, or the number's digits are too many
            continue
    return data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside JSON data, as its holder and key."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data[:50]))
    for key, value in items:
        yield data, key
        yield from _places(value)


def _add(holder: Any, key: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[key] = value
    else:
        holder.append(value)
