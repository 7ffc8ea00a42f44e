"""What a run remembers of its parts as JSON: names, plugins, versions and options, so that no two are confused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from inspect import signature
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gansdk.registry.origins import origin_of
from gansdk.validation.paths import as_utf8

DEPTH = 8
"""Containers inside one another that are looked into; what lies deeper is known by its type."""


def recorded(part: object) -> dict[str, Any]:
    """How a part was asked for: name, plugin, version and options; of one that was passed, its class.

    What a part lets a run be continued with other values of (`Pruner.changeable`) is left out.
    """
    if origin := origin_of(part):
        changeable = getattr(part, "changeable", ())
        return {
            "name": origin.name,
            "plugin": origin.plugin,
            "version": origin.version,
            "options": {name: value for name, value in sorted(origin.options.items()) if name not in changeable},
        }
    return {"part": _name(type(part))}


def described(part: object) -> dict[str, Any]:
    """A part's class and settings, for the record and for comparing runs.

    Settings are what its attributes say publicly, or privately under the name of an option of its class. What else is
    private belongs to a run, and an instance may have gone through one. Of a part that was passed as an instance they
    are all there is, so those that JSON cannot hold are recorded by a digest.
    """
    names = [*getattr(part, "__dict__", ()), *getattr(part, "__dataclass_fields__", ())]
    options = _options_of(type(part))
    values = {name: getattr(part, name, None) for name in dict.fromkeys(names) if not name.startswith("_")}
    for name in names:
        if name.startswith("_") and (option := name.lstrip("_")) in options and option not in values:
            values[option] = getattr(part, name)
    by_name = origin_of(part) is not None
    facts = {name: said(value) for name, value in values.items() if _is_plain(value) or not (by_name or _learns(value))}
    return {"part": _name(type(part)), **facts}


def recorded_whole(part: object) -> dict[str, Any]:
    """As `recorded`, and of a part that was passed what its attributes say, where nothing else says it."""
    return recorded(part) if origin_of(part) else described(part)


def said(value: object, depth: int = DEPTH) -> Any:
    """The value as JSON data: itself where it is plain, else its type with a digest of what it holds.

    Equal values give equal data in every process: never an address, and never the order of a set.
    """
    inner = depth - 1
    if value is None or (isinstance(value, (bool, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, (str, PurePath)) and not isinstance(value, Enum):
        return as_utf8(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth <= 0:
        return {"type": _name(type(value))}
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: said(item, inner) for key, item in value.items()}
        return _sorted([[said(key, inner), said(item, inner)] for key, item in value.items()])
    if isinstance(value, AbstractSet):
        return _sorted([said(item, inner) for item in value])
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _digest(value, bytes(value))
    if isinstance(value, Sequence):
        return [said(item, inner) for item in value]
    return _told(value, inner)


def _told(value: object, depth: int) -> Any:
    """An object that is no plain data, by its type and a digest of what decides what it does."""
    if isinstance(value, Tensor):
        return _digest(value, _bytes_of(value), shape=list(value.shape))
    if isinstance(value, np.ndarray):
        return _digest(value, np.ascontiguousarray(value).tobytes(), shape=list(value.shape))
    if isinstance(value, (np.generic, torch.Size)):
        return said(value.item(), depth) if isinstance(value, np.generic) else list(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, nn.Module):
        state = {name: said(item, 1) for name, item in value.state_dict().items() if isinstance(item, Tensor)}
        return _digest(value, repr(sorted(state.items())).encode())
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, partial):
        return {"type": "partial", "of": [said(item, depth) for item in (value.func, value.args, value.keywords)]}
    if isinstance(value, MethodType):
        return {"type": "method", "of": [value.__func__.__qualname__, said(value.__self__, depth)]}
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        more = said([held, value.__defaults__, value.__kwdefaults__], depth)
        name = f"{value.__module__}.{value.__qualname__}"
        return {"type": "function", "name": name, "sha256": _hash(_code(value.__code__) + repr(more).encode())}
    if is_dataclass(value):
        return {
            "type": _name(type(value)),
            **{f.name: said(getattr(value, f.name, None), depth) for f in fields(value)},
        }
    name = getattr(value, "__qualname__", "") or (value.__name__ if isinstance(value, ModuleType) else "")
    if isinstance(name, str) and name:  # of a function that is written in C, or a module
        return {"type": _name(type(value)), "name": f"{getattr(value, '__module__', '')}.{name}"}
    # Objects may hold half the program, so less of them is looked into than of containers.
    attributes = getattr(value, "__dict__", {})
    facts = {key: said(item, depth - 3) for key, item in attributes.items() if isinstance(key, str)}
    return {"type": _name(type(value)), **({"sha256": _hash(repr(sorted(facts.items())).encode())} if facts else {})}


def _is_plain(value: object) -> bool:
    """Whether JSON can hold it."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def _learns(value: object) -> bool:
    """Whether a run may change it, so that it says nothing about what was asked for."""
    if isinstance(value, Mapping):
        return any(map(_learns, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_learns, value))
    return isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad)


def _options_of(kind: type) -> set[str]:
    try:
        return set(signature(kind).parameters)
    except (TypeError, ValueError):  # a class without a signature
        return set()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=repr)


def _digest(value: object, content: bytes, **more: Any) -> dict[str, Any]:
    return {"type": _name(type(value)), **more, "sha256": _hash(content)}


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    if tensor.is_meta or tensor.layout != torch.strided:
        return b""
    plain = tensor.detach().cpu().contiguous()
    return f"{plain.dtype} ".encode() + plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _code(code: CodeType) -> bytes:
    """What a function does: its instructions and constants, but not the lines and files they stand in."""
    constants = [_code(item) if isinstance(item, CodeType) else repr(said(item)).encode() for item in code.co_consts]
    return b"\0".join([code.co_code, *constants, repr(code.co_names).encode()])


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading it is the test
    except ValueError:
        return False
    return True
