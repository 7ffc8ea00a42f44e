"""From what a user has (a module, a file, a folder, a name) to generators, plugins and sources."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from gansdk.contracts import Contract, Pairing
from gansdk.errors import (
    CheckpointError,
    ContractError,
    DataError,
    GansdkError,
    InvalidOption,
    NeedsContract,
    Unsupported,
)
from gansdk.generators.joint import View, one_or_joint, the_only, together
from gansdk.generators.patches import fitting_patch
from gansdk.generators.recognition import bound_adapter, detect, recognise
from gansdk.generators.wrapping import other_types, plain_module
from gansdk.interfaces import Adapter, DataSource, Generator
from gansdk.modules.randomness import seeded
from gansdk.modules.weights import read_weights
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import guarded, mark
from gansdk.registry.origins import origin_of
from gansdk.registry.parts import from_json, instantiate, open_adapters, takes
from gansdk.text import quoted
from gansdk.validation.paths import as_utf8

SIDES = {"direction", "input_column", "target_column"}
"""Options of sources by which a user says which side of the data goes in."""


@guarded("opening the model")
def open_generator(model: Any, adapter: str | Mapping[str, Any] | Adapter = "auto") -> Generator:
    """A generator from a module, a checkpoint file, a saved student's folder, or itself.

    A folder remembers the options of its adapter; those given here count before them. Several routes that a family
    trains together come as a folder that has one for each of them, or as a mapping, perhaps as JSON text. The options
    of {"name": "auto", option: value} are for whichever family is recognised.

    Raises:
        NeedsContract: a bare module of no known family.
        CheckpointError: a file that cannot be read, or fits no family.
        InvalidOption: the family has no such option; the message lists those it has.
    """
    if isinstance(model, Generator):
        return model
    model = from_json(model, "model")
    if isinstance(model, Mapping):
        _check_routes(model)
        return together({route: the_only(open_generator(part, adapter)) for route, part in model.items()})
    if isinstance(adapter, Mapping) and adapter.get("name") == "auto" and not _is_folder(model):
        # Which options there are only the family knows, so it is recognised without them first.
        adapter = {**adapter, "name": open_generator(model).adapter.name}
    if isinstance(model, nn.Module):
        adapters = open_adapters(adapter)
        model = plain_module(model)
        found = detect(model, adapters)
        if found is None:
            families = ", ".join(adapters) or "none"
            raise NeedsContract(
                f"{type(model).__name__} does not belong to a known family ({families}). Describe its inputs and "
                "outputs with gansdk.wrap(net, contract=gansdk.Contract(channels_in=3, channels_out=3, "
                "size=(256, 256))), and pass the result."
            )
        if other_types(model):
            raise ContractError(
                f"{type(model).__name__} has weights of {other_types(model)}, but images are float32. Pass net.float()."
            )
        return found
    if not isinstance(model, (str, Path)):
        raise GansdkError(
            f"model is a {type(model).__name__}. Pass a torch.nn.Module, the path of a checkpoint, the folder of a "
            "saved student, or a generator from gansdk.wrap."
        )
    if str(model) == "demo":
        from gansdk.pipeline.opening import demo_checkpoint

        model = demo_checkpoint()
    path = Path(model)
    if _is_folder(path):
        return _open_folder(path, adapter)
    if not os.path.exists(path):  # no error for names too long to be one
        raise CheckpointError(
            f"{quoted(str(path))}: no such file. Pass a checkpoint (.pth, .pt, .safetensors) or a student's folder."
        )
    state, container = read_weights(path)
    name = as_utf8(path.name)
    return recognise(state, open_adapters(adapter), source=f"{name} ({container})" if container else name)


def _check_routes(model: Mapping[Any, Any]) -> None:
    """Raise InvalidOption for a mapping that names no routes, or has mappings for what is on them."""
    if not model:
        raise InvalidOption("model={} has no generator. Give one, or {route: generator, ...} for several routes.")
    for route, part in model.items():
        if not isinstance(route, str) or isinstance(from_json(part, "model"), Mapping):
            raise InvalidOption(
                f"model has {quoted(part)} for the route {quoted(route)}. Give {{route: generator, ...}}: text for the "
                "route, and a path or a network for the generator."
            )


def _is_folder(model: object) -> bool:
    return isinstance(model, (str, Path)) and os.path.isdir(model)  # no error for names too long to be one


def _open_folder(path: Path, adapter: str | Mapping[str, Any] | Adapter) -> Generator:
    """The student in a folder, or those of all routes below it that its family trains together."""
    from gansdk.saving.layout import CONFIG
    from gansdk.saving.reading import load_generator

    if not (path / CONFIG).is_file():
        names = [folder.name for folder in sorted(path.iterdir()) if (folder / CONFIG).is_file()]
        routes = load_generator(path / names[0], adapter).adapter.routes if names else {}
        if routes and set(routes) <= set(names):  # earlier ones lie beside them: A2B.old-1
            return together({route: load_generator(path / route, adapter) for route in routes})
    return load_generator(path, adapter)


@guarded("the transform")
def transformed(generator: Generator, transform: str | None, seed: int) -> Generator:
    """The generator in another architecture of its family, whose fresh weights follow the seed; itself without one.

    Raises:
        Unsupported: the family has no such transform, or this network does not allow it; the message says why.
    """
    if transform is None:
        return generator
    if not isinstance(transform, str):
        raise InvalidOption(
            f"transform={quoted(transform)} must be the name of one of the family's; to do without, omit it."
        )
    return one_or_joint(generator, lambda part: _transformed(part, transform, seed), together)


def _transformed(generator: Generator, transform: str, seed: int) -> Generator:
    with seeded(seed):
        module = generator.adapter.transform(generator.module, transform).eval()
    adapter = bound_adapter(generator.adapter, module)
    return Generator(
        module=module,
        contract=generator.contract,
        adapter=adapter,
        taps=adapter.taps(module),
        source=generator.source,
        way=generator.way,
    )


@guarded("opening the data")
def open_source(
    data: Any, generator: Generator, *, split: str = "train", patch: int | None = None, seed: int = 0
) -> DataSource:
    """A source from a folder, the name of a source plugin ("photos"), {"name": ..., option: value}, or itself.

    The mapping may also be JSON text. A source plugin is given contract, degrade, seed, split, patch (where it was
    asked for) and default_patch (what fits the network) if it has such options and they are not in the mapping. A
    generator that goes backward sees both sides exchanged, unless the mapping itself says what goes in and what comes
    out, or there is one side only. A DataSource is taken as it is.

    Raises:
        DataError: there is no such folder or source.
        InvalidOption: the source has no such option.
    """
    if isinstance(data, DataSource):
        mark(data, origin_of(data))
        return data
    name, options = _asked_source(data)
    backward = generator.way == "backward" and not SIDES & options.keys()
    factory = registry().load("source", name)
    known = {"contract": generator.contract, "degrade": _degrade(generator), "seed": seed, "split": split}
    if patch is not None:
        known["patch"] = patch
    trains = split != "all"  # else no patch is cut, and what fits the network need not be found out
    if trains and "patch" not in {*known, *options} and takes(factory, "default_patch"):
        known["default_patch"] = fitting_patch(generator)
    known = {option: value for option, value in known.items() if option not in options and takes(factory, option)}
    if not isinstance(options.get("contract", generator.contract), Contract):
        raise InvalidOption(f"The source {name!r}: contract={quoted(options['contract'])} must be a gansdk.Contract.")
    made = instantiate("source", name, factory, options, DataSource, known)
    assert isinstance(made, DataSource)
    if not backward or made.pairing is Pairing.INPUTS_ONLY:
        return made
    view = View(made, "backward")
    mark(view, origin_of(made))
    return view


def _asked_source(data: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a source plugin."""
    if isinstance(data, (str, Path)) and os.path.isdir(data):  # False for texts too long for a name
        return "folder", {"path": data}
    names = [name for name in registry().names("source") if name != "folder"]
    if isinstance(data, str) and data in names:
        return data, {}
    data = from_json(data, "data")
    if isinstance(data, Mapping) and isinstance(data.get("name"), str):
        return data["name"], {option: value for option, value in data.items() if option != "name"}
    if isinstance(data, (str, Path)):
        problem = "is a file, not a folder" if os.path.isfile(data) else "no such folder"
        shown = f"data={quoted(str(data))}: {problem}"
    else:
        shown = f"data is a {type(data).__name__}, which gives no images by itself"
    raise DataError(
        f"{shown}. Pass a folder of images, a DataSource, {{'name': ..., option: value}}, "
        f"or one of: {', '.join(names)}."
    )


def _degrade(generator: Generator) -> Any:
    """The adapter's way from images back to inputs, if it has one."""
    if type(generator.adapter).degrade is Adapter.degrade:
        return None
    try:
        return generator.adapter.degrade
    except Unsupported:
        return None


def demo_checkpoint() -> Path:
    """The weights of the demo's teacher: an SRResNet without norms, 32 channels, 6 blocks, enlarging twice.

    examples/train_demo_teacher.py made them; flower and chelsea were not among its images.
    """
    return Path(str(files("gansdk") / "assets" / "demo_teacher.safetensors"))
