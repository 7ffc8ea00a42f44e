"""Reading the file of a traced program (torch.export's .pt2) without torch.export, which trusts its file.

torch.export unpickles what it finds, imports the types that a file names, evaluates size expressions as Python and
calls operators by name. Here every record is read once, parsed once, and checked as it is parsed; what runs is a list
of calls of known operators, made from the parsed values alone. Types, expressions and traces in the file are never
evaluated.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.json_fields import LARGEST, Field, parse
from gansdk.program_operators import LARGEST_EXPONENT, operator_named

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
_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_STRIDED = 7
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
MOST_CALLS = 100_000
MOST_VALUES = 2**28
"""Elements of a tensor whose size stands in the file."""
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
_SYMBOL = re.compile(r"[su][0-9]{1,9}")
_SIZE_FUNCTIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt "
    "TruncToInt TruncToFloat RoundToInt ToFloat IntTrueDiv FloatTrueDiv PowByNatural FloatPow Where Identity "
    "Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan".split()
)
LONGEST_EXPRESSION, DEEPEST_EXPRESSION = 2000, 100


@dataclass(frozen=True, slots=True)
class _Value:
    """The place of a value that a call made before."""

    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One step of a program: `outputs` are the names of its values, or names of parts of its one value."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    done: tuple[str, ...] = ()
    """Values that no later call needs."""


class Program(nn.Module):
    """A traced student. It is fixed in inference mode: `train` and `eval` change nothing."""

    def __init__(self, tensors: nn.Module, given: Mapping[str, str], image: str, calls: Sequence[_Call]) -> None:
        super().__init__()
        self.program = tensors
        self._given = dict(given)
        self._image = image
        self._calls = tuple(calls)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, sH, sW)."""
        tensors: dict[str, Tensor] = {
            **dict(self.program.named_parameters(remove_duplicate=False)),
            **dict(self.program.named_buffers(remove_duplicate=False)),
        }
        values: dict[str, Any] = {name: tensors[path] if path else x for name, path in self._given.items()}
        for call in self._calls:
            made = call.function(*_filled(call.args, values), **_filled(call.kwargs, values))
            _keep(call.outputs, made, values)
            for name in call.done:
                del values[name]
        image: Tensor = values[self._image]
        return image

    def train(self, mode: bool = True) -> Program:
        """Stay as traced."""
        return self


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """Arguments with the values that they name."""
    if isinstance(part, _Value):
        return values[part.name]
    if isinstance(part, (list, tuple)):
        return type(part)(_filled(inner, values) for inner in part)
    if isinstance(part, dict):
        return {key: _filled(inner, values) for key, inner in part.items()}
    return part


def _keep(names: tuple[Any, ...], made: Any, values: dict[str, Any]) -> None:
    """Put what a call made under its names; a tuple of names is for a list of tensors."""
    parts = (made,) if len(names) == 1 and isinstance(names[0], str) else made
    if len(names) == 1 and isinstance(names[0], tuple):
        names = names[0]
    if names and len(parts) != len(names):
        raise RuntimeError(f"a call of the program gives {len(parts)} values instead of {len(names)}")
    for name, value in zip(names, parts, strict=False):
        if isinstance(name, tuple):
            _keep((name,), value, values)
        elif name:
            values[name] = value


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
    holder, given, image = _signature(graph["graph_module"], tensors)
    calls = _calls(graph["graph_module"]["graph"], given, image)
    _check_texts(graph)
    return Program(holder, given, image, calls)


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
    """Refuse what torch.export would execute, although nothing here does: such a file was made to do harm."""
    for symbol in dict(graph["range_constraints"].items()):
        _check_size(symbol)
    for key, value in _entries(graph.value):
        if key in ("as_operator", "as_custom_obj", "as_graph"):
            raise ValueError(f"it holds {key}")
        if key == "expr_str":
            _check_size(Field(value, key).text(LONGEST_EXPRESSION))
        elif key in ("in_spec", "out_spec"):
            expected = _ONE_IMAGE_IN if key == "in_spec" else _ONE_IMAGE_OUT
            if _canonical(parse(Field(value, key).text(longest=10_000))) != _canonical(expected):
                raise ValueError(f"it takes or gives something other than one image ({key})")


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
    """Tensors by name, as a config says; names of the same values share one tensor."""
    found: dict[str, Tensor] = {}
    known: dict[tuple[Any, ...], Tensor] = {}
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
        dtype = _TYPES[meta["dtype"].one_of(_TYPES)]
        meta["layout"].one_of([_STRIDED])
        _device(meta["device"])
        key = (path, dtype, shape, strides, offset, trained := payload["is_param"].flag())
        if key not in known:
            tensor = _tensor(name, records[folder + path], dtype, shape, strides, offset)
            known[key] = nn.Parameter(tensor, meta["requires_grad"].flag()) if trained else tensor
        found[name] = known[key]
    return found


