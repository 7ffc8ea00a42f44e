"""Students as traced programs (torch.export): for any batch and size, and read back without running foreign code.

torch.export's own reader trusts its file: it unpickles what it finds, evaluates size expressions as Python
and calls operators by name. `load_program` reads only programs that hold none of that.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gansdk.channels.fold import copy_module
from gansdk.contracts import Contract
from gansdk.errors import CheckpointError, Unsupported
from gansdk.toolkit.norms import tracked_norms

# What tracing raises on networks that cannot be traced; the network's own code runs under it.
_UNTRACEABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)

_RECORDS = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json|"
    r"data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_[0-9]+)|"
    r"data/constants/(model_constants_config\.json|tensor_[0-9]+))"
)
_PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_0-9]+)\.([A-Za-z_0-9]+)")
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|getitem|and_|or_|eq|ne|lt|le|gt|ge)|"
    r"math\.(ceil|floor|trunc)|torch\.sym_(int|float|max|min|ite|not|sqrt)"
)
_SYMBOL = re.compile(r"[su][0-9]+")
_SIZE_FUNCTIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt "
    "TruncToInt TruncToFloat RoundToInt ToFloat IntTrueDiv FloatTrueDiv PowByNatural FloatPow Where Identity "
    "Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan".split()
)
_FORBIDDEN_KEYS = ("as_operator", "as_custom_obj", "as_graph")
_ONE_IMAGE_IN = ("builtins.tuple", "builtins.dict")


class Program(nn.Module):
    """A traced student. It is fixed in inference mode: `train` and `eval` change nothing."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, sH, sW)."""
        image: Tensor = self.program(x)
        return image

    def train(self, mode: bool = True) -> Program:
        """Stay as traced."""
        self.training = False
        return self


def inference_form(module: nn.Module, contract: Contract) -> nn.Module:
    """A copy on the CPU, in eval mode, that makes images as the contract says without any further care.

    With "batch-statistics" its norms hold no running statistics, so that they use those of their input.
    """
    form = copy_module(module).cpu().eval().requires_grad_(False)
    if contract.inference == "batch-statistics":
        forget_statistics(form)
    return form


def forget_statistics(module: nn.Module) -> None:
    """Let the norms of `module` use the statistics of their input from now on."""
    for norm in tracked_norms(module):
        norm.running_mean, norm.running_var, norm.track_running_stats = None, None, False


def trace_program(module: nn.Module, contract: Contract) -> ExportedProgram:
    """The program of a module in its `inference_form`, for any N, H and W that the contract allows.

    A network that itself runs at the contract's size only is free in N alone.

    Raises:
        Unsupported: the forward cannot be traced, or only for one size.
    """
    height, width = contract.size
    if takes_other_sizes(module, contract):
        # Batch 2 and unequal sides: a side of 1, or two that happen to agree, would be taken for a rule.
        example = torch.zeros(2, contract.channels_in, height, width + contract.multiple_of)
        candidates = _dynamic_shapes(contract.multiple_of)
    else:
        example = torch.zeros(2, contract.channels_in, height, width)
        candidates = iter([{0: Dim("batch")}])
    reasons = []
    for shapes in candidates:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracer about itself; the caller compares images
                program = torch.export.export(module, (example,), dynamic_shapes=(shapes,), strict=False)
        except _UNTRACEABLE as error:
            reasons.append(_first_line(error))
        else:
            return _without_traces(program)
    raise Unsupported(
        f"torch.export cannot trace {type(module).__name__} for every batch and size: {reasons[-1]}. Check the "
        f"contract's multiple_of={contract.multiple_of}, and take decisions on tensor values out of the forward."
    )


def takes_other_sizes(module: nn.Module, contract: Contract) -> bool:
    """Whether the module runs on a batch of two that is wider and higher than the contract's size."""
    height, width = (side + contract.multiple_of for side in contract.size)
    try:
        with torch.no_grad():
            module(torch.zeros(2, contract.channels_in, height, width))
    except _UNTRACEABLE:
        return False
    return True


def _dynamic_shapes(multiple: int) -> Iterator[dict[int, Any]]:
    """Exact ranges first; bicubic scale factors are only accepted when the tracer chooses the ranges itself."""
    sides = [side if multiple == 1 else multiple * side for side in (Dim("height"), Dim("width"))]
    yield {0: Dim("batch"), 2: sides[0], 3: sides[1]}
    yield dict.fromkeys((0, 2, 3), Dim.DYNAMIC)


