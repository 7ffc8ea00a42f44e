"""The regime of OMGD: a wider and a deeper teacher learn in the run, and the student imitates them as they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gansdk.contracts import MAIN, Batch, Metrics, Observation, Pairing, Route
from gansdk.errors import GansdkWarning, InvalidOption, MissingData
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import Adapter, DataSource, Generator, Regime, Stage, State, Teacher, Term
from gansdk.modules.fold import copy_module
from gansdk.modules.weights import first_line
from gansdk.toolkit.optim import Descent
from gansdk.toolkit.terms import TermSum, check_anchored

Schedule = Literal["auto", "steps", "blocks"]
Deep = float | Literal["auto"] | None
Select = Callable[[nn.Module], float]
"""Lower is better; asked of a teacher's network at the end of every block, in all processes alike."""

DEEP = 0.25
"""Width of the deeper teacher relative to the given generator, for students of about that width."""
BLOCKS = 20
"""Published for horse->zebra at ngf 16: 800 epochs of the student in blocks of 40."""


class OnlineTeachers(Regime):
    """Train teachers by the adapter's task, and the student on nothing but terms that compare it with them.

    The student sees neither a discriminator nor the ground truth. Teachers run in training mode and are shown to the
    student as they were before their step.

    "steps" (Ren et al., ICCV 2021): every `student_steps`-th step of the student, the teachers learn from the same
    batch. "blocks" (the released code's CycleGAN): blocks of steps in which the first teacher learns, each followed
    by `student_steps` times as many of the student against that teacher, frozen. Then both kinds count as steps.
    There are 20 blocks unless `blocks` says otherwise, or fewer in a short run.
    "auto" is "blocks" for unpaired images and "steps" for others.

    Raises:
        IncompatibleParts: no term fixes colours and brightness.
        MissingData: there are no images, or no targets for teachers to learn from.
    """

    uses_task = False
    trains_teachers = True
    loss_may_grow = True

    def __init__(
        self,
        *,
        wide: float | None = 1.0,
        deep: Deep = "auto",
        warm: bool = False,
        share: int | None = None,
        student_steps: int | None = None,
        schedule: Schedule = "auto",
        blocks: int | None = None,
        select: Select | None = None,
    ) -> None:
        self.wide = wide
        self.deep = deep
        self.warm = warm
        self.share = share
        self.student_steps = student_steps
        self.schedule: Schedule = schedule
        self.blocks = blocks
        self.select = select
        self._by_block = schedule == "blocks"
        self._roles: tuple[str, ...] = ()
        self._taps: Mapping[str, str] = {}
        self._teachers: tuple[Teacher, ...] = ()
        self._frozen: FrozenTeacher | None = None

    def source(self, data: DataSource | None, generator: Generator, *, patch: int | None = None) -> DataSource:
        source = super().source(data, generator, patch=patch)
        if source.pairing is Pairing.INPUTS_ONLY:
            raise MissingData(
                "Teachers that are trained during the run need target images, but this data has only inputs. Pass "
                "targets, or use the terms without the regime: distiller=['ssim', 'perceptual', 'tv', 'channel'] "
                "imitates the generator as it is."
            )
        self._by_block = self.schedule == "blocks" or (self.schedule == "auto" and source.pairing is Pairing.UNPAIRED)
        if self.share is not None and (self._by_block or self.wide is None or self.deep is None):
            raise InvalidOption("share needs two teachers side by side, but there is one. Omit it.")
        if self._by_block and self.wide is not None and self.deep not in (None, "auto"):
            raise InvalidOption(
                f"deep={self.deep!r} adds a second teacher, but training in blocks has one. Omit it, or pass wide=None "
                "to learn from the deeper one."
            )
        for option, meaning in (("select", "keeps the best teacher of blocks"), ("blocks", "is their number")):
            if not self._by_block and getattr(self, option) is not None:
                raise InvalidOption(f"{option} {meaning}, but this run has none. Omit it.")
        return source

    def teachers(self, reference: Teacher, adapter: Adapter) -> Sequence[Teacher]:
        """A wider and a deeper one of the given generator's architecture; of blocks only the first of them.

        Raises:
            Unsupported: the adapter cannot build one of them.
            InvalidOption: one is too large to be built, or their discriminators cannot share as many stages.
        """
        self._teachers, self._frozen = (), None  # those of an earlier run are not this one's
        module = reference.networks()[MAIN]
        built: dict[str, nn.Module] = {}
        if self.wide is not None:
            built["wider"] = copy_module(module) if self.warm else _rebuilt(adapter, module, "wide", self.wide)
        if self.deep is not None and not (built and self._by_block):
            built["deeper"] = _rebuilt(adapter, module, "deep", DEEP if self.deep == "auto" else self.deep)
        for network in built.values():
            for part in network.modules():
                if isinstance(part, _DropoutNd):
                    part.p = 0.0  # as published: noise is nothing to imitate
        self._roles = tuple(built)
        first = next(iter(built.values()))
        self._taps = adapter.taps(first)
        return [adapter.learner(first)] if self._by_block else adapter.learners(list(built.values()), shared=self.share)

    def check(self, terms: Sequence[Term], routes: Collection[Route]) -> None:
        imitated = "teachers that are trained during the run are imitated only by terms"
        check_anchored(terms, routes, missing=imitated, remedy="keep 'ssim'")

    def bind(self, stage: Stage) -> None:
        self.check(stage.terms, stage.student.parts())
        self._stage = stage
        self._teachers = tuple(stage.teachers)
        self._done = 0
        self._plan = _Blocks(stage.steps, self.student_steps or 4, self.blocks or BLOCKS) if self._by_block else None
        self._every = self.student_steps or 1
        taught = stage.steps // self._every if self._plan is None else self._plan.taught
        if not taught:
            warnings.warn(
                f"The teachers are updated every {self._every} steps, but the run has only {stage.steps}, so the "
                "student imitates the initial teachers. Train longer, or lower student_steps.",
                GansdkWarning,
                stacklevel=3,
            )
        for teacher in self._teachers:
            teacher.bind(replace(stage, steps=max(1, taught)))
        self._frozen = self._snapshot() if self._by_block else None
        self._best: float | None = None
        shown = self._teachers if self._frozen is None else (self._frozen,)
        self._terms = TermSum(stage, *shown)
        student_steps = stage.steps if self._plan is None else stage.steps - taught
        if not student_steps:
            warnings.warn(
                f"All {stage.steps} steps train the teacher, so the student is never trained. Train longer.",
                GansdkWarning,
                stacklevel=3,
            )
        self._descend = Descent(
            [*stage.student.parameters(), *self._terms.parameters()],
            replace(stage, steps=max(1, student_steps)),
            stage.task.optimisation,
        )
        stage.student.train()

    def step(self, batch: Batch) -> Metrics:
        self._done += 1
        if self._plan is None:
            return self._distil(batch, *self._shown(batch, learning=self._done % self._every == 0))
        if self._plan.teaches(self._done):
            metrics = self._named(0, self._teachers[0].learn(batch))
            if self._plan.ends(self._done):
                self._keep()
            return metrics
        assert self._frozen is not None
        with torch.no_grad():
            shown = {route: self._frozen.observe(x, self._terms.taps, route=route) for route, x in batch.inputs.items()}
        return self._distil(batch, [shown], {})

    def learned(self) -> Mapping[str, nn.Module]:
        """The teachers as they are now; of blocks the one that the student imitates."""
        if self._frozen is not None:
            return {f"{self._roles[0]} teacher": self._frozen.networks()[MAIN]}
        networks = [next(iter(teacher.networks().values())) for teacher in self._teachers]
        return {f"{role} teacher": network for role, network in zip(self._roles, networks, strict=False)}

    def state_dict(self) -> State:
        state: State = {"done": self._done, "descent": self._descend.state_dict(), "terms": self._terms.state_dict()}
        if self._frozen is not None:
            state |= {"frozen": self._frozen.networks()[MAIN].state_dict(), "best": self._best}
        return state

    def load_state_dict(self, state: State) -> None:
        self._done = state["done"]
        self._descend.load_state_dict(state["descent"])
        self._terms.load_state_dict(state["terms"])
        if self._frozen is not None:
            self._frozen.networks()[MAIN].load_state_dict(state["frozen"])
            self._best = state["best"]

    def _shown(self, batch: Batch, *, learning: bool) -> tuple[list[Mapping[Route, Observation]], dict[str, Tensor]]:
        """What every teacher shows of the batch, before it learns from it if it does; and what it tells of that."""
        shown: list[Mapping[Route, Observation]] = []
        losses: dict[str, Tensor] = {}
        for number, teacher in enumerate(self._teachers):
            taps = () if number else self._terms.taps
            if learning:
                seen, metrics = teacher.teach(batch, taps)
                losses |= self._named(number, metrics)
            else:
                with torch.no_grad():
                    seen = {route: teacher.observe(x, taps, route=route) for route, x in batch.inputs.items()}
            shown.append(seen)
        return shown, losses

    def _distil(
        self, batch: Batch, shown: Sequence[Mapping[Route, Observation]], metrics: Mapping[str, Tensor]
    ) -> Metrics:
        """One step of the student towards what was shown, summed over routes."""
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for route, x in batch.inputs.items():
            seen = self._stage.student.observe(x, self._terms.taps, route=route)
            loss, values = self._terms(seen, *(teacher[route] for teacher in shown))
            losses.append(loss)
            terms |= {name: terms[name] + value if name in terms else value for name, value in values.items()}
        loss = torch.stack(losses).sum()
        self._descend(loss)
        return {"loss": loss.detach(), **terms, **metrics}

    def _named(self, number: int, metrics: Metrics) -> dict[str, Tensor]:
        return {f"{self._roles[number]}/{name}": value for name, value in metrics.items()}

    def _network(self) -> nn.Module:
        """That of the first teacher, in the student's direction."""
        return next(iter(self._teachers[0].networks().values()))

    def _snapshot(self) -> FrozenTeacher:
        contract = next(iter(self._teachers[0].contracts.values()))
        return FrozenTeacher(self._network(), contract, self._taps, device=self._stage.device)

    def _keep(self) -> None:
        """Freeze the teacher as it is now for the student's steps, unless an earlier one was better."""
        assert self._frozen is not None
        if self.select is not None:
            score = _number(self.select(self._network()))
            if self._best is not None and not score < self._best:
                return
            self._best = math.inf if math.isnan(score) else score
        self._frozen.networks()[MAIN].load_state_dict(self._network().state_dict())


