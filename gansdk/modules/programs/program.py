"""Students as traced programs (torch.export): for any batch and size, and read back without running foreign code.

`gansdk.modules.programs.file` reads them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from gansdk.contracts import Contract
from gansdk.errors import CheckpointError, Unsupported
from gansdk.modules.programs.file import first_line, read_program
from gansdk.modules.programs.graph import Program

# What tracing raises on networks that cannot be traced; the network's own code runs under it.
_UNTRACEABLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


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
            reasons.append(first_line(error))
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
    except Exception:  # the network's own code, which runs on the contract's size
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
        raise Unsupported(f"torch.export cannot write its program: {first_line(error)}") from error
    return buffer.getvalue()


def load_program(content: bytes, path: Path) -> Program:
    """The program in the bytes of a file of `save_program`; `path` is for messages.

    Raises:
        CheckpointError: they are no such file, are damaged, or hold anything that reading would execute.
    """
    try:
        return read_program(content)
    except ValueError as error:
        raise CheckpointError(
            f"'{path}' is not a program that can be read without executing it: {first_line(error)}. "
            "Save the student again, or give its network to gansdk.load(directory, network=...)."
        ) from error
