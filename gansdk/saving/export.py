"""Students for other runtimes: ONNX and PyTorch's .pt2, each compared with the original before it counts."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from gansdk.contracts import Contract
from gansdk.errors import GansdkWarning, InvalidOption, OutputError, Unsupported, VerificationError
from gansdk.files import json_text, put
from gansdk.modules.inference import inference_form
from gansdk.modules.programs.program import save_program, takes_other_sizes, trace_program
from gansdk.registry.isolation import guarded
from gansdk.registry.origins import in_words
from gansdk.toolkit.images import fitted
from gansdk.toolkit.options import one_of
from gansdk.validation.paths import check_file

CHECK = "check.json"
"""Name of the file beside the exports that holds their records."""
TOLERANCE = 1e-4
"""Largest error, as a share of what the student's own images span."""
LEAST_SPAN = 0.01
"""Share of the contract's output range that images count as spanning at least: below it all errors are rounding."""

_Runner = Callable[[Tensor], Tensor]


@guarded("export")
def export(
    module: nn.Module,
    contract: Contract,
    format: str,
    path: str | Path,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    check: bool = True,
) -> dict[str, Any]:
    """Write the module as "onnx" or "pt2", for any batch and size it takes itself, and return the record of its check.

    The file takes "input" (N, channels_in, H, W) and gives "image" (N, channels_out, sH, sW), as the contract's
    `inference` says. It is run on three batches of different sizes beside the original before it is put in
    place; the record (errors, shapes, opset, versions) is also added to check.json in the same folder.

    `inputs`: images by name, (1, channels_in, H, W), that the batches are made of, by reflection where they are too
    small; without any they are noise within the contract's input range. With `check=False` a file that gives other
    images is still written, with a warning.

    Raises:
        InvalidOption: another format.
        Unsupported: the network cannot be exported for every batch and size.
        VerificationError: the exported network gives other images, and `check` is on; nothing is written.
        OutputError: the file cannot be written.
    """
    write = _FORMATS[check_format(format)]
    path = check_file(path, "path")
    if path.name == CHECK:
        raise InvalidOption(f"path={str(path)!r} is reserved for the records of exports. Choose another name.")
    check_file(path.with_name(CHECK), "path")
    original = inference_form(module, contract)
    content, run, facts = write(trace_program(original, contract))
    compared = _compare(original, run, contract, format, inputs or {})
    if difference := compared.pop("difference"):
        if check:
            raise VerificationError(
                f"{difference} It was not written; please report it with the network. If you can live with the "
                "difference, write it all the same by check=False, or --unchecked.",
                stage="export",
                max_error=compared["max_error"],
            )
        warnings.warn(f"{difference} The file was still written (check=False).", GansdkWarning, stacklevel=2)
    record = {"format": format, "torch": torch.__version__, **facts, **compared, "passed": not difference}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
        _add_record(path, record)
    except OSError as error:
        raise OutputError(
            f"The export cannot be written to '{path}': {error.strerror or error}. Choose a path that you may write to."
        ) from error
    return record


def check_format(format: object) -> str:
    """`format`, if it is one.

    Raises:
        InvalidOption: it is not.
    """
    return one_of(tuple(_FORMATS), format, "format")


