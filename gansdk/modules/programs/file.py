"""Reading the file of a traced program (torch.export's .pt2) without torch.export, which trusts its file.

torch.export unpickles what it finds, imports the types that a file names, evaluates size expressions as Python and
calls operators by name. Here every record is read once, parsed once, and checked as it is parsed; what runs is a list
of calls of known operators, made from the parsed values alone. Types, expressions and traces in the file are never
evaluated.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.modules.programs.graph import STRIDED, TYPES, Program, read_calls, read_device
from gansdk.validation.json_fields import Field, parse

GRAPH = "models/model.json"
WEIGHTS = "data/weights/"
CONSTANTS = "data/constants/"
EXAMPLE = "data/sample_inputs/model.pt"
_CONFIGS = {WEIGHTS: "model_weights_config.json", CONSTANTS: "model_constants_config.json"}
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|"
    r"data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_[0-9]+)|"
    r"data/constants/(model_constants_config\.json|tensor_[0-9]+)"
)
_SCHEMA = 8
"""Major version of torch.export's layout of the graph."""
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_ONE_IMAGE_IN = [
    1,
    {
        "type": "builtins.tuple",
        "context": "null",
        "children_spec": [
            {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF]},
            {"type": "builtins.dict", "context": "[]", "children_spec": []},
        ],
    },
]
_ONE_IMAGE_OUT = [1, _LEAF]


