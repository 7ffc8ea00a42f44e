"""Weights from files that may be a stranger's, read without executing anything."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from gansdk.errors import CheckpointError
from gansdk.files import check_held
from gansdk.modules.pickles import CODE, check_checkpoint
from gansdk.text import quoted

CONTAINERS = (
    "state_dict",
    "params_ema",
    "params",
    "model",
    "net_g",
    "generator",
    "netG",
    "model_state_dict",
    "g_ema",
    "G_ema",
    "ema",
    "G",
    "g",
)
"""Keys under which trainers nest the weights, in the order they are tried: averaged weights before raw ones.

Under any other key they are found if they are the only network in the file.
"""
MOST_TENSORS = 10_000
"""Of one network; the largest generators have a few thousand."""
LONGEST_HEADER = 10 * 2**20
"""Bytes in front of the tensors of a safetensors file."""
LISTS_PER_TENSOR = 4
"""Brackets in that header, at most; a tensor has two, and the words beside them may have some."""
LONGEST_KEY = 500
"""Characters of a tensor's name, at most."""
SHARED = 256 * 2**20
"""Bytes that tied weights may claim beyond twice those in the file: every name gets its own copy in a network."""
DEPTH = 4
"""Containers inside one another, at most: a damaged file may hold itself."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put in front of every key."""
COUNTER = "num_batches_tracked"
"""BatchNorm's counter; checkpoints older than torch 0.4.1 lack it and nothing reads it."""


# What the restricted unpickler and the zip reader raise on files that are not checkpoints; found by fuzzing.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


_HOW_TO_SAVE = (
    "If you have the network's code, save its weights with torch.save(net.state_dict(), 'net.pth') and pass that file."
)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the weights in a .safetensors file or a torch checkpoint, on the CPU, without running any code of it.

    Containers are opened and the prefixes of DataParallel and torch.compile removed.

    Raises:
        CheckpointError: missing, unreadable, or not a state dict of plain tensors; or of several networks.
    """
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """As `read_state`, and the key of the container that they were in: "model.params_ema", or ""."""
    path = Path(path)
    if os.path.isdir(path):  # no error for names too long to be one
        raise CheckpointError(f"'{path}' is a folder, but a checkpoint is one file. Pass the file with the weights.")
    if not os.path.isfile(path):
        raise CheckpointError(f"There is no file {quoted(str(path))}. Check the path of the checkpoint.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    weights, where = _weights_in(content, path)
    return _without_wrappers(weights), ".".join(where)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            check_held(file)
            check_header(file)
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' is not a readable safetensors file ({first_line(error)}). It may be truncated: copy or download "
            "it again."
        ) from error


def check_header(file: BinaryIO) -> None:
    """Raise ValueError if the header of open safetensors describes more than weights can be.

    Every entry has two lists, of its sizes and of its place, and costs the reader a thousand times its bytes.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header claims {length:,} bytes, more than the {LONGEST_HEADER:,} that weights need")
    if file.read(length).count(b"[") > LISTS_PER_TENSOR * MOST_TENSORS:
        raise ValueError(f"its header describes more than the {MOST_TENSORS:,} tensors that a generator may have")


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            check_checkpoint(file)
            # Files that work are no trouble, whatever their pickle protocol; the others are refused below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, weights_only=True, map_location="cpu")
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' does not hold a plain state dict: it is a pickled module, truncated, or not a checkpoint "
            f"({first_line(error)}). {_HOW_TO_SAVE}"
        ) from error


def first_line(error: Exception) -> str:
    """What a reader's error says, without torch's advice to load the file by running its code."""
    if str(error).startswith("Weights only load failed"):
        return CODE
    if "TorchScript" in str(error):
        return "it is a TorchScript program"
    return next(iter(str(error).splitlines()), "")[:300] or type(error).__name__


