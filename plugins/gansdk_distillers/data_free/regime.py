"""The regime: a student, and a network that looks for images on which it differs from its teacher, in turn."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Metrics
from gansdk.errors import GansdkWarning, IncompatibleParts
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import DataSource, Generator, Optimisation, Regime, Stage, State, Student, Training
from gansdk.modules.randomness import seeded
from gansdk.toolkit.calibration import tracks_statistics
from gansdk.toolkit.optim import Descent, ScheduledSteps
from gansdk.toolkit.terms import TermSum
from gansdk_distillers.data_free.inputs import Passage, check_possible, image_of, input_sizes, open_reverse
from gansdk_distillers.data_free.source import GeneratedImages
from gansdk_distillers.distances import Norm, full_precision, magnitude, promoted

_log = logging.getLogger(__name__)

Reduction = Literal["mean", "sum"]
NewBlocks = Literal["kept", "fresh"]


@dataclass(eq=False, kw_only=True)
class DataFree(Regime):
    """`student_steps` steps of the student on made images, then one of the network that makes them, and so on.

    Both read one distance of the images of student and teacher, D, in units of the output range, to which terms that
    compare images add theirs: the student descends it, plus terms on feature maps; the other network descends
    -log(1 + D) + `reconstruction_weight` times the distance between what it made and the input that the teacher's image
    leads back to. What the options mean, the factory
    `gansdk_distillers.data_free.distiller.data_free` says.

    Raises:
        IncompatibleParts: before any compute, for a generator whose inputs cannot be made.
        InvalidOption: images of the asked size cannot be made.
    """

    norm: Norm
    reduction: Reduction
    published: bool
    """Whether optimisers are those of the released code."""
    reconstruction_weight: float
    student_steps: int
    latent: int
    generator_learning_rate: float
    stages: int | None
    usual_stages: int
    new_blocks: NewBlocks
    scales: Sequence[int] | None
    cycle: str | None

    uses_task = False
    loss_may_grow = True
    tells = frozenset({"loss", "imitation"})

    def source(self, data: DataSource | None, generator: Generator, *, patch: int | None = None) -> DataSource:
        check_possible(generator, reconstruction_weight=self.reconstruction_weight, cycle=self.cycle)
        self._adapter = generator.adapter
        self._reverse: Generator | None = None
        self.way_back: str | None = None  # what is in a file may change, so the run remembers more than its path
        if self.cycle is not None:
            self._reverse, self.way_back = open_reverse(self.cycle, generator)
        self._source = GeneratedImages(
            Passage(contract=generator.contract, degrade=generator.adapter.degrade),
            input_sizes(generator, patch=patch, scales=self.scales),
            latent=self.latent,
            data=data,
        )
        return self._source

    def bind(self, stage: Stage) -> None:
        if len(stage.teachers) != 1:
            raise IncompatibleParts(
                f"Data-free distillation imitates one teacher, but got {len(stage.teachers)}. For several, use a "
                "distiller with its own regime."
            )
        self._stage = stage
        self._student = stage.student
        self._teacher = stage.teachers[0]
        self._warn()
        low, high = self._student.contracts[MAIN].output_range
        self._peak = high - low
        self._terms = TermSum(stage, self._teacher)
        self._source.renew(self._drawn(), stage.device)
        if self._reverse is not None:
            reverse = FrozenTeacher(self._reverse.module, self._reverse.contract, {}, device=stage.device)
            self._source.passage = replace(self._source.passage, degrade=image_of(reverse))
        self._descend_generator = self._generator_descent()
        self._stages = self._usable_stages()
        self._step = 0
        if self.new_blocks == "fresh":
            self._renew_blocks(self._drawn())
        self._grow(self._depth_now(), self._step)
        self._student.train()

    def step(self, batch: Batch) -> Metrics:
        """One step of the student; behind every `student_steps` of them also one of the network that makes images."""
        x = batch.inputs[MAIN]
        if self._depth_now() != self._depth:
            self._grow(self._depth_now(), self._step)
        with torch.no_grad():
            teacher = self._teacher.observe(x, self._terms.taps)
        with self._student.at_depth(self._depth):
            student = self._student.observe(x, self._terms.taps)
        loss = imitation = self._distance(student.image, teacher.image)
        metrics: Metrics = {}
        if len(self._terms):
            added, metrics = self._terms(student, teacher)
            loss = loss + added
        self._descend(loss)
        self._step += 1
        search = {} if self._step % self.student_steps else self._search(len(x))
        return {"loss": loss.detach(), "imitation": imitation.detach(), **metrics, **search}

    def state_dict(self) -> State:
        return {
            "step": self._step,
            "depth": self._depth,
            "grown_at": self._grown_at,
            "student": self._descend.state_dict(),
            "terms": self._terms.state_dict(),
            "generators": self._source.generators.state_dict(),
            "generator": self._descend_generator.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self._step = state["step"]
        self._grow(state["depth"], state["grown_at"])
        self._descend.load_state_dict(state["student"])
        self._terms.load_state_dict(state["terms"])
        self._source.generators.load_state_dict(state["generators"])
        self._descend_generator.load_state_dict(state["generator"])

    def _search(self, size: int) -> Metrics:
        """One step of the network that makes images, towards those on which student and teacher differ."""
        source, rng = self._source, self._stage.rng
        # Every process trains the network of the same scale, on noise of its own.
        scale = source.scales[int(torch.randint(len(source.scales), (), generator=rng))]
        generator = torch.Generator().manual_seed(hash((self._drawn(), self._stage.processes.rank)))
        batch = source.make(size, scale, generator)
        x = source.passage.enter(batch, scale)
        teacher = self._teacher.observe(x)
        image = teacher.image
        with self._at_rest(), self._student.at_depth(self._depth):
            student = self._student.observe(x)
        # Through both of them, as the image is to change where they come apart.
        apart = self._distance(student.image, image) + self._terms.of_images(student, teacher)
        losses = {"g/adversarial": -torch.log1p(apart)}
        loss = losses["g/adversarial"]
        if self.reconstruction_weight:
            assert image is not None
            losses["g/reconstruction"] = self._reduced(source.passage.back(image, scale) - batch)
            loss = loss + self.reconstruction_weight * losses["g/reconstruction"]
        self._descend_generator(loss)
        return {name: value.detach() for name, value in losses.items()}

    def _distance(self, student: Tensor | None, teacher: Tensor | None) -> Tensor:
        assert student is not None
        assert teacher is not None
        with full_precision(student):
            return self._reduced((promoted(student) - promoted(teacher)) / self._peak)

    def _reduced(self, error: Tensor) -> Tensor:
        values = magnitude(error, self.norm)
        return values.mean() if self.reduction == "mean" else values.sum()

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """The student as it will run, without gradients for its weights and without moving its statistics."""
        parameters = list(self._student.parameters())
        self._student.train(False)
        try:
            for p in parameters:
                p.requires_grad_(False)
            yield
        finally:
            for p in parameters:
                p.requires_grad_(True)
            self._student.train()

    def _drawn(self) -> int:
        """A number for a generator of random numbers."""
        return int(torch.randint(2**62, (), generator=self._stage.rng))

    def _depth_now(self) -> int:
        return depth_at(self._step, self._stage.steps, len(self._student.blocks), self._stages)

    def _grow(self, depth: int, step: int) -> None:
        """From `step` on run that many blocks, under a new optimiser whose schedule begins anew."""
        self._depth, self._grown_at = depth, step
        training = replace(self._stage, steps=self._stage.steps - step)
        parameters = [*active_parameters(self._student, depth), *self._terms.parameters()]
        self._descend = (
            published_sgd(parameters, training, steps=self._stage.steps)
            if self.published
            else Descent(parameters, training, self._stage.task.optimisation)
        )

    def _generator_descent(self) -> ScheduledSteps:
        parameters = list(self._source.generators.parameters())
        training = replace(
            self._stage,
            steps=math.ceil(self._stage.steps / self.student_steps),
            learning_rate=self.generator_learning_rate,
        )
        return published_adam(parameters, training) if self.published else Descent(parameters, training, Optimisation())

    def _usable_stages(self) -> int:
        """A student that inherits its weights is whole already, and grows only if it was asked to."""
        stages = self.stages or (self.usual_stages if self._student.fresh else 1)
        if stages > 1 and not self._student.blocks:
            _log.info("The student has no removable blocks, so it is trained as a whole, in a single stage.")
            return 1
        return stages

    def _renew_blocks(self, seed: int) -> None:
        """Give fresh weights to the blocks that come later."""
        with seeded(seed):
            for path in self._student.blocks[self._depth_now() :]:
                self._adapter.initialise(self._student.networks()[MAIN].get_submodule(path))

    def _warn(self) -> None:
        messages = []
        if self._student.fresh and tracks_statistics(self._student):
            messages.append(
                "The student's batch norms start with fresh statistics and will see only generated images. Let the "
                "student inherit the teacher's weights, or calibrate it on real images before use."
            )
        if self._stage.steps < self.student_steps:
            messages.append(
                f"The image-generating network is updated every {self.student_steps} steps, but the run has only "
                f"{self._stage.steps}. Train longer, or lower student_steps."
            )
        for message in messages:
            warnings.warn(message, GansdkWarning, stacklevel=3)


STAIRS = 8
"""Stairs of a training: every 10 of 80 epochs, the learning rate falls to a tenth."""


def stairs(steps: int) -> Callable[[int], float]:
    """The factor of a learning rate by step: 0.1 for every eighth of `steps` that is behind.

    However many steps an optimiser takes: those behind the student's growth begin at the top again and end above the
    last stair, as released.
    """
    return lambda step: 0.1 ** (STAIRS * step // steps)


def published_sgd(parameters: Sequence[nn.Parameter], training: Training, *, steps: int) -> ScheduledSteps:
    """The student's: SGD at 0.1, momentum 0.9, weight decay 1e-4, the norm of all gradients at most 0.4.

    The bound is what lets this rate survive a summed loss. The training's own rate plays no part. `steps`: of the whole
    training, before and behind growth.
    """
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    return ScheduledSteps(optimizer, parameters, training, stairs(steps), clip_norm=0.4)


def published_adam(parameters: Sequence[nn.Parameter], training: Training) -> ScheduledSteps:
    """The image generators': Adam at the training's rate, with torch's betas."""
    optimizer = torch.optim.Adam(parameters, lr=training.learning_rate, foreach=True)
    return ScheduledSteps(optimizer, parameters, training, stairs(training.steps))


GROWING = 18 / 80
"""The share of the steps after which the student has all its blocks: 18 stages of one epoch, out of 80."""


def depth_at(step: int, steps: int, blocks: int, stages: int) -> int:
    """How many of the blocks run at `step`, counted from 0, of `steps`: round(blocks (i + 1) / stages) in stage i.

    The released code takes the epoch in place of i + 1, which is right for stages of one epoch only.
    """
    stages = max(1, min(stages, blocks))
    stage = max(i for i in range(stages) if round(i * GROWING * steps / stages) <= step)
    return round(blocks * (stage + 1) / stages)


def active_parameters(student: Student, depth: int) -> list[nn.Parameter]:
    """What the first `depth` blocks, and all that is in front of and behind the blocks, are made of."""
    network = student.networks()[MAIN]
    absent = {p for path in student.blocks[depth:] for p in network.get_submodule(path).parameters()}
    return [p for p in student.parameters() if p not in absent]
