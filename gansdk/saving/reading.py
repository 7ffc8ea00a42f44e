"""The folder of a student: written whole or not at all, and read back without its teacher and without pickle.

config.json says how to build the network, its inputs and outputs and where it comes from; model.safetensors
holds parameters and buffers under their names; plan.json the kept channels and the groups they belong to.
discriminator.safetensors, where there is one, is what a further training goes on with, and inputs.safetensors a few
crops of held-out images that exports are compared on. Networks that no adapter can build have their traced program in
model.pt2. recipe.toml makes the student again. report.json, report.html and README.md are for people. config.json also
has the checksum of each of these files, and one of itself.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from gansdk.channels.carve import carve
from gansdk.channels.groups import LONGEST_SIDE, Space
from gansdk.contracts import Contract, Labels, Way
from gansdk.errors import CheckpointError, ContractError, GansdkWarning, IntegrityError, InvalidOption
from gansdk.files import LARGE, read_held, sha256, sha256_of
from gansdk.generators.recognition import bound_adapter
from gansdk.generators.wrapping import wrapped_adapter
from gansdk.interfaces import Adapter, Generator
from gansdk.modules.fold import fold
from gansdk.modules.inference import forget_statistics, inference_form, inferring
from gansdk.modules.programs.program import load_program
from gansdk.modules.randomness import seeded
from gansdk.modules.skeletons import at_most, hollow
from gansdk.modules.weights import check_header
from gansdk.registry.isolation import guarded
from gansdk.registry.origins import origin_of
from gansdk.registry.parts import open_adapter
from gansdk.saving.layout import (
    CONFIG,
    DECISIVE,
    DISCRIMINATOR,
    FOLDER_VERSION,
    INPUTS,
    PLAN,
    PROGRAM,
    SPARE,
    WEIGHTS,
    Carving,
    Form,
    SavedStudent,
    named_slots,
)
from gansdk.text import one_line, quoted
from gansdk.validation.json_fields import MOST_BYTES, Field, parse
from gansdk.validation.paths import given_path

MOST_INPUTS, INPUT_SIDE = 4, 64
"""Crops that are kept, and the pixels of their sides: some hundred kilobytes."""

VERIFY = "GANSDK_VERIFY"
"""Environment variable that, set to 0, skips the comparison with checksums."""
MOST_TENSORS = 20_000
"""Of a network that an adapter builds for a folder."""
MOST_ELEMENTS = 2**27
"""Of a network whose values an adapter must compute, and of an image of the contract's size."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a folder, each compared with its checksum before its bytes are used."""

    path: Path
    checksums: Mapping[str, str] | None
    """By name; None where there are none, or they do not count."""
    seen: set[str] = field(default_factory=set)

    def read(self, name: str, most: int | None = None) -> bytes:
        """The content of a file.

        Raises:
            IntegrityError: it is not what was saved.
            ValueError, OSError: as `gansdk.files.read_held`.
        """
        self.seen.add(name)
        content = self._found(name, lambda: read_held(self.path / name, most))
        self._compare(name, sha256(content))
        return content

    def has(self, name: str) -> bool:
        """Whether the file belongs to the student."""
        return (self.path / name).is_file() if self.checksums is None else name in self.checksums

    def check_rest(self) -> None:
        """Compare the files that nobody read; those that the student is whole without only cause a warning."""
        for name in DECISIVE:
            if self.checksums is not None and name not in self.checksums and (self.path / name).exists():
                raise self._differs(name, "was not saved with the student")
        for name in self.checksums or ():
            if name not in self.seen and name in DECISIVE:
                self._compare(name, self._found(name, lambda name=name: sha256_of(self.path / name)))  # type: ignore[misc]
        changed = [name for name in SPARE if name in (self.checksums or ()) and not self._is_as_saved(name)]
        if changed:
            warnings.warn(
                f"In '{self.path}', {' and '.join(changed)} {'is' if len(changed) == 1 else 'are'} missing or not as "
                "saved. The student itself is unchanged.",
                GansdkWarning,
                stacklevel=4,
            )

    def _found(self, name: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except FileNotFoundError:
            if self.checksums is None:
                raise
            raise self._differs(name, "is missing") from None

    def _compare(self, name: str, checksum: str) -> None:
        if self.checksums is not None and self.checksums.get(name) != checksum:
            raise self._differs(name, "is not as it was saved: its checksum differs")

    def _is_as_saved(self, name: str) -> bool:
        assert self.checksums is not None
        try:
            return sha256_of(self.path / name) == self.checksums[name]
        except (OSError, ValueError):
            return False

    def _differs(self, name: str, how: str) -> IntegrityError:
        return IntegrityError(
            f"'{self.path / name}' {how}. Copy or save the student again. If you changed it on purpose, skip this "
            f"check by gansdk.load(directory, verify=False), or for commands by the environment variable {VERIFY}=0."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """What a student's folder says, before any network is built."""

    path: Path
    files: _Files
    form: Form
    adapter: str
    version: str
    """Of the adapter's plugin when the student was saved; "" of older folders."""
    options: dict[str, Any]
    """Of the adapter."""
    builder: dict[str, Any]
    contract: Contract
    way: Way
    taps: dict[str, str]
    shared: dict[str, str]
    carvings: tuple[Carving, ...]


@guarded("loading")
def load(directory: str | Path, network: nn.Module | None = None, *, verify: bool = True) -> nn.Module:
    """The student in a folder that `CompressionResult.save` wrote: a plain module, in eval mode, on the CPU.

    Needs neither the teacher nor its weights, and runs no code that comes with the folder. `network` is only
    needed where neither an adapter nor torch.export could describe the network: one of the teacher's class and
    size, whose weights do not matter. With `verify`, every file must have the checksum it was saved with.

    Raises:
        IntegrityError: a file is missing or differs from its checksum.
        CheckpointError: the folder is missing, damaged, foreign, or of a network that must be given.
        PluginNotFound: the adapter that builds the network is not installed.
    """
    if network is not None and not isinstance(network, nn.Module):
        raise InvalidOption(f"network={quoted(network)} is not a torch.nn.Module.")
    folder = _read(given_path(directory, "directory"), verify)
    with _readable(folder.path):
        module = _load(folder, network)[0]
        folder.files.check_rest()
    if folder.form != "program" and folder.contract.inference == "batch-statistics":
        forget_statistics(module)  # a plain module has no contract that says how to run
    return module


@guarded("loading")
def load_generator(
    directory: str | Path, adapter: str | Mapping[str, Any] | Adapter = "auto", *, verify: bool = True
) -> Generator:
    """The student in a folder as a generator, to be evaluated or compressed again; errors as `load`.

    Its adapter has the options that it had when the student was saved; those of `adapter`, if it is the same one or
    "auto", replace them, and may change the contract.
    """
    folder = _read(given_path(directory, "directory"), verify)
    with _readable(folder.path):
        module, builder = _load(folder, None)
        taps = _taps(folder, module) if builder else {}
        discriminator = _discriminator(folder.files)
        inputs = _inputs(folder)
        folder.files.check_rest()
    asked = _asked(adapter, folder)
    chosen = asked or builder or wrapped_adapter(folder.contract, {})
    return SavedStudent(
        module=module,
        contract=asked.contract(module) if asked and asked.accepts(module) else folder.contract,
        adapter=bound_adapter(chosen, module),
        taps=taps,
        source=folder.path.name,
        way=folder.way,
        carvings=folder.carvings if builder else (),
        inputs=inputs,
        discriminator=discriminator,
    )


def sealed(config: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """A config.json with the checksums of the folder's other files, by name, and its own."""
    whole = {**config, "files": dict(files)}
    whole.pop("checksum", None)
    return {**whole, "checksum": _seal(whole)}


def _seal(config: Mapping[str, Any]) -> str:
    """The checksum of what a config says, however it is spaced."""
    lasting = {key: value for key, value in config.items() if key != "checksum"}
    return sha256(json.dumps(lasting, sort_keys=True, separators=(",", ":")).encode())


def _asked(adapter: str | Mapping[str, Any] | Adapter, folder: _Folder) -> Adapter | None:
    """The adapter that was asked for, with the folder's options beside its own; None for just the folder's."""
    if isinstance(adapter, Adapter):
        return adapter
    given = {"name": adapter} if isinstance(adapter, str) else dict(adapter)
    if given.get("name") not in (folder.adapter, "auto"):
        return open_adapter(given)
    own = {**given, "name": folder.adapter}
    return open_adapter({**folder.options, **own}) if len(own) > 1 else None


def _taps(folder: _Folder, module: nn.Module) -> dict[str, str]:
    for tap, path in folder.taps.items():
        try:
            module.get_submodule(path)
        except AttributeError:
            raise Field(path, f"taps.{tap}").refused("the path of a part of the network") from None
    return folder.taps


def _discriminator(files: _Files) -> dict[str, Tensor] | None:
    return _tensors(files.read(DISCRIMINATOR), DISCRIMINATOR) if files.has(DISCRIMINATOR) else None


def inputs_of(generator: Generator) -> Mapping[str, Tensor]:
    """Held-out images that came with a generator; none unless it is a student that was saved with some."""
    return generator.inputs if isinstance(generator, SavedStudent) else {}


def packed_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is kept of (1, channels_in, H, W) images: float16, few and small, under printable names that differ."""
    few = list(inputs.items())[:MOST_INPUTS]
    packed = {}
    for number, (name, image) in enumerate(few, 1):
        top, left = (max(side - INPUT_SIDE, 0) // 2 for side in image.shape[2:])
        crop = image[:1, :, top : top + INPUT_SIDE, left : left + INPUT_SIDE].cpu().half()
        if crop.isfinite().all():  # half precision ends at 65504
            packed[f"{number}: {one_line(name, 100)}"] = crop
    return packed


def _inputs(folder: _Folder) -> dict[str, Tensor]:
    """The images in a folder as float32; none where there are none, or somebody took them out.

    Raises:
        ValueError: they are more or larger than what is saved, or not for this generator.
    """
    if not folder.files.has(INPUTS) or not os.path.lexists(folder.path / INPUTS):
        return {}
    channels = folder.contract.channels_in
    most = MOST_INPUTS * (2 * channels * INPUT_SIDE**2 + 2**12)
    found = _tensors(folder.files.read(INPUTS, most), INPUTS)
    if len(found) > MOST_INPUTS:
        raise ValueError(f"{INPUTS} holds {len(found)} images, more than {MOST_INPUTS}")
    for name, image in found.items():
        fits = image.ndim == 4 and image.shape[:2] == (1, channels) and min(image.shape[2:]) >= 1
        if not fits or max(image.shape[2:]) > INPUT_SIDE or image.dtype != torch.float16:
            raise ValueError(
                f"{INPUTS} holds {image.dtype} {tuple(image.shape)} as {quoted(name)}; expected were float16 images "
                f"(1, {channels}, H, W) of at most {INPUT_SIDE} pixels a side"
            )
        if not image.isfinite().all():
            raise ValueError(f"{INPUTS} holds values that are not finite as {quoted(name)}")
    return {name: found[name].float() for name in sorted(found)}


def _tensors(content: bytes, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    try:
        check_header(io.BytesIO(content))
        tensors = tensors_of(content)
        return {Field(key, "the name of a tensor").text(): tensor for key, tensor in tensors.items()}
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be read: {str(error)[:300]}") from error


def check_saved(directory: str | Path, student: nn.Module, example: Tensor) -> float:
    """Largest absolute difference between the images of the saved student and `student`; exact is 0.

    `example`: (N, channels_in, H, W). Both run on the CPU, as the contract's `inference` says.
    """
    contract = _read(Path(directory), verify=False).contract
    loaded, given = load(directory), inference_form(student, contract)
    with inferring(loaded, contract), inferring(given, contract):
        image, expected = loaded(example.cpu()), given(example.cpu())
    same = (image == expected) | (image.isnan() & expected.isnan())  # a student that is not finite can be saved, too
    return float(torch.where(same, 0.0, (image - expected).abs()).nan_to_num(math.inf).max())


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


def _read(path: Path, verify: bool) -> _Folder:
    if not os.path.isfile(path / CONFIG):  # no error for names too long to be one
        inside = [file.parent.name for file in sorted(path.glob(f"*/{CONFIG}"))] if os.path.isdir(path) else []
        found = f"; it holds {', '.join(inside)}, so give one of these" if inside else ""
        raise CheckpointError(
            f"{quoted(str(path))} is not the folder of a saved student: it has no {CONFIG}{found}. Give the folder "
            "that save() wrote."
        )
    with _readable(path):
        config = Field(parse(read_held(path / CONFIG, MOST_BYTES)), "")
        version = config["schema_version"].whole(low=1)
        if version > FOLDER_VERSION:
            raise CheckpointError(
                f"'{path}' was written by gansdk {config['gansdk'].words(100)} in a newer layout ({version}; "
                f"this one reads up to {FOLDER_VERSION}). Install that version or a later one."
            )
        verify = verify and os.environ.get(VERIFY) != "0"
        has_checksums = version > 1 or bool({"files", "checksum"} & config.value.keys())  # older folders have none
        files = _Files(path, _checksums(config, path) if verify and has_checksums else None)
        plan = Field(parse(files.read(PLAN, MOST_BYTES)), PLAN)
        adapter = config["adapter"]
        return _Folder(
            path=path,
            files=files,
            form=config["form"].one_of(get_args(Form)),
            adapter=adapter["name"].text(),
            version=adapter.get("version", "").text(),
            options=adapter.get("options", {}).plain_object(),
            builder={} if config["builder"].value is None else config["builder"].plain_object(),
            contract=_contract(config["contract"]),
            way=config.get("way", "forward").one_of(get_args(Way)),  # older folders go forward
            taps=_names(config["taps"]),
            shared=_names(config["shared"]),
            carvings=tuple(map(Carving.from_field, (*plan["earlier"].list(most=16), plan))),
        )


def _checksums(config: Field, path: Path) -> dict[str, str]:
    """Those of the folder's files, if the config is as it was written."""
    if config["checksum"].text() != _seal(config.value):
        raise _Files(path, {})._differs(CONFIG, "is not as it was saved: its checksum differs")
    return _names(config["files"].only((*DECISIVE, *SPARE)))


def _names(field: Field) -> dict[str, str]:
    return {name: value.text() for name, value in field.items()}


def _contract(data: Field) -> Contract:
    """The contract of a config; fields that older folders lack have their defaults."""
    known = {"channels_in", "channels_out", "size", "input_range", "output_range", "inner_range", "scale"}
    data.only(known | {"pre_upsampled", "multiple_of", "inference", "labels"})
    height, width = _pair(data["size"])
    inner, labels = data.get("inner_range", None), data.get("labels", None)
    try:
        contract = Contract(
            channels_in=data["channels_in"].whole(1, LONGEST_SIDE),
            channels_out=data["channels_out"].whole(1, LONGEST_SIDE),
            size=(height.whole(1, LONGEST_SIDE), width.whole(1, LONGEST_SIDE)),
            input_range=_range(data.get("input_range", [-1.0, 1.0])),
            output_range=_range(data.get("output_range", [-1.0, 1.0])),
            inner_range=None if inner.value is None else _range(inner),
            scale=data.get("scale", 1).whole(1, 64),
            pre_upsampled=data.get("pre_upsampled", 1).whole(1, 64),
            multiple_of=data.get("multiple_of", 1).whole(1, LONGEST_SIDE),
            inference=data.get("inference", "eval").one_of(("eval", "batch-statistics")),
            labels=None if labels.value is None else _labels(labels),
        )
    except ContractError as error:
        raise ValueError(f"contract: {error}") from error
    pixels = math.prod(contract.size) * contract.scale**2
    if pixels * max(contract.channels_in, contract.channels_out) > MOST_ELEMENTS:
        raise data["size"].refused(f"a size whose images have at most {MOST_ELEMENTS:,} values")
    return contract


def _labels(data: Field) -> Labels:
    data.only(("classes", "unknown", "edges"))
    return Labels(
        classes=data["classes"].whole(1, LONGEST_SIDE),
        unknown=data.get("unknown", False).flag(),
        edges=data.get("edges", False).flag(),
    )


def _range(data: Field) -> tuple[float, float]:
    low, high = _pair(data)
    return low.number(), high.number()


def _pair(data: Field) -> tuple[Field, Field]:
    pair = data.list(most=2)
    if len(pair) != 2:
        raise data.refused("a list of two")
    return pair[0], pair[1]


def _load(folder: _Folder, network: nn.Module | None) -> tuple[nn.Module, Adapter | None]:
    """The student, and the adapter that built it if one did."""
    if network is not None:
        return _filled(fold(network)[0], folder), None
    if folder.form == "program":
        return load_program(folder.files.read(PROGRAM), folder.path / PROGRAM), None
    if folder.form == "weights":
        raise CheckpointError(
            f"'{folder.path}' holds weights of a network that no adapter builds. Make the full-size network by its own "
            "class and call gansdk.load(dir, network=net); its weights do not matter."
        )
    adapter = open_adapter({**folder.options, "name": folder.adapter})
    _warn_of_version(adapter, folder)
    with guarded("building the network"):
        network = _built(adapter, folder.builder, folder.carvings[0].space)
    return _filled(network, folder), adapter


def _warn_of_version(adapter: Adapter, folder: _Folder) -> None:
    """Another version of a plugin may build another network of the same sizes."""
    origin = origin_of(adapter)
    if origin is not None and folder.version and folder.version != origin.version:
        warnings.warn(
            f"'{folder.path}' was made with the adapter {origin.name!r} of {origin.plugin} "
            f"{one_line(folder.version, 64)}, and {origin.version} is installed. If its images look wrong, install "
            "the version that made it.",
            GansdkWarning,
            stacklevel=4,
        )


def _built(adapter: Adapter, description: Mapping[str, Any], space: Space) -> nn.Module:
    """The adapter's network with plain weights; without values where it keeps all its tensors in the open.

    `space` is of that network, and says how much there may be of it.
    """
    tensors = min(8 * len(space.shapes) + 100, MOST_TENSORS)
    of = f"the {len(space.shapes):,} tensors of {PLAN}"
    network = hollow(lambda: adapter.build(description), tensors, of)
    hidden = [value for part in network.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    if hidden:
        values = (*hidden, *network.parameters(), *network.buffers())
        if (elements := sum(value.numel() for value in values)) > MOST_ELEMENTS:
            raise ValueError(f"builder describes a network of {elements:,} numbers, more than {MOST_ELEMENTS:,}")
        # Tensors in plain attributes come with no file, so they must be computed; the global generator stays.
        with seeded(), torch.device("cpu"), at_most(tensors, of):
            network = adapter.build(description)
    return fold(network)[0]


def _filled(network: nn.Module, folder: _Folder) -> nn.Module:
    """The network after all carvings, with the saved values."""
    for carving in folder.carvings:
        _check_sizes(network, carving.space)
        _check_attributes(network, carving.space)
        network = carve(network, carving.space, carving.plan)
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in named_slots(network))
    content = folder.files.read(WEIGHTS, most=2 * needed + LARGE)  # the names of tensors need some more
    _fill(network, _tensors(content, WEIGHTS), folder.shared)
    return network.eval()


def _check_attributes(network: nn.Module, space: Space) -> None:
    """Raise ValueError unless whatever a carving replaces is there: numbers of modules, and branches."""
    for attribute in space.attributes:
        if type(getattr(network.get_submodule(attribute.module), attribute.name, None)) is not int:
            raise ValueError(f"{attribute.module!r} has no number {attribute.name!r} that a carving could change")
    for branch in space.branches:
        if not branch.module or network.get_submodule(branch.module) is None:
            raise ValueError(f"the network has no branch {branch.module!r}")


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
