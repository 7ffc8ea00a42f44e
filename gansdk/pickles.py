"""What a checkpoint would make, judged from its bytes before torch's restricted unpickler makes any of it."""

from __future__ import annotations

import io
import pickletools
from typing import BinaryIO

import torch

from gansdk.files import check_held

DEEPEST = 100
"""Values inside one another, at most: Python itself crashes on far deeper keys."""
LONGEST_PICKLE = 64 * 2**20
"""Bytes of the values beside the tensors; every one of them costs a thousand steps."""
_ARCHIVE = b"PK\x03\x04"
_LEGACY_PICKLES = 5
"""In a file from before torch 1.6: magic number, protocol, system, content, keys of storages."""
_TENSORS = frozenset(
    "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state "
    "_rebuild_meta_tensor_no_storage _rebuild_sparse_tensor".split()
)
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")


def check_checkpoint(file: BinaryIO) -> None:
    """Raise ValueError if an open checkpoint claims more than it holds, or nests or makes what no weights need.

    The file is at its start again afterwards; whatever is no checkpoint at all may pass.
    """
    check_held(file)
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        file.seek(0)
        _check_archive(file)
    else:
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(file)
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
    if "data.pkl" in names:
        _check_pickle(io.BytesIO(reader.get_record("data.pkl")))


def _check_pickle(file: BinaryIO) -> None:
    """Follow how deep the values on the stack are, without making them; the file is behind the pickle afterwards."""
    start = file.tell()
    stack: list[int | None] = []  # None: a mark
    memo: dict[int, int] = {}
    for opcode, argument, position in pickletools.genops(file):
        if (position or 0) - start > LONGEST_PICKLE:
            raise ValueError(f"its values beside the tensors take more than {LONGEST_PICKLE:,} bytes")
        if opcode.name == "GLOBAL":
            _check_global(str(argument))
        if opcode.name == "MARK":
            stack.append(None)
        elif opcode.name in _PUT:
            memo[len(memo) if argument is None else int(argument)] = (stack[-1] if stack else 0) or 0
        elif opcode.name in _GET:
            stack.append(memo.get(int(argument or 0), 0))
        else:
            inside = _popped(stack, opcode)
            depth = inside + 1 if opcode.stack_before else 0
            if depth > DEEPEST:
                raise ValueError(f"it nests values more than {DEEPEST} deep")
            stack.extend(depth for _ in opcode.stack_after)


def _popped(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> int:
    """Depth of the deepest value that an operation takes off the stack."""
    deepest = 0
    takes = list(opcode.stack_before)
    if pickletools.stackslice in takes:
        while stack and (depth := stack.pop()) is not None:
            deepest = max(deepest, depth)
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes:
        if stack:
            deepest = max(deepest, stack.pop() or 0)
    return deepest


def _check_global(name: str) -> None:
    """Refuse what torch would make of a number alone, or of memory that it does not check."""
    module, _, kind = name.partition(" ")
    if (module == "torch._utils" and kind not in _TENSORS) or kind == "bytearray":
        raise ValueError(f"it holds values of a kind that no weights have ({name[:60]})")
