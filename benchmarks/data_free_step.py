"""A step of data-free distillation beside the same step written by hand: the student's, and that of the images.

Prints JSON: for every network the median over rounds of (time of the regime's step, the batch's making included) /
(time of the hand-written step), both taken in each round in alternating order on one thread. Both steps give the same
losses at first. The hand-written student step makes its images without a graph, and that of the images computes no
gradient for the weights of student and teacher: only what the method needs.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/data_free_step.py --rounds 15
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable

import torch
from timing import ratio_of_times, versions
from torch import Tensor, nn

from gansdk.contracts import MAIN, Contract
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import Stage
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.training.processes import Processes
from gansdk_distillers.data_free.distiller import data_free
from gansdk_distillers.data_free.regime import DataFree

NETWORKS = {
    "VDSR, x2, official": ("vdsr", {}, {"setting": "official", "scales": [2]}),
    "SRResNet x4": ("srresnet", {"scale": 4}, {}),
    "EDSR x4": ("edsr", {"scale": 4}, {}),
}
Step = Callable[[], Tensor]


class Regime:
    """A bound regime, whose next step is that of the student or that of the images, as asked."""

    def __init__(self, name: str, widths: tuple[int, int], blocks: int) -> None:
        architecture, sizes, options = NETWORKS[name]
        adapter = open_adapter({"name": "sr", **({"pre_upsampled": 2} if architecture == "vdsr" else {})})
        torch.manual_seed(0)
        teacher = open_generator(adapter.create(architecture, width=widths[0], blocks=blocks, **sizes), adapter)
        small = open_generator(adapter.create(architecture, width=widths[1], blocks=blocks, **sizes), adapter)
        regime = data_free(**options).regime
        assert isinstance(regime, DataFree)
        self.regime, self.contract, self.adapter = regime, teacher.contract, teacher.adapter
        self.source = regime.source(None, teacher)
        self.student = ElasticStudent.of(small)
        self.teacher = FrozenTeacher(teacher.module, teacher.contract, teacher.taps)
        stage = Stage(
            student=self.student,
            teachers=(self.teacher,),
            task=teacher.adapter.task(teacher.module),
            steps=10**6,
            rng=torch.Generator().manual_seed(0),
            processes=Processes("cpu"),
        )
        regime.bind(stage)
        self._number = 0

    def student_step(self, size: int) -> Tensor:
        """One step of the student on images made for it."""
        self._number += 1
        self.regime.student_steps = 10**9
        told = self.regime.step(self.source.train_batch(size, seed=0, step=self._number))
        return told["loss"]

    def images_step(self, size: int) -> Tensor:
        """One step of the network that makes images."""
        told = self.regime._search(size)
        return told["g/adversarial"] + told["g/reconstruction"]


class ByHand:
    """The same steps for these networks alone."""

    def __init__(self, like: Regime) -> None:
        self.teacher: nn.Module = copy.deepcopy(like.teacher.networks()[MAIN])
        self.student: nn.Module = copy.deepcopy(like.student.module).train()
        for part in self.student.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        self.contract: Contract = like.contract
        self.scale = like.source.scales[0]
        self.images: nn.Module = copy.deepcopy(like.source.generators[str(self.scale)])
        self.official = like.regime.published
        self.passage = like.source.passage
        self.peak = like.contract.output_range[1] - like.contract.output_range[0]
        self.search_rng = torch.Generator()
        self.search_rng.set_state(like.regime._stage.rng.get_state())
        parameters = list(self.student.parameters())
        if self.official:
            self.descent: torch.optim.Optimizer = torch.optim.SGD(
                parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True
            )
        else:
            self.descent = torch.optim.Adam(parameters, lr=3e-4, foreach=True)
        self.ascent = torch.optim.Adam(self.images.parameters(), lr=1e-5, foreach=True)
        self._number = 0

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """As the setting says."""
        return (a - b).square().sum() if self.official else (a - b).abs().mean()

    def student_step(self, size: int) -> Tensor:
        """One step of the student on images made for it."""
        self._number += 1
        rng = torch.Generator().manual_seed(hash((0, self._number)))
        torch.randint(1, (), generator=rng)
        with torch.no_grad():
            x = self.passage.enter(self.images(torch.randn(size, 256, generator=rng)), self.scale)
            image = self.teacher(x)
        loss = self.distance(self.student(x) / self.peak, image / self.peak)
        self.descent.zero_grad()
        loss.backward()
        if self.official:
            nn.utils.clip_grad_norm_(self.student.parameters(), 0.4)
        self.descent.step()
        return loss.detach()

    def images_step(self, size: int) -> Tensor:
        """One step of the network that makes images."""
        torch.randint(1, (), generator=self.search_rng)
        number = int(torch.randint(2**62, (), generator=self.search_rng))
        z = torch.randn(size, 256, generator=torch.Generator().manual_seed(hash((number, 0))))
        self.student.requires_grad_(False)
        made = self.images(z)
        x = self.passage.enter(made, self.scale)
        image = self.teacher(x)
        found = -torch.log1p(self.distance(self.student(x) / self.peak, image / self.peak))
        loss = found + self.distance(self.passage.back(image, self.scale), made)
        self.ascent.zero_grad()
        loss.backward()
        self.ascent.step()
        self.student.requires_grad_(True)
        return loss.detach()


def compare(name: str, ours: Step, theirs: Step, rounds: int) -> dict[str, float]:
    """The ratio of times, once both have given the same loss."""
    found, wanted = ours().item(), theirs().item()
    if abs(found - wanted) > 1e-3 * abs(wanted):
        raise SystemExit(f"{name} gives {found}, but by hand it gives {wanted}.")
    return ratio_of_times(ours, theirs, rounds)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs=2, default=(32, 16), metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = {}
    for name in NETWORKS:
        for part in ("images_step", "student_step"):
            regime = Regime(name, tuple(options.widths), options.blocks)
            hand = ByHand(regime)
            ours, theirs = getattr(regime, part), getattr(hand, part)
            steps[f"{name}, {part.split('_')[0]}"] = compare(
                f"{name}, {part}", lambda f=ours: f(options.batch), lambda f=theirs: f(options.batch), options.rounds
            )
    settings = {"batch": options.batch, "widths": options.widths, "blocks": options.blocks, "threads": 1}
    print(json.dumps({"steps": steps, "settings": settings, "versions": versions("torch", "gansdk")}, indent=2))


if __name__ == "__main__":
    main()
