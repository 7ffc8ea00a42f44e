"""Values that no argument should choke on: each is taken for what it is, or refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from gansdk.errors import GansdkError


class Spiteful:
    """Raises whatever is done with it."""

    def _refuse(self, *_: object) -> NoReturn:
        raise ZeroDivisionError("spite")

    __eq__ = __bool__ = __str__ = __repr__ = __len__ = __iter__ = __getitem__ = __call__ = __format__ = _refuse
    __hash__ = object.__hash__


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> dict[str, Any]:
    """A mapping that holds itself."""
    value: dict[str, Any] = {}
    value["A2B"] = value
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "nothing": dict,
    "empty list": list,
    "empty text": str,
    "null character": lambda: "\0",
    "path with a null character": lambda: Path("a\0b"),
    "control characters": lambda: "\x1b[31m\r\n",
    "no unicode": lambda: "caf\udce9",
    "lone surrogate": lambda: "\ud800",
    "markup": lambda: "[/red]",
    "long text": lambda: "n" * 5000,
    "longer text": lambda: "1" * 2_000_000,
    "more than 64 bits": lambda: 2**70,
    "more digits than Python prints": lambda: 10**5000,
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "true": lambda: True,
    "false": lambda: False,
    "half": lambda: 1.5,
    "nan": lambda: math.nan,
    "infinity": lambda: math.inf,
    "minus infinity": lambda: -math.inf,
    "complex": lambda: 1j,
    "too large a number in text": lambda: "1e999",
    "set": lambda: {1, 2},
    "bytes": lambda: b"bytes",
    "spiteful": Spiteful,
    "spiteful list": lambda: [Spiteful()],
    "generator": lambda: (number for number in range(3)),
    "function": lambda: len,
    "class": lambda: int,
    "mapping of numbers": lambda: {1: 2},
    "mapping of None": lambda: {None: None},
    "nested mapping": lambda: {"name": {"name": {}}},
    "endless mapping": endless,
    "mapping with routes": lambda: {"A2B": None},
    "deep list": lambda: nested(100_000),
    "list of None": lambda: [None],
    "list of mappings": lambda: [{}],
    "list of texts": lambda: ["", "\0"],
    "list of numbers": lambda: [0, -1, 2**70, math.nan],
    "deep JSON": lambda: '{"name": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "cut JSON": lambda: '{"name": ',
    "deep cut JSON": lambda: '{"name": ' * 100_000,
    "JSON with a key twice": lambda: '{"name": "folder", "name": "photos"}',
    "JSON of a number": lambda: '{"name": 3}',
    "JSON with NaN": lambda: '{"name": "folder", "path": NaN}',
    "number of numpy": lambda: np.int64(2),
    "float of numpy": lambda: np.float32(0.5),
    "flag of numpy": lambda: np.bool_(True),
    "array": lambda: np.zeros(3),
    "tensor": lambda: torch.zeros(3),
    "number in a tensor": lambda: torch.tensor(2),
    "empty network": torch.nn.Module,
    "network without weights": torch.nn.Identity,
    "error": lambda: ValueError("value"),
    "a device": lambda: Path("/dev/zero"),
    "nothing but zeros": lambda: "/dev/zero",
    "no file": lambda: "/dev/null",
    "memory": lambda: "/proc/self/mem",
    "below a file": lambda: "/etc/hostname/below",
    "root": lambda: "/proc",
}
"""Name -> what makes the value: of the types of JSON and of Python, of other libraries, and with a will of its own."""


def places(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name -> a path at which there is something odd, made below `folder`."""
    import os
    import socket

    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "file").write_bytes(b"file")
    os.mkfifo(folder / "fifo")
    (folder / "linked").mkdir()
    (folder / "link").symlink_to("linked")
    (folder / "others").mkdir()
    (folder / "others" / "file").write_bytes(b"file")
    (folder / "link to a folder of others").symlink_to("others")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "socket"))
    for name in ("loop", "dangling", "file", "fifo", "socket", "link", "others", "link to a folder of others"):
        yield name, folder / name
    yield "below a file", folder / "file" / "below"
    yield "below a loop", folder / "loop" / "below"
    yield "too long a name", folder / ("n" * 300)
    yield "no unicode", folder / os.fsdecode(b"caf\xe9")


def told(call: Callable[[], object]) -> str:
    """What a call says where it refuses, in one short paragraph; "" where it does not. Other errors pass."""
    try:
        call()
    except GansdkError as error:
        words = str(error)
    else:
        return ""
    assert words, "an error without words"
    assert len(words) < 1500, f"an error of {len(words)} characters: {words[:200]}"
    assert "\n" not in words, f"an error of several paragraphs: {words}"
    words.encode()  # no lone surrogates
    return words
