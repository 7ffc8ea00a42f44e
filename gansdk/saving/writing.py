"""Writing a student's folder, whole or not at all; `gansdk.saving.reading` says what is in it and reads it back."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import Route
from gansdk.errors import GansdkWarning, OutputError, Unsupported, VerificationError
from gansdk.events import collected
from gansdk.files import (
    clear_unfinished,
    free_name,
    json_text,
    remove,
    sha256_of,
    sync_folder,
    sync_tree,
    unfinished_name,
)
from gansdk.interfaces import Generator
from gansdk.modules.inference import inference_form
from gansdk.modules.programs.file import read_program
from gansdk.modules.programs.program import save_program, takes_other_sizes, trace_program
from gansdk.modules.weights import fingerprint
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import guarded
from gansdk.reporting.outcome import Outcome
from gansdk.saving.layout import (
    CARD,
    CONFIG,
    DISCRIMINATOR,
    FOLDER_VERSION,
    INPUTS,
    PLAN,
    PROGRAM,
    RECIPE,
    REPORTS,
    WEIGHTS,
    Carving,
    Form,
    SavedStudent,
    named_slots,
)
from gansdk.saving.reading import check_saved, packed_inputs, sealed
from gansdk.saving.recipe_file import recipe_text
from gansdk.validation.paths import check_file, check_folder

RELOAD_CHECK = "saved -> loaded"
"""Name of the check that `save` adds to the result."""


@guarded("save")
def save(result: Outcome, directory: str | Path) -> Path:
    """Write the student's folder and prove it by reading it back; see `CompressionResult.save`."""
    target = check_folder(directory, "directory").absolute()
    if result.routes:
        return _save_routes(result, target)
    with _writing(target), collected(result.warnings):
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished(target.parent, target.name)
        unfinished = unfinished_name(target)
        unfinished.mkdir()
        try:
            _write(result, unfinished)
            sync_tree(unfinished)
            _put_in_place(unfinished, target)
        finally:
            remove(unfinished)
    return Path(directory)


def _save_routes(result: Outcome, target: Path) -> Path:
    from gansdk.reporting.report import write_report

    check_target(target, result.routes)
    for route, part in result.routes.items():
        save(part, target / route)
    checks = [part.checks[RELOAD_CHECK] for part in result.routes.values() if RELOAD_CHECK in part.checks]
    result.checks |= {RELOAD_CHECK: max(checks)} if checks else {}
    for name in REPORTS:
        write_report(result, target / name)
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"The student cannot be written to '{target}': {error.strerror or error}. Nothing was changed there; "
            "free some space or choose a folder that you may write to, and call save again."
        ) from error


def check_target(target: Path, routes: Iterable[Route] = ()) -> None:
    """Raise OutputError rather than move somebody's folder aside; of several routes, the folders of all are checked."""
    if routes := tuple(routes):
        for route in routes:
            check_target(target / route)
        for name in REPORTS:
            check_file(target / name, "directory")
        return
    check_folder(target, "directory")
    if target.is_symlink():
        raise OutputError(f"'{target}' is a symbolic link, and a student is not written over one. Choose another name.")
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file():
        raise OutputError(f"'{target}' holds files that are not a student. Choose a new or an empty folder.")


def _write(result: Outcome, folder: Path) -> None:
    from gansdk.reporting.report import model_card, write_report

    generator = result.generator
    form, program = _form(result)
    tensors, shared = _named_tensors(result.student)
    if program is not None:
        (folder / PROGRAM).write_bytes(program)
    (folder / WEIGHTS).write_bytes(_safetensors(tensors))
    if result.discriminator is not None:
        (folder / DISCRIMINATOR).write_bytes(_safetensors(result.discriminator))
    if inputs := packed_inputs(result.inputs):
        (folder / INPUTS).write_bytes(_safetensors(inputs))
    earlier = generator.carvings if isinstance(generator, SavedStudent) else ()
    carving = Carving(result.space, result.plan).to_dict()
    _write_text(folder / PLAN, json_text({**carving, "earlier": [past.to_dict() for past in earlier]}))
    if result.recipe is not None:
        _write_text(folder / RECIPE, recipe_text(result.recipe, ladder=result.settings.get("ladder", ())))
    config = _config(result, form, shared)
    _write_config(folder, config)
    if form != "weights":
        result.checks[RELOAD_CHECK] = _proved(folder, result)
    for name in REPORTS:
        write_report(result, folder / name)
    _write_text(folder / CARD, model_card(result, loads_alone=form != "weights"))
    _write_config(folder, config)  # again, with the checksums of the texts


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CONFIG}
    _write_text(folder / CONFIG, json_text(sealed(json.loads(json_text(config)), files)))