def _rebuilt(adapter: Adapter, module: nn.Module, option: str, width: float) -> nn.Module:
    try:
        return adapter.rebuild(module, width=width, deeper=option == "deep")
    except (RuntimeError, TypeError, OverflowError) as error:  # torch's, for want of memory or of digits
        raise InvalidOption(
            f"The teacher of {option}={width!r} times the generator's width cannot be built: {first_line(error)}. Use "
            "a smaller width."
        ) from error


def _number(score: object) -> float:
    try:
        return float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidOption(f"select must return a number, lower is better, but returned {score!r}.") from error


class _Blocks:
    """Which steps are the teacher's: the first of every block, then about `ratio` times as many are the student's.

    There are `most` blocks, or fewer in a short run. Steps that do not divide evenly are spread over all of them.
    """

    def __init__(self, steps: int, ratio: int, most: int) -> None:
        self.count = max(1, min(most, steps // (1 + ratio)))
        self.taught = max(1, steps // (1 + ratio))
        """Steps of the teacher, in all blocks together."""
        self._steps = steps

    def teaches(self, step: int) -> bool:
        """Whether the `step`-th, counted from 1, is the teacher's."""
        block = (step * self.count - 1) // self._steps
        place = step - 1 - block * self._steps // self.count
        taught = (block + 1) * self.taught // self.count - block * self.taught // self.count
        return block < self.count and place < taught

    def ends(self, step: int) -> bool:
        """Whether it is the teacher's last of its block."""
        return self.teaches(step) and not self.teaches(step + 1)