def _sizes(field: Field) -> list[int]:
    return [size["as_int"].whole() for size in field.list(most=16)]


def _tensor(
    name: str, content: bytes, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> Tensor:
    held = len(content) // dtype.itemsize
    if len(strides) != len(shape) or offset + math.prod(shape) > held:
        raise ValueError(f"its tensor {name!r} claims {shape} values from {offset} on, but its record holds {held}")
    if not held:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copy can be written to
        flat = torch.frombuffer(bytearray(content), dtype=dtype, count=held)
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
            own = data["arg"]["as_tensor"]["name"]
        else:
            own = data["arg"]["name"]
            path, tensor = _input_tensor(kind, data, tensors)
            _place(holder, path, tensor)
        if own.text() != name or name in given:
            raise own.refused(f"another name than of any other input, {name!r} here,")
        given[name] = path
    if list(given.values()).count("") != 1:
        raise ValueError("it does not take one image")
    outputs, made = module["graph"]["outputs"].list(), signature["output_specs"].list()
    if len(outputs) != 1 or len(made) != 1:
        raise ValueError("it does not give one image")
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


def _calls(graph: Field, given: Mapping[str, str], image: str) -> list[_Call]:
    known = set(given)
    calls = []
    for node in graph["nodes"].list(most=MOST_CALLS):
        function = operator_named(node["target"].text())
        args, kwargs = _arguments(function, node["inputs"].list(), known)
        outputs = _outputs(node["outputs"], known)
        calls.append(_Call(function, args, kwargs, outputs))
    if image not in known:
        raise ValueError(f"its image {image!r} is made by no call")
    return _released(calls, image)


def _released(calls: Sequence[_Call], image: str) -> list[_Call]:
    """The calls, each with the values that it is the last to need."""
    needed, marked = {image}, []
    for call in reversed(calls):
        names = {*_names(call.args), *_names(call.kwargs), *_names(call.outputs)}
        marked.append(_Call(call.function, call.args, call.kwargs, call.outputs, tuple(sorted(names - needed))))
        needed |= names
    return marked[::-1]


def _names(part: Any) -> Iterator[str]:
    if isinstance(part, _Value):
        yield part.name
    elif isinstance(part, str):
        yield part
    elif isinstance(part, Mapping):
        for inner in part.values():
            yield from _names(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _names(inner)


def _arguments(
    function: Callable[..., Any], inputs: Sequence[Field], known: set[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(function, torch._ops.OpOverload):
        return tuple(_argument(field["arg"], known) for field in inputs), {}
    named = {field["name"].text(): _argument(field["arg"], known) for field in inputs}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    skipped = False
    for parameter in function._schema.arguments:
        if parameter.name not in named:
            skipped = True
        elif skipped or parameter.kwarg_only:
            kwargs[parameter.name] = named.pop(parameter.name)
        else:
            args.append(named.pop(parameter.name))
    if named or len(args) + len(kwargs) < len(inputs):
        raise ValueError(f"it calls {function} with arguments that it does not have")
    return tuple(args), kwargs


def _argument(field: Field, known: set[str]) -> Any:
    """The value of an argument, or the place of one."""
    kind, value = field.single()
    if kind not in _ARGUMENTS:
        raise ValueError(f"it holds an argument of the kind {kind[:40]!r}")
    argument = _ARGUMENTS[kind](value, known)
    if isinstance(argument, list) and kind in ("as_ints", "as_sym_ints"):
        sizes = [abs(size) for size in argument if isinstance(size, int) and abs(size) < LARGEST - 1]
        if math.prod(size or 1 for size in sizes) > MOST_VALUES:
            raise value.refused(f"sizes that multiply to at most {MOST_VALUES:,}")
    return argument


def _tensor_value(field: Field, known: set[str]) -> _Value:
    return _named(field["name"], known)


def _named(field: Field, known: set[str]) -> _Value:
    if (name := field.text()) not in known:
        raise field.refused("a value that was made before")
    return _Value(name)


def _optional(field: Field, known: set[str]) -> _Value | None:
    kind, value = field.single()
    return None if kind == "as_none" else _tensor_value(Field({kind: value.value}, field.name)["as_tensor"], known)


def _whole(field: Field, known: set[str]) -> int:
    """A size or a position: as large as tensors are, or the ends of a slice."""
    number = field.whole(-LARGEST)
    if abs(number) > MOST_VALUES and number not in (LARGEST - 1, -LARGEST, -LARGEST + 1):
        raise field.refused(f"a number up to {MOST_VALUES:,}")
    return number


def _float(field: Field, known: set[str]) -> float:
    if field.value in ("Infinity", "-Infinity", "NaN"):
        return float(field.value)
    return field.number()


def _flag(field: Field, known: set[str]) -> bool:
    return field.flag()


def _symbolic(plain: Callable[[Field, set[str]], Any]) -> Callable[[Field, set[str]], Any]:
    """Reads a size, or the place of one."""

    def read(field: Field, known: set[str]) -> Any:
        kind, value = field.single()
        if kind == "as_name":
            return _named(value, known)
        if kind not in ("as_int", "as_float", "as_bool"):
            raise ValueError(f"it holds an argument of the kind {kind[:40]!r}")
        return plain(value, known)

    return read


def _many(one: Callable[[Field, set[str]], Any]) -> Callable[[Field, set[str]], list[Any]]:
    return lambda field, known: [one(part, known) for part in field.list(most=10_000)]


def _device(field: Field) -> torch.device:
    field["type"].one_of(["cpu"])
    field.get("index", None).one_of([None, 0])
    return torch.device("cpu")


_ARGUMENTS: dict[str, Callable[[Field, set[str]], Any]] = {
    "as_none": lambda field, known: None,
    "as_tensor": _tensor_value,
    "as_tensors": _many(_tensor_value),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _many(_optional),
    "as_int": _whole,
    "as_ints": _many(_whole),
    "as_float": _float,
    "as_floats": _many(_float),
    "as_bool": _flag,
    "as_bools": _many(_flag),
    "as_string": lambda field, known: field.text(longest=100),
    "as_sym_int": _symbolic(_whole),
    "as_sym_ints": _many(_symbolic(_whole)),
    "as_sym_float": _symbolic(_float),
    "as_sym_floats": _many(_symbolic(_float)),
    "as_sym_bool": _symbolic(_flag),
    "as_sym_bools": _many(_symbolic(_flag)),
    "as_scalar_type": lambda field, known: _TYPES[field.one_of(_TYPES)],
    "as_memory_format": lambda field, known: _MEMORY_FORMATS[field.one_of(_MEMORY_FORMATS)],
    "as_layout": lambda field, known: (field.one_of([_STRIDED]), torch.strided)[1],
    "as_device": lambda field, known: _device(field),
}


def _outputs(field: Field, known: set[str]) -> tuple[Any, ...]:
    """Names of what a call makes; "" for what nobody needs, a tuple for a list of tensors."""

    def name(part: Field) -> str:
        found = part.text()
        if found in known:
            raise part.refused("a name that no other value has")
        known.add(found)
        return found

    def one(part: Field) -> Any:
        kind, value = part.single()
        if kind == "as_none":
            return ""
        if kind == "as_tensors":
            return tuple(name(tensor["name"]) for tensor in value.list())
        if kind == "as_tensor":
            return name(value["name"])
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return name(value["as_name"])
        raise ValueError(f"it makes a value of the kind {kind[:40]!r}")

    return tuple(one(part) for part in field.list(most=10_000))


def _check_size(expression: str) -> None:
    """Only sums, products, powers and roundings of symbols and numbers: torch.export evaluates the text as Python."""
    refused = ValueError(f"it computes a size by {expression[:80]!r}")
    if len(expression) > LONGEST_EXPRESSION:
        raise refused
    try:
        level: list[ast.AST] = [ast.parse(expression, mode="eval")]
    except (SyntaxError, RecursionError, MemoryError):
        raise refused from None
    for _ in range(DEEPEST_EXPRESSION):
        if not all(map(_is_size, level)):
            raise refused
        level = [below for node in level for below in ast.iter_child_nodes(node)]
    if level:
        raise refused


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS):
            return False
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if node.func.id == "Symbol":
            return len(constants) == 1 and _SYMBOL.fullmatch(str(constants[0])) is not None
        if "Pow" in node.func.id:  # whoever evaluates it computes powers of numbers at once
            exponents = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            return all(not isinstance(value, (int, float)) or abs(value) <= LARGEST_EXPONENT for value in exponents)
        return True
    if isinstance(node, ast.Name):
        return node.id in _SIZE_FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return bool(_SYMBOL.fullmatch(node.value) or re.fullmatch(r"-?[0-9.]{1,40}", node.value))
        return node.value is None or isinstance(node.value, (bool, float)) or _is_64_bits(node.value)
    return isinstance(
        node, (ast.Expression, ast.keyword, ast.Load, ast.BinOp, ast.UnaryOp, ast.USub, ast.Mult, ast.Add)
    )


def _is_64_bits(number: object) -> bool:
    return isinstance(number, int) and -LARGEST <= number < LARGEST
