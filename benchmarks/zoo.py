"""Real trained generators at a quarter of their MACs: how near to the teacher a student is, before and after training.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/zoo.py ZOO TRAIN SET5 --out runs/zoo

ZOO is a folder with `networks.py` (models() and build(name), as plain PyTorch) and its weights; TRAIN a folder of
photographs; SET5 one with `*HR*` images. Students are scored on crops of four of these in the middle: of 64x64 inputs
for networks that enlarge, else of 128x128. PSNR to the teacher is over all channels and the peak-to-peak of the output
range, without rounding; PSNR-Y to the truth as in reports. Rows:

    pruned      ranked by cost, nothing refitted        chosen      the default without training
    global      the default of before, refitted         trained     the default and 150 steps of 2 images
    per-layer   the same share of every group, refitted uniform     the first channels of every group
    magnitude   torch-pruning's importance on our groups, every group alike, nothing refitted
    without-data   the default without images and without training
    tp          torch-pruning's own MagnitudePruner at the MACs of "chosen": what it makes of the network, or fails with
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk
from gansdk.channels.tracing.trace import trace
from gansdk.evaluation.evaluate import Protocol
from gansdk.pipeline.opening import open_generator

SRGAN = "srgan_x4"
ROWS: dict[str, dict[str, Any]] = {
    "pruned": {"pruner": {"name": "one-step", "allocation": "cost", "recovery": "none"}},
    "global": {"pruner": {"name": "one-step", "allocation": "global", "recovery": "least-squares"}},
    "per-layer": {"pruner": {"name": "one-step", "allocation": "per-layer", "recovery": "least-squares"}},
    "uniform": {"pruner": "uniform"},
    "magnitude": {
        "pruner": {
            "name": "one-step", "importance": "torch-pruning", "allocation": "per-layer", "recovery": "none"
        }
    },
    "chosen": {},
    "without-data": {"data": None},
    "trained": {"distiller": "auto", "steps": 150, "batch_size": 2},
}  # fmt: skip


class Crops:
    """The middle of four photographs, as the network takes them, with the teacher's images and the truth."""

    def __init__(self, folder: Path, generator: gansdk.Generator) -> None:
        self.contract = contract = generator.contract
        side = 64 * contract.scale if contract.scale > 1 else 128
        self.inputs: list[Tensor] = []
        self.truths: list[np.ndarray[Any, Any] | None] = []
        for file in sorted(folder.glob("*HR*"))[:4]:
            image = Image.open(file).convert("L" if contract.channels_out == 1 else "RGB")
            left, top = ((whole - side) // 2 for whole in image.size)
            truth = image.crop((left, top, left + side, top + side))
            small = truth.resize((side // contract.scale,) * 2, Image.Resampling.BICUBIC)
            low, high = contract.input_range
            pixels = torch.from_numpy(np.array(small, dtype=np.float32)) / 255 * (high - low) + low
            self.inputs.append(pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None])
            self.truths.append(np.array(truth).reshape(side, side, -1) if contract.scale > 1 else None)
        self.wanted = [self.image(generator.module, x) for x in self.inputs]

    def image(self, net: nn.Module, x: Tensor) -> Tensor:
        """What the network makes, within the output's range."""
        with torch.no_grad():
            return net.eval()(x).clamp(*self.contract.output_range)

    def scores(self, net: nn.Module) -> dict[str, float]:
        """Mean and worst PSNR to the teacher, and to the truth where there is one."""
        low, high = self.contract.output_range
        images = [self.image(net, x) for x in self.inputs]
        errors = [((y - t) / (high - low)).double().square().mean() for y, t in zip(images, self.wanted, strict=True)]
        near = [-10 * math.log10(max(float(error), 1e-12)) for error in errors]
        found = {"teacher": sum(near) / len(near), "teacher_worst": min(near)}
        protocol = Protocol.of(self.contract)
        truth = [
            next(value for name, value in protocol.compare(pixels(y, low, high), t).items() if "psnr" in name)
            for y, t in zip(images, self.truths, strict=True)
            if t is not None
        ]
        return found | ({"truth": sum(truth) / len(truth), "truth_worst": min(truth)} if truth else {})


def pixels(image: Tensor, low: float, high: float) -> np.ndarray[Any, Any]:
    """(1, C, H, W) in the range -> uint8 (H, W, C)."""
    return ((image[0] - low) / (high - low) * 255).round().byte().permute(1, 2, 0).numpy()


def chunked(self: Any, x: Tensor) -> Tensor:
    """IMDN's block with `chunk` for its unequal `split`, which cuts at fixed numbers: the same function."""

    def cut(y: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = F.leaky_relu(y, 0.05).chunk(4, 1)
        return first, torch.cat(rest, 1)

    first, x1 = cut(self.c1(x))
    second, x2 = cut(self.c2(x1))
    third, x3 = cut(self.c3(x2))
    return x + self.c5(torch.cat((first, second, third, self.c4(x3)), 1))


def torch_prunings(net: nn.Module, contract: gansdk.Contract, most: int) -> nn.Module:
    """torch-pruning's MagnitudePruner (L2, one ratio for all layers), at the first of 40 ratios that fits the MACs."""
    import torch_pruning as tp

    example = torch.rand(contract.example_shape)
    last = [part for part in net.modules() if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))][-1]
    for step in range(1, 40):
        small = copy.deepcopy(net)
        names = dict(net.named_modules())
        kept = [small.get_submodule(next(name for name, part in names.items() if part is last))]
        pruner = tp.pruner.MagnitudePruner(
            small, example, tp.importance.MagnitudeImportance(p=2), pruning_ratio=step / 40, ignored_layers=kept
        )
        pruner.step()
        if tuple(small(example).shape) != tuple(net(example).shape):
            raise RuntimeError("its student gives images of another shape")
        space = trace(small, example)
        if gansdk_macs(space) <= most:
            return small
    raise RuntimeError("no ratio reaches the budget")


def gansdk_macs(space: Any) -> int:
    """MACs of a whole network, counted as budgets are."""
    from gansdk.channels.cost import CostModel

    return CostModel(space).cost(space.full_plan()).macs


def generators(folder: Path, names: list[str]) -> Iterator[tuple[str, Callable[[], gansdk.Generator]]]:
    """Name and maker of every network that was asked for."""
    spec = importlib.util.spec_from_file_location("networks", folder / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    networks.IMDB.forward = chunked

    def wrapped(name: str) -> gansdk.Generator:
        net = networks.build(name).float().eval()
        return gansdk.wrap(net, contract=gansdk.Contract(**networks.models()[name][2]))

    for name in names:
        if name == SRGAN:
            yield name, lambda: open_generator(folder.parent / "weights" / "srgan_x4_netG.pth")
        else:
            yield name, lambda name=name: wrapped(name)  # type: ignore[misc]


def main() -> None:
    """Make the rows one after the other, and print a JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("set5", type=Path)
    usual = "rfdn_x4 imdn_x4 upconv7_x2 lapsrn_x4 compact_x4 style_la_muse srgan_x4"
    parser.add_argument("--networks", nargs="*", default=usual.split())
    parser.add_argument("--rows", nargs="*", default=[*ROWS, "tp"])
    parser.add_argument("--budget", default="4x")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "torch-pruning", "gansdk")}
    print(json.dumps({"budget": asked.budget, **versions}), flush=True)
    for name, make in generators(asked.zoo, asked.networks):
        generator = make()
        crops = Crops(asked.set5, generator)
        print(json.dumps({"network": name, "row": "teacher", **rounded(crops.scores(generator.module))}), flush=True)
        macs = 0
        for row in asked.rows:
            began = time.process_time()
            found: dict[str, Any] = {"network": name, "row": row}
            if row == "tp":
                try:
                    found |= rounded(crops.scores(torch_prunings(generator.module, generator.contract, macs)))
                except Exception as error:  # what it fails with is the row
                    found["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
                        :200
                    ]
            else:
                settings = {"distiller": None, "data": asked.train, **ROWS[row]}
                result = gansdk.compress(
                    generator,
                    budget=asked.budget,
                    device="cpu",
                    out_dir=asked.out / name / row,
                    **settings,
                )
                macs = result.after.macs
                chosen = [trial["name"] for trial in result.compared.get("trials", ()) if trial["chosen"]]
                found |= {"share": round(macs / result.before.macs, 4), **rounded(crops.scores(result.student))}
                found |= {"chosen": chosen[0]} if chosen else {}
            print(json.dumps(found | {"cpu_s": round(time.process_time() - began, 1)}), flush=True)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To two decimals."""
    return {name: round(value, 2) for name, value in values.items()}


if __name__ == "__main__":
    main()
