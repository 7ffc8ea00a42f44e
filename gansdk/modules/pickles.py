"""What a checkpoint would make, judged from its bytes before torch's restricted unpickler makes any of it."""

from __future__ import annotations

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import nn

from gansdk.files import check_held

DEEPEST = 100
"""Values inside one another, at most: Python itself crashes on far deeper ones."""
LONGEST_PICKLE = 64 * 2**20
"""Bytes of the values beside the tensors."""
MOST_OPCODES = 2_000_000
"""Of one pickle; a tensor with its name takes about forty."""
CODE = "it holds objects other than plain tensors, and loading those could run any code"
_ARCHIVE = b"PK\x03\x04"
_TORCH = ("torch", "torch._tensor", "torch._utils", "torch.nn.parameter", "torch.storage")
_DTYPES = {
    f"torch {str(kind).removeprefix('torch.')}": kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and not str(kind).startswith("torch.q")
}
_STORAGES = {
    f"torch {kind}Storage": dtype
    for kind, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
    }.items()
} | {"torch.storage UntypedStorage": torch.uint8}
_HASHED = (str, int, float, type(None))
"""What keys may be; the key of a tuple that holds itself through the memo takes forever to hash, and so do
many longer numbers of one hash."""


@dataclass(slots=True, eq=False)
class _Made:
    """What unpickling would make, where it is no text, number or None."""

    kind: str
    items: list[Any] = field(default_factory=list)
    """Of a list, a tuple or a Size; the keys of a dict."""
    depth: int = 0
    size: int = 0
    """Bytes of a storage."""
    dtype: torch.dtype | None = None
    """Of a storage, or this value itself."""


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    elements: int
    size: int


def check_checkpoint(file: BinaryIO) -> None:
    """Raise ValueError if an open checkpoint makes what torch.save writes of no weights, or claims more than it holds.

    The file is at its start again afterwards; whatever is no checkpoint at all may pass.
    """
    check_held(file)
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        file.seek(0)
        _check_archive(file)
    else:
        file.seek(0)
        _check_legacy(file)
    file.seek(0)


def _check_archive(file: BinaryIO) -> None:
    # The reader of torch.load itself: another one could see other records in a crafted archive.
    reader = torch._C.PyTorchFileReader(file)
    names = reader.get_all_records()
    if len(set(names)) < len(names):
        raise ValueError("it holds a record twice")
    size = file.seek(0, io.SEEK_END)
    if (claimed := sum(map(reader.get_record_size, names))) > size:
        raise ValueError(f"its records unpack to {claimed:,} bytes, but torch.save packs nothing and it has {size:,}")
    if "constants.pkl" in names:
        raise ValueError("it is a TorchScript program")
    if "data.pkl" not in names:
        return
    pickle = _Pickle(is_legacy=False)
    pickle.follow(io.BytesIO(reader.get_record("data.pkl")))
    for key, storage in pickle.storages.items():
        if f"data/{key}" not in names or reader.get_record_size(f"data/{key}") != storage.size:
            raise ValueError(f"it does not hold the {storage.size:,} bytes of the values that it claims")


