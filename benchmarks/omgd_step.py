"""A step of OMGD beside the same step written by hand.

Prints JSON: for steps in which the teachers learn and steps in which they stand still, with and without VGG-16 (of
random weights, for timing only), the median over rounds of (time of the SDK's step) / (time of the hand-written one),
both taken in each round in alternating order on one thread. By hand: plain torch, no hooks, the student's VGG features
computed once for both teachers, one forward pass of each network.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/omgd_step.py --rounds 11
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timing import ratio_of_times, versions
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import MAIN, Batch
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import Stage
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.testing.perceptual import STAGES, made_up_vgg16
from gansdk.training.processes import Processes
from gansdk_distillers.omgd.distiller import omgd

CHANNEL_WEIGHT = 50.0


class Parts:
    """A student, its teachers and critic as the SDK makes them, and copies for the step by hand."""

    def __init__(self, options: argparse.Namespace, weights: dict[str, Tensor] | None, every: int) -> None:
        adapter = open_adapter({"name": "pix2pix", "discriminator_width": options.critic})
        torch.manual_seed(0)
        given = open_generator(adapter.create("mobile-resnet", width=options.width), adapter)
        terms: dict[str, Any] = {"channel_weight": CHANNEL_WEIGHT, "student_steps": every}
        off: dict[str, Any] = {"perceptual": None, "style_weight": 0, "feature_weight": 0}
        distiller = omgd(**({"perceptual": weights} if weights else off), **terms, wide=4.0, deep=1.0)
        assert distiller.regime is not None
        self.regime = distiller.regime
        teachers: Any = self.regime.teachers(FrozenTeacher(given.module, given.contract, given.taps), adapter)
        student = ElasticStudent.of(given)
        self.regime.bind(
            Stage(
                student=student,
                teachers=teachers,
                task=adapter.task(given.module),
                steps=10**6,
                rng=torch.Generator().manual_seed(0),
                processes=Processes("cpu"),
                learning_rate=2e-4,
                terms=distiller.terms,
            )
        )
        channel: Any = distiller.terms[-1]
        self.taps = [int(path.removeprefix("model.")) for path in given.taps.values()]
        connectors = nn.ModuleList(channel._connectors.values())
        critics = nn.ModuleList([teacher.task.network for teacher in teachers])
        mine = copy.deepcopy((student.module.train(), [teacher.module for teacher in teachers], critics, connectors))
        self.student, self.teachers, self.critics, self.connectors = mine


def hand_step(parts: Parts, batch: Batch, weights: dict[str, Tensor] | None, learning: bool) -> Callable[[], Tensor]:
    """The same step, written for these networks alone."""
    x, y = batch.inputs[MAIN], batch.targets[MAIN]

    def adam(*networks: nn.Module) -> torch.optim.Adam:
        parameters = list(nn.ModuleList(networks).parameters())
        return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), foreach=True)

    of_student, of_critics = adam(parts.student, parts.connectors), adam(parts.critics)
    of_teachers = [adam(teacher) for teacher in parts.teachers]
    kernel = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)])
    kernel = kernel / kernel.sum()

    def run(net: nn.Module, *, tapped: bool) -> tuple[Tensor, list[Tensor]]:
        seen, z = [], x
        for index, layer in enumerate(net.model):
            z = layer(z)
            if tapped and index in parts.taps:
                seen.append(z)
        return z, seen

    def blurred(image: Tensor) -> Tensor:
        planes = image.flatten(0, 1)[:, None]
        planes = F.conv2d(planes, kernel[None, None, None], padding=(0, 5))
        return F.conv2d(planes, kernel[None, None, :, None], padding=(5, 0)).view_as(image)

    def vgg(image: Tensor) -> tuple[Tensor, list[Tensor]]:
        assert weights is not None
        z, grams, index = (image + 1) / 2, [], 0
        for stage, (_, count) in enumerate(STAGES):
            for _ in range(count):
                z = F.conv2d(z, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)
                z = F.relu(z)
                index += 2
            rows = z.flatten(2)
            grams.append(rows @ rows.mT / rows[0].numel())
            if stage == 1:
                content = z
            if stage < 3:
                z = F.max_pool2d(z, 2)
            index += 1
        return content, grams

    def teach(images: Sequence[Tensor]) -> None:
        for critic, image, teacher in zip(parts.critics, images, of_teachers, strict=True):
            critic.requires_grad_(False)
            loss = 100 * (image - y).abs().mean() - critic(torch.cat([x, image], 1)).mean()
            critic.requires_grad_(True)
            teacher.zero_grad()
            loss.backward()
            teacher.step()
        judged = torch.zeros(())
        for critic, image in zip(parts.critics, images, strict=True):
            judged = judged + 0.5 * F.relu(1 - critic(torch.cat([x, y], 1))).mean()
            judged = judged + 0.5 * F.relu(1 + critic(torch.cat([x, image.detach()], 1))).mean()
        of_critics.zero_grad()
        judged.backward()
        of_critics.step()

    def step() -> Tensor:
        with torch.set_grad_enabled(learning):
            wide, wide_maps = run(parts.teachers[0], tapped=True)
            deep = parts.teachers[1](x)
        if learning:
            teach((wide, deep))
        fake, maps = run(parts.student, tapped=True)
        mean, square = blurred(torch.cat([fake, fake.square()])).chunk(2)
        seen = vgg(fake) if weights else None
        variation = fake.diff(dim=2).abs().sum() + fake.diff(dim=3).abs().sum()
        loss = 2e-5 * variation
        for image in (wide.detach(), deep.detach()):
            mean_t, square_t = blurred(torch.cat([image, image.square()])).chunk(2)
            product, both = mean * mean_t, mean.square() + mean_t.square()
            top = (2 * product + 1e-4) * (2 * (blurred(fake * image) - product) + 9e-4)
            loss = loss + 10 * (1 - (top / ((both + 1e-4) * (square + square_t - both + 9e-4))).mean())
            if seen is not None:
                with torch.no_grad():
                    content, grams = vgg(image)
                loss = loss + 10 * (seen[0] - content).abs().mean()
                loss = loss + 1e4 * sum((a - b).abs().mean() for a, b in zip(seen[1], grams, strict=True))
        for made, true, part in zip(maps, wide_maps, parts.connectors, strict=True):
            z = F.relu(part.norm(F.conv2d(made, part.connector.weight[:, :, None, None]))).mean((2, 3))
            loss = loss + CHANNEL_WEIGHT * (z - true.detach().mean((2, 3))).square().mean()
        of_student.zero_grad()
        loss.backward()
        of_student.step()
        return loss.detach()

    return step


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=8, help="ngf of the student; the wider teacher's is four times it")
    parser.add_argument("--critic", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(options.batch, 3, options.size, options.size, generator=rng) * 2 - 1 for _ in range(2))
    batch = Batch({MAIN: x}, {MAIN: y})
    rows = {}
    for weights in (None, made_up_vgg16()):
        for learning in (True, False):
            parts = Parts(options, weights, 1 if learning else 10**6)
            by_hand = hand_step(parts, batch, weights, learning)
            name = f"{'VGG-16' if weights else 'no VGG'}, teachers {'learn' if learning else 'stand still'}"
            for number in (1, 2):  # the second is behind an update of all networks
                ours, theirs = parts.regime.step(batch)["loss"].item(), by_hand().item()
                if abs(ours - theirs) > 1e-3 * abs(theirs):
                    raise SystemExit(f"Step {number} of {name} has the loss {ours}, but by hand it is {theirs}.")
            rows[name] = ratio_of_times(lambda regime=parts.regime: regime.step(batch), by_hand, options.rounds)
    settings = {**vars(options), "threads": 1}
    print(json.dumps({"steps": rows, "settings": settings, "versions": versions("torch", "gansdk")}, indent=2))


if __name__ == "__main__":
    main()
