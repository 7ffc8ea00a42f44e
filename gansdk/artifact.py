"""The folder of a student: written whole or not at all, and read back without its teacher and without pickle.

config.json says how to build the network, what it eats and gives and where it comes from; model.safetensors
holds parameters and buffers under their names; plan.json the kept channels and the groups they belong to.
discriminator.safetensors, where there is one, is what a further training goes on with. Networks that no adapter can
build have their traced program in model.pt2. report.json, report.html and README.md are for people.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gansdk.adapter import Adapter, Generator, WrappedAdapter
from gansdk.channels.carve import carve
from gansdk.channels.fold import fold
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import Contract, Labels
from gansdk.errors import CheckpointError, GansdkWarning, OutputError, Unsupported, VerificationError
from gansdk.evaluate import inferring
from gansdk.opening import open_adapter
from gansdk.programs import (
    check_program,
    forget_statistics,
    inference_form,
    load_program,
    save_program,
    takes_other_sizes,
    trace_program,
)
from gansdk.registry import registry
from gansdk.result import SCHEMA_VERSION, CompressionResult, json_text
from gansdk.run_folder import free_name
from gansdk.warned import collected

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
DISCRIMINATOR = "discriminator.safetensors"
PROGRAM = "model.pt2"
CARD = "README.md"

RELOAD_CHECK = "saved -> loaded"
"""Name of the check that `save` adds to the result."""

Form = Literal["builder", "program", "weights"]
"""What a student is loaded from: its adapter's builder, its traced program, or only with the network at hand."""