def _check_legacy(file: BinaryIO) -> None:
    """A file from before torch 1.6: magic number, protocol, system, content, keys of storages, and their bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    for _ in range(3):
        _Pickle(is_legacy=True).follow(file)
    content = _Pickle(is_legacy=True)
    content.follow(file)
    if sum(storage.size for storage in content.storages.values()) > size:
        raise ValueError(f"it claims more values than its {size:,} bytes hold")
    keys = _Pickle(is_legacy=True).follow(file)
    named = keys.items if isinstance(keys, _Made) and keys.kind == "list" else []
    if not all(isinstance(key, str) for key in named) or sorted(named) != sorted(content.storages):
        raise ValueError("it does not hold the values of every tensor once")


class _Pickle:
    """Follows torch's unpickler, with the kinds of values in place of the values."""

    def __init__(self, *, is_legacy: bool) -> None:
        self.storages: dict[str, _Storage] = {}
        self._is_legacy = is_legacy
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self, file: BinaryIO) -> Any:
        """What the pickle would make, or ValueError; the file is behind the pickle afterwards."""
        start = file.tell()
        for number, (opcode, argument, position) in enumerate(pickletools.genops(file)):
            if (position or 0) - start > LONGEST_PICKLE or number > MOST_OPCODES:
                raise ValueError("its values beside the tensors are too many, or too large")
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _EMPTY:
                self._stack.append(_Made(_EMPTY[opcode.name], depth=1))
            elif opcode.name in ("BINPUT", "LONG_BINPUT"):
                self._memo[int(argument or 0)] = self._stack[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[int(argument or 0)])
            elif opcode.name == "GLOBAL":
                self._stack.append(_known(str(argument)))
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self)
            elif opcode.name not in ("PROTO", "STOP"):
                raise ValueError(CODE)
        return self._stack.pop()

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        items = self._marked()
        self._stack.append(_tuple_of(items))

    def _short_tuple(self, length: int) -> None:
        items = [self._stack.pop() for _ in range(length)]
        self._stack.append(_tuple_of(items[::-1]))

    def _append(self, items: list[Any]) -> None:
        target = self._target("list")
        _hold(target, items)
        target.items += items

    def _set(self, pairs: list[Any]) -> None:
        target = self._target("dict", "ordered", "counter")
        _hold(target, pairs)
        target.items += _keys(pairs[::2])
        if len(pairs) % 2:
            raise ValueError("it has a key without a value")

    def _target(self, *kinds: str) -> _Made:
        target = self._stack[-1]
        if not isinstance(target, _Made) or target.kind not in kinds:
            raise ValueError(CODE)
        return target

    def _build(self) -> None:
        """Attributes of an OrderedDict: a state dict has the versions of its modules there."""
        state = self._stack.pop()
        target = self._target("ordered")
        _check_attributes(state, OrderedDict)
        _hold(target, [state])

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Made) or function.kind not in _CALLS:
            raise ValueError(CODE)
        if not isinstance(arguments, _Made) or arguments.kind != "tuple":
            raise _strange(function.kind)
        value = _CALLS[function.kind](arguments.items)
        if value is None:
            raise _strange(function.kind)
        self._stack.append(value)

    def _storage(self) -> None:
        identity = self._stack.pop()
        items = identity.items if isinstance(identity, _Made) and identity.kind == "tuple" else []
        if len(items) != (6 if self._is_legacy else 5) or items[0] != "storage" or (self._is_legacy and items[5]):
            raise _strange("a storage")
        kind, key, location, elements = items[1:5]
        is_storage = isinstance(kind, _Made) and kind.kind in _STORAGES
        if not is_storage or not isinstance(key, str) or not isinstance(location, str) or not _are_whole([elements]):
            raise _strange("a storage")
        if not key.isascii():  # bytes that torch may read as another text
            raise _strange("a storage")
        dtype = _STORAGES[kind.kind]
        storage = _Storage(kind.kind, elements, elements * dtype.itemsize)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("it holds the same values as different kinds")
        self._stack.append(_Made("storage", size=storage.size, dtype=dtype))


_VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_TUPLE": "tuple", "EMPTY_SET": "set"}
_STEPS: dict[str, Callable[[_Pickle], None]] = {
    "MARK": _Pickle._mark,
    "TUPLE": _Pickle._tuple,
    "TUPLE1": lambda pickle: pickle._short_tuple(1),
    "TUPLE2": lambda pickle: pickle._short_tuple(2),
    "TUPLE3": lambda pickle: pickle._short_tuple(3),
    "APPEND": lambda pickle: pickle._append([pickle._stack.pop()]),
    "APPENDS": lambda pickle: pickle._append(pickle._marked()),
    "SETITEM": lambda pickle: pickle._set([pickle._stack.pop(), pickle._stack.pop()][::-1]),
    "SETITEMS": lambda pickle: pickle._set(pickle._marked()),
    "BUILD": _Pickle._build,
    "REDUCE": _Pickle._reduce,
    "BINPERSID": _Pickle._storage,
}


