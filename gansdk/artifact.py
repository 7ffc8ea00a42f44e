"""The folder of a student: written whole or not at all, and read back without its teacher and without pickle.

config.json says how to build the network, what it eats and gives and where it comes from; model.safetensors
holds parameters and buffers under their names; plan.json the kept channels and the groups they belong to.
discriminator.safetensors, where there is one, is what a further training goes on with. Networks that no adapter can
build have their traced program in model.pt2. report.json, report.html and README.md are for people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gansdk.adapter import Adapter, Generator, wrapped_adapter
from gansdk.channels.carve import carve
from gansdk.channels.fold import fold
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import Contract, Labels, Way
from gansdk.errors import CheckpointError, InvalidOption, quoted
from gansdk.evaluate import inferring
from gansdk.opening import open_adapter
from gansdk.paths import given_path
from gansdk.programs import forget_statistics, inference_form, load_program
from gansdk.result import SCHEMA_VERSION

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
DISCRIMINATOR = "discriminator.safetensors"
PROGRAM = "model.pt2"
CARD = "README.md"

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
    way: Way
    taps: dict[str, str]
    shared: dict[str, str]
    carvings: tuple[Carving, ...]


def load(directory: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The student in a folder that `CompressionResult.save` wrote: a plain module, in eval mode, on the CPU.

    Needs neither the teacher nor its weights, and runs no code that comes with the folder. `network` is only
    needed where neither an adapter nor torch.export could describe the network: one of the teacher's class and
    size, whose weights do not matter.

    Raises:
        CheckpointError: the folder is missing, damaged, foreign, or of a network that must be given.
        PluginNotFound: the adapter that builds the network is not installed.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise InvalidOption(f"network={quoted(network)} is no torch.nn.Module.")
    folder = _read(given_path(directory, "directory"))
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
    chosen = asked or builder or wrapped_adapter(folder.contract, {})
    return SavedStudent(
        module=module,
        contract=asked.contract(module) if asked and asked.accepts(module) else folder.contract,
        adapter=chosen.bind(module),
        taps=folder.taps if builder else {},
        source=folder.path.name,
        way=folder.way,
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
        inside = [file.parent.name for file in sorted(path.glob(f"*/{CONFIG}"))] if os.path.isdir(path) else []
        found = f"; it holds {', '.join(inside)}, so give one of these" if inside else ""
        raise CheckpointError(
            f"{quoted(str(path))} is not the folder of a saved student: it has no {CONFIG}{found}. Give the folder that "
            "save() wrote."
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
        way = config.get("way", "forward")  # folders from before it was written there go forward
        if way not in get_args(Way):
            raise ValueError(f"its way is {way!r}")
        plan = json.loads((path / PLAN).read_text(encoding="utf-8"))
        return _Folder(
            path=path,
            form=config["form"],
            adapter=config["adapter"]["name"],
            options=dict(config["adapter"].get("options", {})),
            builder=config["builder"] or {},
            contract=_contract(config["contract"]),
            way=way,
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
    shapes = {name: tuple(tensor.shape) for name, tensor in named_slots(network)}
    for name, shape in space.shapes.items():
        if not name.startswith("tap:") and shapes.get(name) != shape:
            raise CheckpointError(
                f"The student was carved out of a network whose {name} is {shape}, but that of the network at hand is "
                f"{shapes.get(name, 'missing')}. Give one of the teacher's class and full size."
            )


def _fill(module: nn.Module, saved: Mapping[str, Tensor], shared: Mapping[str, str]) -> None:
    """Put every saved tensor into all its places; names, shapes and types must agree exactly."""
    slots = dict(named_slots(module))
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


def named_slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place that holds a parameter or a buffer, under its name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