def _without_traces(program: ExportedProgram) -> ExportedProgram:
    """Without source lines, which name folders of this machine, and without the example, which is pickled."""
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


def save_program(program: ExportedProgram) -> bytes:
    """The file of a program: weights as plain bytes and the graph as JSON.

    Raises:
        Unsupported: the program holds something that torch.export has no file format for.
    """
    buffer = io.BytesIO()
    try:
        torch.export.save(program, buffer)
    except _UNTRACEABLE as error:
        raise Unsupported(f"torch.export cannot write its program: {_first_line(error)}") from error
    return buffer.getvalue()


def load_program(path: Path) -> Program:
    """The program in a file of `save_program`.

    Raises:
        CheckpointError: the file is not one, is damaged, or holds anything that reading would execute.
    """
    content = path.read_bytes()  # once, so that what is checked is what is loaded
    try:
        check_program(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
        # Guards are Python code in the file; sizes are checked by the operators themselves.
        return Program(program.module(check_guards=False))
    except (*_UNTRACEABLE, SyntaxError) as error:
        raise CheckpointError(
            f"'{path}' is not a program that can be read without executing it: {_first_line(error)}. "
            "Save the student again, or give its network to gansdk.load(directory, network=...)."
        ) from error


def check_program(content: bytes) -> None:
    """Raise ValueError if the archive holds more than one program's graph, weights and constants."""
    import json

    # The reader of torch.export.load itself: another one could see other records in a crafted archive.
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    records = reader.get_all_records()
    for name in records:
        if not _RECORDS.fullmatch(name):
            raise ValueError(f"it holds the record {name!r}")
    if "data/sample_inputs/model.pt" in records and reader.get_record("data/sample_inputs/model.pt"):
        raise ValueError("it holds pickled example inputs")
    for name in _PAYLOADS:
        for payload in json.loads(reader.get_record(name))["config"].values():
            if payload["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_[0-9]+", payload["path_name"]):
                raise ValueError(f"it holds the pickled tensor {payload['path_name']!r}")
    graph = json.loads(reader.get_record("models/model.json"))
    for symbol in graph["range_constraints"]:
        _check_size(symbol)
    for key, value in _items(graph):
        _check_item(key, value)


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every mapping in the tree, with its value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _check_item(key: str, value: Any) -> None:
    if key in _FORBIDDEN_KEYS:
        raise ValueError(f"it holds {key}")
    if key == "target":
        _check_operator(value)
    elif key == "expr_str":
        _check_size(value)
    elif key in ("in_spec", "out_spec"):
        for kind in re.findall(r'"type": *"([^"]*)"', value):
            if kind not in _ONE_IMAGE_IN:
                raise ValueError(f"it takes or gives a {kind!r}")
        if "__enum__" in value:
            raise ValueError("it takes or gives an enumeration")


def _check_operator(target: str) -> None:
    """Only PyTorch's own tensor operators, and none that opens files."""
    if _ARITHMETIC.fullmatch(target):
        return
    found = _OPERATOR.fullmatch(target)
    if found is None:
        raise ValueError(f"it calls {target!r}")
    operator = getattr(getattr(torch.ops.aten, found[1]), found[2])
    if any(argument.name in ("filename", "path") for argument in operator._schema.arguments):
        raise ValueError(f"it calls {target!r}, which opens files")


def _check_size(expression: str) -> None:
    """Only sums, products and roundings of symbols and numbers: sympy evaluates the text as Python."""
    for node in ast.walk(ast.parse(expression, mode="eval")):
        if isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS
            symbolic = isinstance(node.func, ast.Name) and node.func.id == "Symbol"
            named = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if known and symbolic and not (len(named) == 1 and _SYMBOL.fullmatch(str(named[0]))):
                known = False
        elif isinstance(node, ast.Name):
            known = node.id in _SIZE_FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
        elif isinstance(node, ast.Constant):
            text = node.value if isinstance(node.value, str) else ""
            known = not text or _SYMBOL.fullmatch(text) is not None or re.fullmatch(r"-?[0-9.]+", text) is not None
        else:
            known = isinstance(
                node, (ast.Expression, ast.keyword, ast.Load, ast.BinOp, ast.UnaryOp, ast.USub, ast.Mult, ast.Add)
            )
        if not known:
            raise ValueError(f"it computes a size by {expression[:80]!r}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