def _form(result: Outcome) -> tuple[Form, bytes | None]:
    """What the student will be loaded from, and its program if it is that."""
    if _description(result.generator) is not None:
        return "builder", None
    contract = result.generator.contract
    network = inference_form(result.student, contract)
    try:
        content = save_program(trace_program(network, contract))
        read_program(content)  # as whoever loads it will
    except (Unsupported, ValueError) as error:
        warnings.warn(
            f"No adapter builds {type(result.student).__name__}, and it cannot be traced either ({error}), so only its "
            "weights and plan are saved: load it by gansdk.load(directory, network=net) with the full-size network.",
            GansdkWarning,
            stacklevel=5,
        )
        return "weights", None
    if not takes_other_sizes(network, contract):
        height, width = contract.size
        warnings.warn(
            f"The student runs on inputs of {height}x{width}, but not on inputs larger by {contract.multiple_of}, so "
            "it is saved for that size alone. If it takes sides that are multiples of something else, say so in the "
            "contract's multiple_of.",
            GansdkWarning,
            stacklevel=5,
        )
    return "program", content


def _description(generator: Generator) -> dict[str, Any] | None:
    """What the adapter builds the full network from; None if it cannot, or if no installed plugin offers it."""
    if generator.adapter.name not in registry().names("adapter"):
        return None
    try:
        return generator.adapter.describe(generator.module)
    except Unsupported:
        return None


def _named_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and buffers by their first name, buffers outside the state dict too, and further name -> first."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in named_slots(module):
        known = first.setdefault(id(tensor), name)
        if known == name:
            tensors[name] = tensor.detach()
        else:
            shared[name] = known
    return tensors, shared


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save as to_bytes

    # Clones, because views of one storage are refused.
    plain = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return to_bytes(plain, metadata={"format": "pt"})


def _config(result: Outcome, form: Form, shared: Mapping[str, str]) -> dict[str, Any]:
    summary, generator = result.summary(), result.generator
    teacher = generator.module if result.teacher is None else result.teacher
    return {
        "schema_version": FOLDER_VERSION,
        "gansdk": summary["gansdk"],
        "torch": torch.__version__,
        "form": form,
        "adapter": {**_adapter_identity(generator.adapter.name), "options": generator.adapter.options()},
        "builder": _description(generator),
        "network": type(result.student).__qualname__,
        "contract": summary["contract"],
        "way": generator.way,
        "taps": dict(generator.taps),
        "shared": dict(shared),
        "teacher": {"source": generator.source, "sha256": fingerprint(teacher)},
        **{key: summary[key] for key in ("budget", "before", "after", "settings")},
    }


def _adapter_identity(name: str) -> dict[str, str]:
    if name not in registry().names("adapter"):
        return {"name": name}
    entry = registry().find("adapter", name)
    return {"name": name, "plugin": entry.identity, "version": entry.version}


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _proved(folder: Path, result: Outcome) -> float:
    """Largest error of the saved student on random images of the contract's size, in units of the output."""
    contract = result.generator.contract
    error = check_saved(folder, result.student, contract.noise())
    low, high = contract.output_range
    if not error <= 1e-5 * (high - low):
        raise VerificationError(
            f"The saved student, read back, gives images that differ by {error:.3g}, so it was not kept. Its network "
            "holds state outside parameters and buffers; register that as buffers, or wrap it without an adapter.",
            stage="saved",
            max_error=error,
        )
    return error


def _put_in_place(unfinished: Path, target: Path) -> None:
    """Rename, after an earlier student was moved aside; it comes back if the rename fails.

    An earlier one that the new one repeats in everything but its dates stays as it is: no kill can come in between.
    """
    if not target.exists() or not any(target.iterdir()):
        os.replace(unfinished, target)
    elif _repeats(unfinished, target):
        return
    else:
        aside = free_name(target)
        os.replace(target, aside)
        try:
            os.replace(unfinished, target)
        except OSError:
            os.replace(aside, target)
            raise
    sync_folder(target.parent)


def _repeats(new: Path, old: Path) -> bool:
    """Whether both have the same files with the same bytes, texts for people aside, which repeat the report."""
    files = [path for path in old.rglob("*") if not path.is_dir()]
    if {path.relative_to(old) for path in files} != {
        path.relative_to(new) for path in new.rglob("*") if path.is_file()
    }:
        return False
    for path in files:
        twin = new / path.relative_to(old)
        if path.name in (CARD, "report.html") or path.read_bytes() == twin.read_bytes():
            continue
        if path.suffix != ".json" or _lasting(path) != _lasting(twin):
            return False
    return True


def _lasting(file: Path) -> Any:
    """A JSON file without the seconds its run took; itself if it cannot be read, so that it repeats nothing."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        del data["settings"]["seconds"]
        for key in ("files", "checksum") if file.name == CONFIG else ():
            data.pop(key)  # they follow from the other files
    except (OSError, ValueError, LookupError, TypeError):
        return file
    return data