def _known(name: str) -> _Made:
    """A function, class or constant that torch.save writes beside weights."""
    if name in _DTYPES:
        return _Made("dtype", dtype=_DTYPES[name])
    if name in _CALLS or name in _STORAGES:
        return _Made(name)
    module, _, kind = name.partition(" ")
    if module in _TORCH or kind == "bytearray":
        raise _strange(name)
    raise ValueError(CODE)


def _strange(name: str) -> ValueError:
    return ValueError(f"it holds values of a type that weights do not have ({name[:60]})")


def _hold(target: _Made, items: list[Any]) -> None:
    """Put values into another one, if that does not nest too deep; functions are no values."""
    for item in items:
        if isinstance(item, _Made) and item is not target:
            if item.kind in _CALLS or (item.kind in _STORAGES and target.kind != "tuple"):
                raise _strange(item.kind)
            target.depth = max(target.depth, item.depth + 1)
    if target.depth > DEEPEST:
        raise ValueError(f"it nests values more than {DEEPEST} deep")


def _tuple_of(items: list[Any]) -> _Made:
    value = _Made("tuple", items, depth=1)
    _hold(value, items)
    return value


def _keys(keys: list[Any]) -> list[Any]:
    if not all(isinstance(key, _HASHED) and not (isinstance(key, int) and abs(key) >= 2**60) for key in keys):
        raise ValueError("it has keys that are neither text nor short numbers")
    return keys


def _check_attributes(state: Any, of: type) -> None:
    """Refuse attributes in whose place `of` has its own."""
    if not isinstance(state, _Made) or state.kind not in ("dict", "ordered"):
        raise _strange(f"attributes of {of.__name__}")
    for name in state.items:
        if not isinstance(name, str) or hasattr(of, name):
            raise _strange(f"attributes of {of.__name__}")


def _are_whole(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 2**62 for value in values)


def _sizes(value: Any) -> list[int] | None:
    is_sizes = isinstance(value, _Made) and value.kind in ("tuple", "Size") and _are_whole(value.items)
    return value.items if is_sizes else None


def _is_hooks(value: Any) -> bool:
    """Whether it holds no hooks; nothing can be added to it any more."""
    if value is None:
        return True
    if not isinstance(value, _Made) or value.kind not in ("ordered", "hooks") or value.items:
        return False
    value.kind = "hooks"
    return True


def _ordered(arguments: list[Any]) -> _Made | None:
    """Empty, or of the pairs that Python 2 wrote."""
    value = _Made("ordered", depth=1)
    if not arguments:
        return value
    [pairs] = arguments if len(arguments) == 1 else [None]
    if not isinstance(pairs, _Made) or pairs.kind != "list":
        return None
    for pair in pairs.items:
        if not isinstance(pair, _Made) or pair.kind not in ("list", "tuple") or len(pair.items) != 2:
            return None
        value.items += _keys(pair.items[:1])
        _hold(value, pair.items)
    return value


def _counter(arguments: list[Any]) -> _Made | None:
    if not arguments:
        return _Made("counter", depth=1)
    if len(arguments) != 1 or not isinstance(arguments[0], _Made) or arguments[0].kind != "dict":
        return None
    return _Made("counter", list(arguments[0].items), depth=arguments[0].depth)


def _set_of(arguments: list[Any]) -> _Made | None:
    if len(arguments) != 1 or not isinstance(arguments[0], _Made) or arguments[0].kind != "list":
        return None
    return _Made("set", _keys(list(arguments[0].items)), depth=1)


def _bytes(arguments: list[Any]) -> _Made | None:
    is_latin = len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"
    return _Made("bytes") if is_latin else None


def _complex(arguments: list[Any]) -> _Made | None:
    is_complex = len(arguments) == 2 and all(isinstance(part, float) for part in arguments)
    return _Made("complex") if is_complex else None


def _size(arguments: list[Any]) -> _Made | None:
    sizes = _sizes(arguments[0]) if len(arguments) == 1 else None
    return None if sizes is None else _Made("Size", sizes, depth=1)