@dataclass(frozen=True, slots=True)
class Carving:
    """One removal of channels: the groups of the network before it, and what of them was kept."""

    space: Space
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"plan": self.plan.to_dict(), "space": self.space.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Carving:
        """The inverse of `to_dict`."""
        return cls(Space.from_dict(data["space"]), Plan.from_dict(data["plan"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStudent(Generator):
    """A student that was read back, as a generator that can be compressed again."""

    carvings: tuple[Carving, ...] = ()
    """How the adapter's network became the module, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """What a student's folder says, before any network is built."""

    path: Path
    form: Form
    adapter: str
    options: dict[str, Any]
    """Of the adapter."""
    builder: dict[str, Any]
    contract: Contract
    taps: dict[str, str]
    shared: dict[str, str]
    carvings: tuple[Carving, ...]


# Writing.


def save(result: CompressionResult, directory: str | Path) -> Path:
    """Write the student's folder and prove it by reading it back; see `CompressionResult.save`."""
    target = Path(directory).absolute()
    with _writing(target), collected(result.warnings):
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            _write(result, unfinished)
            _put_in_place(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Path(directory)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"The student cannot be written to '{target}': {error.strerror or error}. Nothing was changed there; "
            "free some space or choose a folder that you may write to, and call save again."
        ) from error


def check_target(target: Path) -> None:
    """Raise OutputError rather than move somebody's folder aside."""
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file():
        raise OutputError(f"'{target}' holds files that are not a student. Choose a new or an empty folder.")
    if target.exists() and not target.is_dir():
        raise OutputError(f"'{target}' is a file, but a student is a folder. Choose another name.")


def _write(result: CompressionResult, folder: Path) -> None:
    from gansdk.report import model_card, write_report

    generator = result.generator
    form, program = _form(result)
    tensors, shared = _named_tensors(result.student)
    if program is not None:
        (folder / PROGRAM).write_bytes(program)
    (folder / WEIGHTS).write_bytes(_safetensors(tensors))
    if result.discriminator is not None:
        (folder / DISCRIMINATOR).write_bytes(_safetensors(result.discriminator))
    earlier = generator.carvings if isinstance(generator, SavedStudent) else ()
    carving = Carving(result.space, result.plan).to_dict()
    _write_text(folder / PLAN, json_text({**carving, "earlier": [past.to_dict() for past in earlier]}))
    _write_text(folder / CONFIG, json_text(_config(result, form, shared)))
    if form != "weights":
        result.checks[RELOAD_CHECK] = _proved(folder, result)
    write_report(result, folder / "report.json")
    write_report(result, folder / "report.html")
    _write_text(folder / CARD, model_card(result, loads_alone=form != "weights"))


def _form(result: CompressionResult) -> tuple[Form, bytes | None]:
    """What the student will be loaded from, and its program if it is that."""
    if _description(result.generator) is not None:
        return "builder", None
    contract = result.generator.contract
    network = inference_form(result.student, contract)
    try:
        content = save_program(trace_program(network, contract))
        check_program(content)
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
    for name, tensor in _slots(module):
        known = first.setdefault(id(tensor), name)
        if known == name:
            tensors[name] = tensor.detach()
        else:
            shared[name] = known
    return tensors, shared


def _slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place that holds a parameter or a buffer, under its name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save as to_bytes

    # Clones, because views of one storage are refused.
    plain = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return to_bytes(plain, metadata={"format": "pt"})


def _config(result: CompressionResult, form: Form, shared: Mapping[str, str]) -> dict[str, Any]:
    summary, generator = result.summary(), result.generator
    teacher = generator.module if result.teacher is None else result.teacher
    return {
        "schema_version": SCHEMA_VERSION,
        "gansdk": summary["gansdk"],
        "torch": torch.__version__,
        "form": form,
        "adapter": {**_adapter_identity(generator.adapter.name), "options": generator.adapter.options()},
        "builder": _description(generator),
        "network": type(result.student).__qualname__,
        "contract": summary["contract"],
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


def fingerprint(module: nn.Module) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and values of the state dict in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _proved(folder: Path, result: CompressionResult) -> float:
    """Largest error of the saved student on random images of the contract's size, in units of the output."""
    contract = result.generator.contract
    low, high = contract.input_range
    noise = torch.rand(contract.example_shape, generator=torch.Generator().manual_seed(0))
    error = check_saved(folder, result.student, noise * (high - low) + low)
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

    An earlier one that the new one repeats in everything but its dates is not kept.
    """
    if not target.exists() or not any(target.iterdir()):
        os.replace(unfinished, target)
        return
    aside = free_name(target)
    os.replace(target, aside)
    try:
        os.replace(unfinished, target)
    except OSError:
        os.replace(aside, target)
        raise
    if _repeats(target, aside):
        shutil.rmtree(aside)


def _repeats(new: Path, old: Path) -> bool:
    """Whether every file of `old` is in `new` with the same bytes, texts for people aside, which repeat the report."""
    for path in (path for path in old.rglob("*") if path.is_file()):
        twin = new / path.relative_to(old)
        if not twin.is_file():
            return False
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
    except (OSError, ValueError, LookupError, TypeError):
        return file
    return data


# Reading.


def load(directory: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The student in a folder that `CompressionResult.save` wrote: a plain module, in eval mode, on the CPU.

    Needs neither the teacher nor its weights, and runs no code that comes with the folder. `network` is only
    needed where neither an adapter nor torch.export could describe the network: one of the teacher's class and
    size, whose weights do not matter.

    Raises:
        CheckpointError: the folder is missing, damaged, foreign, or of a network that must be given.
        PluginNotFound: the adapter that builds the network is not installed.
    """
    folder = _read(Path(directory))
    with _readable(folder.path):
        module = _load(folder, network)[0]
    if folder.form != "program" and folder.contract.inference == "batch-statistics":
        forget_statistics(module)  # a plain module has no contract that says how to run
    return module


def load_generator(directory: str | Path, adapter: str | Mapping[str, Any] | Adapter = "auto") -> Generator:
    """The student in a folder as a generator, to be evaluated or compressed again; errors as `load`.

    Its adapter has the options that it had when the student was saved; those of `adapter`, if it is the same one or
    "auto", replace them, and may change the contract.
    """
    folder = _read(Path(directory))
    with _readable(folder.path):
        module, builder = _load(folder, None)
    asked = _asked(adapter, folder)
    chosen = asked or builder or WrappedAdapter(folder.contract, {})
    return SavedStudent(
        module=module,
        contract=asked.contract(module) if asked and asked.accepts(module) else folder.contract,
        adapter=chosen.bind(module),
        taps=folder.taps if builder else {},
        source=folder.path.name,
        carvings=folder.carvings if builder else (),
        discriminator=_discriminator(folder.path),
    )


def _asked(adapter: str | Mapping[str, Any] | Adapter, folder: _Folder) -> Adapter | None:
    """The adapter that was asked for, with the folder's options beside its own; None for just the folder's."""
    if isinstance(adapter, Adapter):
        return adapter
    given = {"name": adapter} if isinstance(adapter, str) else dict(adapter)
    if given.get("name") not in (folder.adapter, "auto"):
        return open_adapter(given)
    own = {**given, "name": folder.adapter}
    return open_adapter({**folder.options, **own}) if len(own) > 1 else None


def _discriminator(folder: Path) -> dict[str, Tensor] | None:
    from safetensors.torch import load_file

    file = folder / DISCRIMINATOR
    return load_file(file) if file.is_file() else None


def check_saved(directory: str | Path, student: nn.Module, example: Tensor) -> float:
    """Largest absolute difference between the images of the saved student and `student`; exact is 0.

    `example`: (N, channels_in, H, W). Both run on the CPU, as the contract's `inference` says.
    """
    contract = _read(Path(directory)).contract
    loaded, given = load(directory), inference_form(student, contract)
    with inferring(loaded, contract), inferring(given, contract):
        error = (loaded(example.cpu()) - given(example.cpu())).abs().max()
    return float(error)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"'{path}' is not a student that can be read ({type(error).__name__}: {error}). It is damaged or was "
            "changed by hand; save the student again."
        ) from error


def _read(path: Path) -> _Folder:
    if not os.path.isfile(path / CONFIG):  # no error for names too long to be one
        raise CheckpointError(
            f"'{path}' is not the folder of a saved student: it has no {CONFIG}. Give the folder that save() wrote."
        )
    with _readable(path):
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if config["schema_version"] > SCHEMA_VERSION:
            raise CheckpointError(
                f"'{path}' was written by gansdk {config['gansdk']} in a newer layout ({config['schema_version']}; "
                f"this one reads up to {SCHEMA_VERSION}). Install that version or a later one."
            )
        if config["form"] not in get_args(Form):
            raise ValueError(f"its form is {config['form']!r}")
        plan = json.loads((path / PLAN).read_text(encoding="utf-8"))
        return _Folder(
            path=path,
            form=config["form"],
            adapter=config["adapter"]["name"],
            options=dict(config["adapter"].get("options", {})),
            builder=config["builder"] or {},
            contract=_contract(config["contract"]),
            taps=dict(config["taps"]),
            shared=dict(config["shared"]),
            carvings=tuple(Carving.from_dict(data) for data in (*plan["earlier"], plan)),
        )


def _contract(data: Mapping[str, Any]) -> Contract:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    labels = fields.pop("labels", None)
    return Contract(**fields, labels=None if labels is None else Labels(**labels))


def _load(folder: _Folder, network: nn.Module | None) -> tuple[nn.Module, Adapter | None]:
    """The student, and the adapter that built it if one did."""
    if network is not None:
        return _filled(fold(network)[0], folder), None
    if folder.form == "program":
        return load_program(folder.path / PROGRAM), None
    if folder.form == "weights":
        raise CheckpointError(
            f"'{folder.path}' holds weights of a network that no adapter builds. Make the full-size network by its own "
            "class and call gansdk.load(dir, network=net); its weights do not matter."
        )
    adapter = open_adapter({"name": folder.adapter, **folder.options})
    return _filled(_built(adapter, folder.builder), folder), adapter


def _built(adapter: Adapter, description: Mapping[str, Any]) -> nn.Module:
    """The adapter's network with plain weights; without values where it keeps all its tensors in the open."""
    with torch.device("meta"):
        network = adapter.build(description)
    if any(isinstance(value, Tensor) for part in network.modules() for value in vars(part).values()):
        # Tensors in plain attributes come with no file, so they must be computed; the global generator stays.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            network = adapter.build(description)
    return fold(network)[0]


def _filled(network: nn.Module, folder: _Folder) -> nn.Module:
    """The network after all carvings, with the saved values."""
    from safetensors.torch import load_file

    for carving in folder.carvings:
        _check_sizes(network, carving.space)
        network = carve(network, carving.space, carving.plan)
    _fill(network, load_file(folder.path / WEIGHTS), folder.shared)
    return network.eval()


def _check_sizes(network: nn.Module, space: Space) -> None:
    """Raise CheckpointError unless the network is as large as the one whose channels `space` describes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in _slots(network)}
    for name, shape in space.shapes.items():
        if not name.startswith("tap:") and shapes.get(name) != shape:
            raise CheckpointError(
                f"The student was carved out of a network whose {name} is {shape}, but that of the network at hand is "
                f"{shapes.get(name, 'missing')}. Give one of the teacher's class and full size."
            )


def _fill(module: nn.Module, saved: Mapping[str, Tensor], shared: Mapping[str, str]) -> None:
    """Put every saved tensor into all its places; names, shapes and types must agree exactly."""
    slots = dict(_slots(module))
    missing = sorted(name for name in slots if shared.get(name, name) not in saved)
    unexpected = sorted(saved.keys() - slots.keys())
    misfits = sorted(
        name
        for name, old in slots.items()
        if (new := saved.get(shared.get(name, name))) is not None and (new.shape != old.shape or new.dtype != old.dtype)
    )
    for problem, names in {"lacks": missing, "has unexpected": unexpected, "has other shapes for": misfits}.items():
        if names:
            raise CheckpointError(
                f"{WEIGHTS} {problem} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}, so the network is "
                "not the one that was saved. Give one of the teacher's class and full size, of the version it had then."
            )
    filled = {name: _like(slots[name], tensor) for name, tensor in saved.items()}
    for name in slots:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        table = owner._parameters if leaf in owner._parameters else owner._buffers
        table[leaf] = filled[shared.get(name, name)]  # type: ignore[assignment]


def _like(old: Tensor, tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