def _to_onnx(program: ExportedProgram) -> tuple[bytes, _Runner, dict[str, Any]]:
    import onnx
    import onnxruntime

    names = {0: "batch", 2: "height", 3: "width"}
    with _third_party("be written as ONNX", advice=_OTHER["onnx"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself; the images are compared
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["input"],
                output_names=["image"],
                dynamic_shapes=(names,),
            )
        assert exported is not None
        for node in exported.model.graph.all_nodes():
            node.metadata_props.clear()  # names of the network's classes and source files
        buffer = io.BytesIO()
        onnx.save_model(exported.model_proto, buffer)
        content = buffer.getvalue()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, too
    with _third_party("be loaded by onnxruntime", advice=_OTHER["onnx"]):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    facts = {
        "opset": exported.model.opset_imports[""],
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return content, lambda x: torch.from_numpy(session.run(["image"], {"input": x.numpy()})[0]), facts


def _to_pt2(program: ExportedProgram) -> tuple[bytes, _Runner, dict[str, Any]]:
    content = save_program(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Our own bytes of a moment ago, read as anybody will read them.
        module = torch.export.load(io.BytesIO(content)).module()
    return content, module, {}


_FORMATS: dict[str, Callable[[ExportedProgram], tuple[bytes, _Runner, dict[str, Any]]]] = {
    "onnx": _to_onnx,
    "pt2": _to_pt2,
}


_OTHER = {
    "onnx": "Export it as 'pt2', or replace the operation.",
    "pt2": "Export it as 'onnx', or replace the operation.",
}
_OPERATORS = (
    re.compile(r"target=torch\.ops\.([\w.]+)"),
    re.compile(r"running (\w+) node"),
    re.compile(r"implementation for (\w+)\("),
    re.compile(r"Op \((\w+)\)|Op with name \S+ and type (\w+)"),
)
"""Where exporter and runtimes name what they cannot do."""


@contextmanager
def _third_party(what: str, *, advice: str) -> Iterator[None]:
    """Say in our words what exporter or runtime raise, which may be of any class.

    Raises:
        Unsupported: with the operation, where it is known.
    """
    try:
        yield
    except Exception as error:  # of somebody else's code
        causes = list(_causes(error))
        texts = [str(cause) for cause in causes]
        found = (match for pattern in _OPERATORS for text in texts if (match := pattern.search(text)))
        names = next((next(filter(None, match.groups()), "") for match in found), "")
        operation = f"the operation {names}: " if names else ""
        raise Unsupported(
            f"The network cannot {what}: {operation}{in_words(causes[-1])}. Nothing was written. {advice}"
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, down to the first."""
    known: BaseException | None = error
    while known is not None:
        yield known
        known = known.__cause__


def _compare(
    original: nn.Module, exported: _Runner, contract: Contract, format: str, inputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Errors over three shapes, relative to what the original's images span.

    "difference" says in one or two sentences where the largest is, if one is more than rounding; else it is empty.
    """
    shapes = _shapes(original, contract)
    error, relative, difference = 0.0, 0.0, ""
    for shape, (names, x) in zip(shapes, _batches(shapes, contract, inputs), strict=True):
        shown = "x".join(map(str, shape))
        with torch.no_grad(), _third_party(f"be run as {format} on an input of {shown}", advice=_OTHER[format]):
            images = exported(x)
        with torch.no_grad():
            expected = original(x)
        for name, image, wanted in zip(names, images, expected, strict=True):
            gap, reach = _gap(image, wanted), _reach(wanted, contract)
            error = max(error, gap)
            if gap / reach > max(relative, TOLERANCE):
                difference = (
                    f"The {format} export gives images that differ by {gap:.3g} on {name} in a batch of {shown}, where "
                    f"the student's own image spans {reach:.3g} and at most {TOLERANCE * reach:.3g} was expected."
                )
            relative = max(relative, gap / reach)
    return {
        "shapes": [list(shape) for shape in shapes],
        "inputs": list(inputs) or "noise within the contract's input range",
        "max_error": error,
        "relative_error": relative,
        "tolerance": TOLERANCE,
        "difference": difference,
    }


def _gap(image: Tensor, wanted: Tensor) -> float:
    """Largest difference of two images; infinite where only one of them is not finite."""
    if image.shape != wanted.shape:
        return math.inf
    differs = (image != wanted) & ~(image.isnan() & wanted.isnan())
    gap = float((image - wanted).abs()[differs].max()) if differs.any() else 0.0
    return math.inf if math.isnan(gap) else gap


def _reach(image: Tensor, contract: Contract) -> float:
    """What an image spans, of its finite values, from zero on; never next to nothing."""
    low, high = contract.output_range
    finite = image[image.isfinite()]
    values = [float(finite.max() - finite.min()), float(finite.abs().max())] if len(finite) else []
    return max(*values, LEAST_SPAN * (high - low)) if values else high - low


def _batches(
    shapes: Sequence[tuple[int, int, int, int]], contract: Contract, inputs: Mapping[str, Tensor]
) -> Iterator[tuple[list[str], Tensor]]:
    """A name for every image, and the images: those that were given, in turn, or noise."""
    if not inputs:
        generator = torch.Generator().manual_seed(0)
        for shape in shapes:
            x = contract.noise(generator, shape)
            yield ["noise within the contract's input range"] * len(x), x
        return
    known = list(inputs)
    for count, _, height, width in shapes:
        chosen = [known[i % len(known)] for i in range(count)]
        yield [repr(name) for name in chosen], torch.cat([fitted(inputs[name], height, width) for name in chosen])


def _shapes(original: nn.Module, contract: Contract) -> list[tuple[int, int, int, int]]:
    """Three batches around the contract's size, none the one that was traced; of its size if no other is legal."""
    channels = contract.channels_in
    step = contract.multiple_of if takes_other_sizes(original, contract) else 0
    height, width = contract.size
    return [
        (1, channels, height, width),
        (2, channels, height + step, width),
        (3, channels, height, width + 2 * step),
    ]


def _add_record(path: Path, record: dict[str, Any]) -> None:
    """Keep the records of other exports in the folder; one that cannot be read is begun anew."""
    check = path.with_name(CHECK)
    try:
        records = json.loads(check.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        records = {}
    records = records if isinstance(records, dict) else {}
    put(check, json_text({**records, path.name: record}))
