"""The calls of a traced program: checked as they are read, and run one after the other without torch.export."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.modules.programs.guards import guarded
from gansdk.modules.programs.operators import operator_named
from gansdk.validation.json_fields import LARGEST, Field

TYPES = {  # by the numbers of torch.export's layout
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
STRIDED = 7
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
MOST_CALLS = 20_000
MOST_VALUES = 2**27
"""Elements of a tensor whose size stands in the file: a gigabyte of the widest kind that programs make."""


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
            result = call.function(*_filled(call.args, values), **_filled(call.kwargs, values))
            _keep(call.outputs, result, values)
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


def _keep(names: tuple[Any, ...], result: Any, values: dict[str, Any]) -> None:
    """Put what a call made under its names; a tuple of names is for a list of tensors."""
    parts = (result,) if len(names) == 1 and isinstance(names[0], str) else result
    if len(names) == 1 and isinstance(names[0], tuple):
        names = names[0]
    if names and len(parts) != len(names):
        raise RuntimeError(f"a call of the program gives {len(parts)} values instead of {len(names)}")
    for name, value in zip(names, parts, strict=False):
        if isinstance(name, tuple):
            _keep((name,), value, values)
        elif name:
            values[name] = value


def read_calls(graph: Field, given: Mapping[str, str], image: str) -> list[_Call]:
    """The calls of a graph, in order; `given` are the names of its inputs, `image` that of what it makes.

    Raises:
        ValueError: a call is of no known operator, or needs a value that was not made before.
    """
    names = set(given)
    calls = []
    for node in graph["nodes"].list(most=MOST_CALLS):
        function = operator_named(node["target"].text())
        args, kwargs = _arguments(function, node["inputs"].list(), names)
        outputs = _outputs(node["outputs"], names)
        calls.append(_Call(guarded(function), args, kwargs, outputs))
    if image not in names:
        raise ValueError(f"no call computes its image {image!r}")
    return _released(calls, image)


def _released(calls: Sequence[_Call], image: str) -> list[_Call]:
    """The calls, each with the values that it is the last to need."""
    needed, marked = {image}, []
    for call in reversed(calls):
        names = {*_names(call.args), *_names(call.kwargs), *_made_names(call.outputs)}
        marked.append(_Call(call.function, call.args, call.kwargs, call.outputs, tuple(sorted(names - needed))))
        needed |= names
    return marked[::-1]


def _names(part: Any) -> Iterator[str]:
    """Values that arguments name; a text such as "reflect" is no name."""
    if isinstance(part, _Value):
        yield part.name
    elif isinstance(part, Mapping):
        for inner in part.values():
            yield from _names(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _names(inner)


def _made_names(outputs: tuple[Any, ...]) -> Iterator[str]:
    for part in outputs:
        if isinstance(part, tuple):
            yield from part
        elif part:
            yield part


def _arguments(
    function: Callable[..., Any], inputs: Sequence[Field], names: set[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(function, torch._ops.OpOverload):
        return tuple(_argument(field["arg"], names) for field in inputs), {}
    named = {field["name"].text(): _argument(field["arg"], names) for field in inputs}
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


def _argument(field: Field, names: set[str]) -> Any:
    """The value of an argument, or the place of one."""
    kind, value = field.single()
    if kind not in _ARGUMENTS:
        raise ValueError(f"it holds an argument of the kind {kind[:40]!r}")
    argument = _ARGUMENTS[kind](value, names)
    if isinstance(argument, list) and kind in ("as_ints", "as_sym_ints"):
        sizes = [abs(size) for size in argument if isinstance(size, int) and abs(size) < LARGEST - 1]
        if math.prod(size or 1 for size in sizes) > MOST_VALUES:
            raise value.refused(f"sizes that multiply to at most {MOST_VALUES:,}")
    return argument


def _tensor_value(field: Field, names: set[str]) -> _Value:
    return _named(field["name"], names)


def _named(field: Field, names: set[str]) -> _Value:
    if (name := field.text()) not in names:
        raise field.refused("a value that was made before")
    return _Value(name)


def _optional(field: Field, names: set[str]) -> _Value | None:
    kind, value = field.single()
    return None if kind == "as_none" else _tensor_value(Field({kind: value.value}, field.name)["as_tensor"], names)


def _whole(field: Field, names: set[str]) -> int:
    """A size or a position: as large as tensors are, or the ends of a slice."""
    number = field.whole(-LARGEST)
    if abs(number) > MOST_VALUES and number not in (LARGEST - 1, -LARGEST, -LARGEST + 1):
        raise field.refused(f"a number up to {MOST_VALUES:,}")
    return number


def _float(field: Field, names: set[str]) -> float:
    if field.value in ("Infinity", "-Infinity", "NaN"):
        return float(field.value)
    return field.number()


def _flag(field: Field, names: set[str]) -> bool:
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


def read_device(field: Field) -> torch.device:
    """The CPU, where every student is saved."""
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
    "as_scalar_type": lambda field, known: TYPES[field.one_of(TYPES)],
    "as_memory_format": lambda field, known: _MEMORY_FORMATS[field.one_of(_MEMORY_FORMATS)],
    "as_layout": lambda field, known: (field.one_of([STRIDED]), torch.strided)[1],
    "as_device": lambda field, known: read_device(field),
}


def _outputs(field: Field, names: set[str]) -> tuple[Any, ...]:
    """Names of what a call makes; "" for what nobody needs, a tuple for a list of tensors."""

    def name(part: Field) -> str:
        output = part.text()
        if output in names:
            raise part.refused("a name that no other value has")
        names.add(output)
        return output

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