def read_program(content: bytes) -> Program:
    """The program in the bytes of a file.

    Raises:
        ValueError: it holds anything but one graph of known operators, its weights and its constants.
    """
    try:
        return _program(content)
    except (RuntimeError, LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What a reader or tracer says, on one line of bounded length."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return text.splitlines()[0][:300].rstrip(".") if text else type(error).__name__


def _program(content: bytes) -> Program:
    records = _records(content)
    graph = Field(parse(records[GRAPH]), "")
    tensors = {folder: _tensors(records, folder, config) for folder, config in _CONFIGS.items()}
    graph["schema_version"]["major"].one_of([_SCHEMA])
    holder, buffers, image = _signature(graph["graph_module"], tensors)
    calls = read_calls(graph["graph_module"]["graph"], buffers, image)
    _check_texts(graph)
    return Program(holder, buffers, image, calls)


def _records(content: bytes) -> dict[str, bytes]:
    """Every record of the archive by its name, read once."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    for name in names:
        if not _RECORDS.fullmatch(name):
            raise ValueError(f"it holds the record {name[:80]!r}")
    if len(set(names)) < len(names):
        raise ValueError("it holds a record twice")
    if sum(map(reader.get_record_size, names)) > len(content):
        raise ValueError("its records claim more bytes than it has")
    records = {name: reader.get_record(name) for name in names}
    if missing := {GRAPH, f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json"} - set(
        names
    ):
        raise ValueError(f"it lacks the record {min(missing)!r}")
    if records.get(EXAMPLE):
        raise ValueError("it holds pickled example inputs")
    if records.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not in little-endian order")
    return records


def _check_texts(graph: Field) -> None:
    """Refuse other inputs and outputs than one image, and parts that no call of an operator needs."""
    for key, value in _entries(graph.value):
        if key in ("as_operator", "as_custom_obj", "as_graph"):
            raise ValueError(f"it holds {key}")
        if key in ("in_spec", "out_spec"):
            expected = _ONE_IMAGE_IN if key == "in_spec" else _ONE_IMAGE_OUT
            if _canonical(parse(Field(value, key).text(longest=10_000))) != _canonical(expected):
                raise ValueError(f"it takes or returns something other than one image ({key})")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # tells 1, 1.0 and true apart


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every mapping in the tree, with its value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)


def _tensors(records: Mapping[str, bytes], folder: str, config: str) -> dict[str, Tensor]:
    """Tensors by name, as a config says; names of the same record share its memory, equal ones their tensor."""
    tensors: dict[str, Tensor] = {}
    flats: dict[tuple[str, torch.dtype], Tensor] = {}
    storages: dict[tuple[Any, ...], Tensor] = {}
    for name, payload in Field(parse(records[folder + config]), config)["config"].items():
        if payload["use_pickle"].value is not False:
            raise ValueError(f"it holds the pickled tensor {name!r}")
        kind = "weight" if folder == WEIGHTS else "tensor"
        path = payload["path_name"].text()
        if not re.fullmatch(rf"{kind}_[0-9]+", path) or folder + path not in records:
            raise ValueError(f"it holds no record {path[:60]!r}")
        meta = payload["tensor_meta"]
        shape = tuple(_sizes(meta["sizes"]))
        strides = tuple(_sizes(meta["strides"]))
        offset = meta["storage_offset"]["as_int"].whole()
        dtype = TYPES[meta["dtype"].one_of(TYPES)]
        meta["layout"].one_of([STRIDED])
        read_device(meta["device"])
        key = (path, dtype, shape, strides, offset, trained := payload["is_param"].flag())
        if key not in storages:
            if (path, dtype) not in flats:
                flats[path, dtype] = _flat(records[folder + path], dtype)
            tensor = _part(name, flats[path, dtype], shape, strides, offset)
            storages[key] = nn.Parameter(tensor, meta["requires_grad"].flag()) if trained else tensor
        tensors[name] = storages[key]
    return tensors


def _sizes(field: Field) -> list[int]:
    return [size["as_int"].whole() for size in field.list(most=16)]


def _flat(content: bytes, dtype: torch.dtype) -> Tensor:
    """All values of a record, in memory of their own that can be written to."""
    if not (held := len(content) // dtype.itemsize):
        return torch.zeros(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype, count=held)


def _part(name: str, flat: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tensor:
    """The values of a record that a tensor's shape picks; `as_strided` refuses places beyond the end."""
    held = flat.numel()
    if len(strides) != len(shape) or offset + math.prod(shape) > held:
        raise ValueError(f"its tensor {name!r} claims {shape} values from {offset} on, but its record holds {held}")
    return flat.as_strided(shape, strides, offset)


def _signature(module: Field, tensors: Mapping[str, Mapping[str, Tensor]]) -> tuple[nn.Module, dict[str, str], str]:
    """A module that holds the tensors, the value names of the graph's inputs with their paths there, and the image's.

    The input image has no path.
    """
    holder, given = nn.Module(), dict[str, str]()
    signature = module["signature"]
    inputs = [field["as_tensor"]["name"].text() for field in module["graph"]["inputs"].list()]
    specs = signature["input_specs"].list()
    for name, spec in zip(inputs, specs, strict=True):
        kind, data = spec.single()
        path = ""
        if kind == "user_input":
            tensor_name = data["arg"]["as_tensor"]["name"]
        else:
            tensor_name = data["arg"]["name"]
            path, tensor = _input_tensor(kind, data, tensors)
            _place(holder, path, tensor)
        if tensor_name.text() != name or name in given:
            raise tensor_name.refused(f"another name than of any other input, {name!r} here,")
        given[name] = path
    if list(given.values()).count("") != 1:
        raise ValueError("it does not take one image")
    outputs, made = module["graph"]["outputs"].list(), signature["output_specs"].list()
    if len(outputs) != 1 or len(made) != 1:
        raise ValueError("it does not return one image")
    image: str = outputs[0]["as_tensor"]["name"].text()
    made[0]["user_output"]["arg"]["as_tensor"]["name"].one_of([image])
    return holder, given, image


def _input_tensor(kind: str, data: Field, tensors: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, Tensor]:
    if kind == "parameter":
        field, table = data["parameter_name"], WEIGHTS
    elif kind == "buffer":
        field, table = data["buffer_name"], WEIGHTS if data["persistent"].flag() else CONSTANTS
    elif kind == "tensor_constant":
        field, table = data["tensor_constant_name"], CONSTANTS
    else:
        raise ValueError(f"it takes a {kind[:40]!r}")
    path = field.text()
    if path not in tensors[table]:
        raise field.refused("the name of a tensor in the file")
    return path, tensors[table][path]


def _place(holder: nn.Module, path: str, tensor: Tensor) -> None:
    *parts, leaf = path.split(".")
    for part in parts:
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(leaf, tensor)
    else:
        holder.register_buffer(leaf, tensor)