def _weights_in(content: Any, path: Path, where: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Open containers until the tensors are found; numbers and strings beside them are left out."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"'{path}' holds a {type(content).__name__}, but a dict of named tensors was expected. {_HOW_TO_SAVE}"
        )
    container = next((name for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
    if container is not None and len(where) < DEPTH:
        return _weights_in(content[container], path, (*where, container))
    if not _is_network(content) and (inner := _networks_in(content)):
        if len(inner) > 1:
            raise CheckpointError(
                f"'{path}' holds several networks ({', '.join(map('.'.join, list(inner)[:5]))}), and it is unclear "
                "which one is the generator. Save only the weights of the generator, and pass that file."
            )
        [(below, network)] = inner.items()
        return _weights_in(network, path, (*where, *below))
    weights = {key: value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    if _is_network(content):  # a step or an epoch among them is no weight
        weights = {key: value for key, value in weights.items() if value.ndim or "." in str(key)}
    if not weights or not all(isinstance(key, str) for key in weights):
        keys = ", ".join(_key(key) for key in list(content)[:8]) or "nothing"
        raise CheckpointError(
            f"'{path}' holds {keys}, but neither named tensors nor a container known to hold them "
            f"({', '.join(CONTAINERS)}). {_HOW_TO_SAVE}"
        )
    if problem := _problem(weights):
        raise CheckpointError(f"'{path}' holds {problem}. {_HOW_TO_SAVE}")
    return weights, where


def _problem(weights: Mapping[str, Tensor]) -> str:
    """What keeps named tensors from being a network's weights, in words; "" if nothing does."""
    if len(weights) > MOST_TENSORS:
        return f"{len(weights):,} tensors, more than the {MOST_TENSORS:,} that a generator may have"
    strange = [key for key in weights if not _is_name(key)]
    if strange:
        return f"names with control characters or of more than {LONGEST_KEY} characters, {_key(strange[0])} the first"
    special = [key for key, value in weights.items() if not _is_plain(value)]
    if special:
        return f"tensors that are nested, quantized, complex, sparse or have no values, {_key(special[0])} the first"
    return _claimed_problem(weights)


def _claimed_problem(weights: Mapping[str, Tensor]) -> str:
    """Whether tensors claim more than their storages hold: a stride of 0 makes gigabytes of one number."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in weights.values()}
    claimed = 0
    for key, value in weights.items():
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            return f"the tensor {_key(key)}, which claims {value.numel():,} values that are not in the file"
        claimed += size
    held = sum(storages.values())
    if claimed > 2 * held + SHARED:
        return f"tensors that share {held:,} bytes and claim {claimed:,}"
    return ""


def _is_name(key: object) -> bool:
    return isinstance(key, str) and len(key) <= LONGEST_KEY and key.isprintable()


def _is_plain(value: Tensor) -> bool:
    special = value.is_nested or value.is_quantized or value.is_complex() or value.is_meta
    return not special and value.layout == torch.strided


def _key(key: object) -> str:
    """A key as messages quote it, however long or strange."""
    return quoted(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"


def _is_network(content: Mapping[Any, Any]) -> bool:
    """Whether it holds a layer's weight under a dotted name; what optimisers keep of one has other names."""
    return any(
        isinstance(key, str) and isinstance(value, Tensor) and value.ndim > 1 and ".weight" in key
        for key, value in content.items()
    )


def _networks_in(content: Mapping[Any, Any]) -> dict[tuple[str, ...], Mapping[Any, Any]]:
    """Key by key -> state dict of every network below, outermost first; no container is looked through twice."""
    networks: dict[tuple[str, ...], Mapping[Any, Any]] = {}
    level: dict[tuple[str, ...], Mapping[Any, Any]] = {(): content}
    seen = {id(content)}
    for _ in range(DEPTH + 1):
        below: dict[tuple[str, ...], Mapping[Any, Any]] = {}
        for where, container in level.items():
            for key, value in container.items():
                if not _is_name(key) or not isinstance(value, Mapping):
                    continue
                if _is_network(value):
                    networks[(*where, key)] = value
                elif id(value) not in seen:
                    seen.add(id(value))
                    below[(*where, key)] = value
        level = below
    return networks


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((prefix for prefix in WRAPPERS if all(key.startswith(prefix) for key in state)), None)
    if prefix is None:
        return state
    return _without_wrappers({key.removeprefix(prefix): tensor for key, tensor in state.items()})


def reset_parameters(module: nn.Module) -> None:
    """Give every layer that can its fresh weights by torch's own rules, from torch's global generator."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()


def fingerprint(module: nn.Module) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and values of the state dict in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
