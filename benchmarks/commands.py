"""Every command that writes, small enough to be started hundreds of times, and what it works on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starting import Command, Place, in_child, last_line, start

SAVE = """
import sys, gansdk
result = gansdk.compress(sys.argv[1], budget="3x", pruner="uniform", distiller=None, device="cpu")
result.save("student")
"""
GAN = ("--adapter-option", "size=[32,32]", "--adapter-option", "discriminator_width=4")
_SEARCH = ("steps=6", "population=6", "iterations=2", "multiple_of=1")
ONCE = ("--pruner", "once-for-all", *(f"--pruner-option={option}" for option in _SEARCH))


@dataclass(frozen=True)
class Scenario:
    """A command that writes."""

    name: str
    command: Command
    lasting: tuple[str, ...] = ("out/student",)
    """What a user opens; each is whole at every moment."""
    earlier: Mapping[str, str] = field(default_factory=dict)
    """Assets that are there before, and where."""
    needs: tuple[str, ...] = ()
    """Assets of `make_assets`."""


def scenarios(assets: Path) -> dict[str, Scenario]:
    """All of them, by name."""
    photos = json.dumps({"name": "folder", "path": str(assets / "photos"), "holdout": 0.4})
    small = ("--batch-size", "2", "--device", "cpu", "--out", "out")
    upscaler = ("compress", str(assets / "upscaler.safetensors"), *small, "--patch", "16")
    pixel = ("--distiller", "pixel", "--data", photos)
    one_step = (*upscaler, "-b", "3x", "--pruner-option", "multiple_of=1", "--distiller", "gka", *pixel)
    without_vgg = (f"--distiller-option=omgd.{name}_weight=0" for name in ("style", "feature"))
    omgd = ("-b", "3x", "--distiller", "omgd", *without_vgg)
    of_free = (f"--distiller-option=data-free.{option}" for option in ("student_steps=2", "latent=8"))
    free = ("-b", "3x", "--distiller", "data-free", *of_free, "--eval-data", photos)
    domains = ("--data", str(assets / "domains"), *GAN, "--adapter", "cyclegan")
    routes = ("compress", str(assets / "cyclegan" / "teacher"), *small, *domains, "-b", "2x")
    pairs = ("--data", str(assets / "pairs"), *GAN, "--size", "width=4", "--size", "blocks=1")

    def exported(kind: str) -> Scenario:
        file = f"small/student.{kind}"
        command = Command(("export", str(assets / "later" / "student"), kind, "--out", file))
        return Scenario(
            f"export {kind}", command, (file,), {f"earlier.{kind}": file}, ("earlier", "later", f"earlier.{kind}")
        )

    known = (
        Scenario("compress", Command((*one_step, "--steps", "24"))),
        Scenario("once-for-all", Command((*upscaler, "-b", "3x", *ONCE, *pixel, "--steps", "8"))),
        Scenario("omgd", Command((*upscaler, *omgd, *pixel, "--steps", "8"))),
        Scenario("data-free", Command((*upscaler, *free, "--steps", "8"))),
        Scenario(
            "two routes",
            Command((*routes, "--distiller", "gka", "--distiller", "wavelet", "--steps", "8")),
            ("out/student/A2B", "out/student/B2A"),
            needs=("cyclegan",),
        ),
        Scenario(
            "ladder",
            Command((*upscaler, "-b", "2x,4x", *ONCE, *pixel, "--steps", "6")),
            ("out/2x/student", "out/4x/student"),
        ),
        Scenario(
            "train-teacher", Command(("train-teacher", "pix2pix", *small, *pairs, "--steps", "24")), ("out/teacher",)
        ),
        Scenario(
            "save",
            Command((str(assets / "upscaler.safetensors"),), SAVE),
            ("student",),
            {"earlier/student": "student"},
            ("earlier",),
        ),
        exported("onnx"),
        exported("pt2"),
        Scenario(
            "two processes", Command((*one_step, "--pruner-option", "recovery=none", "--steps", "12"), processes=2)
        ),
    )
    return {scenario.name: scenario for scenario in known}


def make_assets(assets: Path, needed: Collection[str]) -> None:
    """Make images and an untrained network in an empty folder, and of the teachers and students those needed."""
    if not (assets / "upscaler.safetensors").exists():
        in_child(_draw, str(assets))
    once = ("--device", "cpu", "--steps", "1", "--batch-size", "1", "--size", "width=8", "--size", "blocks=1")
    pruned = ("compress", str(assets / "upscaler.safetensors"), "--pruner", "uniform", "--distiller", "none")
    export = ("export", str(assets / "earlier" / "student"))
    commands: dict[str, tuple[str, ...]] = {
        "cyclegan": ("train-teacher", "cyclegan", "--data", str(assets / "domains"), *GAN, *once),
        "earlier": (*pruned, "-b", "2x", "--device", "cpu"),
        "later": (*pruned, "-b", "3x", "--device", "cpu"),
        "earlier.onnx": (*export, "onnx"),
        "earlier.pt2": (*export, "pt2"),
    }
    for name, arguments in commands.items():
        if name in needed and not (assets / name).exists():
            place = Place(assets / "making")
            shutil.rmtree(place.root, ignore_errors=True)
            running = start(Command((*arguments, "--out", name)), place.make())
            if not running.wait(600) or running.code:
                raise RuntimeError(f"{' '.join(arguments)}: {last_line(place)}")
            (place.work / name).rename(assets / name)


def _draw(folder: str) -> None:
    """Crops of photographs in the layouts of the families, and a network that enlarges without having learned it."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from skimage import data

    from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

    def crop(number: int, side: int) -> Any:
        photo = (data.astronaut, data.chelsea, data.coffee)[number % 3]()
        top, left = 60 + 20 * number, 40 + 20 * number
        return photo[top : top + side, left : left + side]

    images = {f"photos/{number}": crop(number, 48) for number in range(10)}
    for number in range(4):
        photo = crop(number, 32)
        for part in ("train", "val"):
            images[f"pairs/{part}/{number}"] = np.concatenate([photo, photo[:, :, ::-1]], axis=1)
        for offset, part in enumerate(("trainA", "trainB", "testA", "testB")):
            images[f"domains/{part}/{number}"] = crop(number + offset, 32)
    for name, pixels in images.items():
        path = Path(folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    torch.manual_seed(0)
    save_file(SRResNet(SRResNetSizes(width=8, blocks=1, scale=2)).state_dict(), Path(folder, "upscaler.safetensors"))
