"""Checkpoints of anybody: damaged in their bytes, hostile in what they claim, and pickles that would run code."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import Tensor

import gansdk
from gansdk.testing.fuzzing import CANARY, HOSTILE_TEXTS, bounded, contained, damaged, hostile_values
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about its own deprecated tensors

STATE = randomise(SRResNet(SRResNetSizes(width=4, blocks=1, scale=2)), seed=0).state_dict()


def saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


FILES = {
    "zip.pth": saved(STATE),
    "legacy.pth": saved(STATE, _use_new_zipfile_serialization=False),
    "nested.pth": saved({"epoch": 3, "model": {"params_ema": STATE, "params": STATE}}),
    "plain.safetensors": to_safetensors(STATE),
}


def look(folder: Path, name: str, content: bytes) -> None:
    """What a user does first with a file."""
    file = folder / name
    file.write_bytes(content)
    with contained():
        gansdk.inspect(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@bounded(40)
@given(data=st.data(), name=st.sampled_from(list(FILES)))
def test_damaged_bytes_are_read_or_refused_in_words(folder: Path, data: st.DataObject, name: str) -> None:
    look(folder, name, data.draw(damaged(FILES[name])))


def _expanded(tensor: Tensor) -> Tensor:
    return torch.zeros(1).expand(20_000, *tensor.shape[1:]) if tensor.ndim else tensor


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "stride 0": _expanded,
    "huge and empty": lambda t: torch.zeros(0).as_strided((10**6, 10**6, 0), (0, 0, 0)),
    "no elements": lambda t: torch.zeros(0, *t.shape[1:]),
    "another rank": lambda t: t[None],
    "wider": lambda t: torch.cat([t, t]) if t.ndim else t,
    "integers": lambda t: t.to(torch.int8),
    "complex": lambda t: t.to(torch.complex64),
    "bits": lambda t: t > 0,
    "half": lambda t: t.half(),
    "bfloat": lambda t: t.bfloat16(),
    "double": lambda t: t.double(),
    "not a number": lambda t: t * float("nan") if t.is_floating_point() else t,
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "nested": lambda t: torch.nested.nested_tensor([t.reshape(-1), t.reshape(-1)[:1]]),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "scalar": lambda t: t.reshape(-1)[:1].sum(),
    "a number": lambda t: 3,
    "a list": lambda t: t.tolist() if t.numel() < 10**5 else t,  # the test itself would need gigabytes
    "a dict": lambda t: {"weight": t},
    "nothing": lambda t: None,
}
KEYS: dict[str, Callable[[str], Any]] = {
    "deep": lambda key: f"{'a.' * 2000}{key}",
    "far": lambda key: key.replace("0", "99999999"),
    "negative": lambda key: key.replace("0", "-1"),
    "long": lambda key: key + "x" * 10**6,
    "number": lambda key: 7,
    "tuple": lambda key: (key, 0),
    "empty": lambda key: "",
    "end": lambda key: key + "\0\x1b[2J",
    "prefix": lambda key: f"module.{key}",
}


@bounded(40)
@given(
    data=st.data(),
    changes=st.lists(st.sampled_from(list(CHANGES)), max_size=3),
    names=st.lists(st.sampled_from(list(KEYS)), max_size=2),
    everywhere=st.booleans(),
    legacy=st.booleans(),
)
def test_tensors_and_names_that_no_trainer_writes(
    folder: Path, data: st.DataObject, changes: list[str], names: list[str], everywhere: bool, legacy: bool
) -> None:
    state: dict[Any, Any] = dict(STATE)
    keys = st.sampled_from(list(STATE))
    for change in changes:
        for key in list(STATE) if everywhere else [data.draw(keys)]:
            if isinstance(state.get(key), Tensor):
                state[key] = changed(change, state[key])
    for name in names:
        key = data.draw(keys)
        if key in state:
            state[KEYS[name](key)] = state.pop(key)
    look(folder, "odd.pth", saved(state, _use_new_zipfile_serialization=not legacy))


def changed(change: str, tensor: Tensor) -> Any:
    try:
        return CHANGES[change](tensor)
    except (RuntimeError, NotImplementedError, TypeError):  # of tensors that were changed before
        return tensor


def _plain() -> st.SearchStrategy[Any]:
    tensors = st.sampled_from([torch.zeros(3, 3), torch.zeros(4, 3, 3, 3), torch.zeros(())])
    others = st.sampled_from([torch.Size([3]), torch.float32, torch.device("cpu"), OrderedDict(), b"x", bytearray(9)])
    return st.recursive(
        st.one_of(tensors, others, hostile_values()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from([*HOSTILE_TEXTS, "model", "ema", "params", "0", "conv.weight"]), inner),
        ),
        max_leaves=8,
    )


@bounded(40)
@given(content=_plain(), protocol=st.sampled_from((2, 4)))
def test_anything_that_torch_saves(folder: Path, content: Any, protocol: int) -> None:
    try:
        written = saved(content, pickle_protocol=protocol)
    except (UnicodeEncodeError, RecursionError):  # what cannot be written harms nobody
        return
    look(folder, "any.pth", written)


def _bomb(depth: int, width: int) -> dict[str, Any]:
    """Dicts that share their contents: small on disk, endless to walk."""
    inner: dict[str, Any] = {"conv.weight": torch.zeros(2, 2)}
    for _ in range(depth):
        inner = {f"part{i}": inner for i in range(width)}
    return inner


def _itself() -> dict[str, Any]:
    held: dict[str, Any] = {}
    held["model"] = held["other"] = held
    return held


def _calling(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls a function, written by hand so that nothing has to be imported."""
    body = b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def _deflated(content: bytes, *, size: int = 0) -> bytes:
    """The archive with its records compressed, and with one more that grows to `size` bytes of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            record = old.read(name)
            new.writestr(name, bytes(size) if size and name.endswith("/data/0") else record)
    return buffer.getvalue()


def _claiming(elements: int) -> bytes:
    header = json.dumps({"conv.weight": {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}})
    return struct.pack("<Q", len(header)) + header.encode()


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a call of os.system": ("call.pth", lambda: _calling("os", "system", "true")),
    "an import of a module": ("import.pth", lambda: _calling(CANARY, "boom")),
    "a huge bytearray": ("array.pth", lambda: _calling("builtins", "bytearray", 10**11)),
    "a huge storage": ("storage.pth", lambda: _calling("torch", "FloatStorage", 10**12)),
    "dicts that share their contents": ("shared.pth", lambda: saved(_bomb(30, 10))),
    "a dict that holds itself": ("itself.pth", lambda: saved(_itself())),
    "one storage under a thousand names": (
        "tied.pth",
        lambda: saved({f"body.{i}.weight": big for big in [torch.zeros(2000, 2000)] for i in range(1000)}),
    ),
    "compressed records": ("deflated.pth", lambda: _deflated(FILES["zip.pth"])),
    "a bomb of compressed zeros": ("bomb.pth", lambda: _deflated(FILES["zip.pth"], size=10**9)),
    "a claim of a million blocks": (
        "blocks.pth",
        lambda: saved({**STATE, "body.999999.conv1.weight": torch.zeros(4, 4, 3, 3)}),
    ),
    "safetensors that claim more than they hold": ("claim.safetensors", lambda: _claiming(10**12)),
    "safetensors with a header of exabytes": ("header.safetensors", lambda: struct.pack("<Q", 2**62) + b"{}"),
    "nothing": ("empty.pth", lambda: b""),
    "a zip with nothing inside": ("none.pth", lambda: b"PK\x05\x06" + bytes(18)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_fast(folder: Path, bomb: str) -> None:
    name, make = BOMBS[bomb]
    look(folder, name, make())


def test_a_sparse_file_of_gigabytes_is_refused_fast(folder: Path) -> None:
    file = folder / "sparse.safetensors"
    elements = 3 * 10**9
    with file.open("wb") as out:
        out.write(_claiming(elements))
        out.truncate(out.tell() + 4 * elements)
    with contained():
        gansdk.inspect(file)
    file.unlink()