def _device(arguments: list[Any]) -> _Made | None:
    is_device = len(arguments) in (1, 2) and isinstance(arguments[0], str) and _are_whole(arguments[1:])
    return _Made("device") if is_device else None


def _window(arguments: list[Any], dtype: torch.dtype | None = None) -> _Made | None:
    """Values in a storage: from where, of what sizes and strides; no tensor may reach beyond its storage."""
    storage, offset = arguments[:2]
    sizes, strides = map(_sizes, arguments[2:4])
    if not isinstance(storage, _Made) or storage.dtype is None or storage.kind != "storage":
        return None
    if sizes is None or strides is None or len(sizes) != len(strides) or not _are_whole([offset]):
        return None
    last = offset + sum((length - 1) * step for length, step in zip(sizes, strides, strict=True))
    end = (last + 1 if all(sizes) else offset) * (dtype or storage.dtype).itemsize
    if end > storage.size:
        raise ValueError(f"it has a tensor that ends at byte {end:,} of {storage.size:,}")
    return _Made("tensor")


def _tensor(arguments: list[Any]) -> _Made | None:
    return _window(arguments) if len(arguments) == 4 else None


def _tensor_v2(arguments: list[Any]) -> _Made | None:
    is_whole = len(arguments) == 6 and isinstance(arguments[4], bool) and _is_hooks(arguments[5])
    return _window(arguments) if is_whole else None


def _tensor_v3(arguments: list[Any]) -> _Made | None:
    """As the second version, for the kinds of numbers that have no storages of their own."""
    is_whole = len(arguments) == 7 and isinstance(arguments[4], bool) and _is_hooks(arguments[5])
    dtype = arguments[6] if is_whole else None
    if not isinstance(dtype, _Made) or dtype.kind != "dtype":
        return None
    return _window(arguments, dtype.dtype)


def _meta_tensor(arguments: list[Any]) -> _Made | None:
    is_meta = len(arguments) == 4 and isinstance(arguments[0], _Made) and arguments[0].kind == "dtype"
    if not is_meta or _sizes(arguments[1]) is None or _sizes(arguments[2]) is None:
        return None
    return _Made("tensor") if isinstance(arguments[3], bool) else None


def _layout(arguments: list[Any]) -> _Made | None:
    return _Made("layout") if arguments == ["torch.sparse_coo"] else None


def _sparse_tensor(arguments: list[Any]) -> _Made | None:
    """Indices, values and sizes, which torch compares with one another; whoever reads weights refuses it by name."""
    if [_kind(argument) for argument in arguments] != ["layout", "tuple"]:
        return None
    parts = arguments[1].items
    if [_kind(part) for part in parts[:2]] != ["tensor"] * 2 or len(parts) not in (3, 4) or _sizes(parts[2]) is None:
        return None
    return _Made("sparse") if all(isinstance(part, bool) for part in parts[3:]) else None


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, _Made) else ""


def _parameter(arguments: list[Any]) -> _Made | None:
    is_parameter = len(arguments) == 3 and isinstance(arguments[0], _Made) and arguments[0].kind == "tensor"
    if not is_parameter or not isinstance(arguments[1], bool) or not _is_hooks(arguments[2]):
        return None
    return _Made("tensor")


def _parameter_with_state(arguments: list[Any]) -> _Made | None:
    if len(arguments) != 4:
        return None
    _check_attributes(arguments[3], nn.Parameter)
    value = _parameter(arguments[:3])
    if value is not None:
        _hold(value, arguments[3:])
    return value


_CALLS: dict[str, Callable[[list[Any]], _Made | None]] = {
    "collections OrderedDict": _ordered,
    "collections Counter": _counter,
    "__builtin__ set": _set_of,
    "builtins set": _set_of,
    "__builtin__ complex": _complex,
    "builtins complex": _complex,
    "_codecs encode": _bytes,
    "torch Size": _size,
    "torch device": _device,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch.serialization _get_layout": _layout,
    "torch._utils _rebuild_sparse_tensor": _sparse_tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter_with_state,
}
"""What torch.save writes as calls, each with the judge of its arguments: None for those that it never writes."""
