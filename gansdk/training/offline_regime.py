"""The default regime: a frozen teacher, the family's own losses, and any number of terms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gansdk.contracts import Batch, Metrics, Observation, Route
from gansdk.errors import IncompatibleParts, InvalidOption
from gansdk.interfaces import Regime, Stage, State, Term
from gansdk.toolkit.optim import Descent
from gansdk.toolkit.terms import check_anchored, terms_by_route


class OfflineRegime(Regime):
    """Train the student on `task_weight` times its task's loss plus the weighted terms, by Adam.

    With `task_weight` 0 the terms alone say what to imitate: neither the truth nor a discriminator has a part in it.

    The task's `optimisation` says Adam's betas (unless `betas` does) and the schedule of the learning rate, a
    function of the step, so a resumed stage repeats a straight one bit for bit. What the student's images should
    look like is the ground truth of paired data, and else the teacher's image (Li et al., CVPR 2020). Gradients
    are left as they are, as in the papers, unless `clip_norm` bounds the norm of all of them together.

    Raises:
        InvalidOption: a weight or bound is not a number in its range.
        IncompatibleParts: when bound, with several teachers, or with nothing that says which colours and
            brightness to give.
    """

    joint = True
    tells = frozenset({"loss", "task"})

    def __init__(
        self,
        *,
        task_weight: float = 1.0,
        clip_norm: float | None = None,
        betas: tuple[float, float] | None = None,
    ) -> None:
        if not 0 <= task_weight < float("inf"):
            raise InvalidOption(f"task_weight={task_weight!r} must be a finite number >= 0.")
        if clip_norm is not None and not clip_norm > 0:
            raise InvalidOption(f"clip_norm={clip_norm!r} must be above zero, or None to disable clipping.")
        self.task_weight = task_weight
        self.uses_task = task_weight > 0
        self.clip_norm = clip_norm
        self.betas = betas

    def check(self, terms: Sequence[Term], routes: Collection[Route]) -> None:
        if not self.task_weight:
            check_anchored(terms, routes, missing="the task's loss has no weight", remedy="set task_weight above zero")

    def bind(self, stage: Stage) -> None:
        if len(stage.teachers) != 1:
            raise IncompatibleParts(
                f"Offline distillation imitates one teacher, but got {len(stage.teachers)}. For several, use a "
                "distiller with its own regime."
            )
        self.check(stage.terms, stage.student.parts())
        self._stage = stage
        self._teacher = stage.teachers[0]
        self._terms = terms_by_route(stage, self._teacher)
        betas = self.betas or stage.task.optimisation.betas
        self._descend = Descent(
            [*stage.student.parameters(), *(p for terms in self._terms.values() for p in terms.parameters())],
            stage,
            replace(stage.task.optimisation, betas=betas),
            clip_norm=self.clip_norm,
        )
        stage.task.bind(stage)
        stage.student.train()

    def step(self, batch: Batch) -> Metrics:
        teacher = self._observe_teacher(batch)  # first, so that its activations never lie beside the student's graph
        images = {route: seen.image for route, seen in teacher.items() if seen.image is not None}
        references = batch.targets if _has_truth(batch) else images
        if not batch.targets:  # the teacher's images are the only ones of the output's domain
            batch = replace(batch, targets=images)
        student = self._observe_student(batch)
        fakes = {route: seen.image for route, seen in student.items() if seen.image is not None}
        late = self._stage.task.generator_first
        judged: Metrics = {} if late or not self.task_weight else self._discriminate(batch, fakes)
        losses, metrics = self._losses(batch, references, student, teacher)
        loss = torch.stack(losses).sum()
        self._descend(loss)
        if late and self.task_weight:
            judged = self._discriminate(batch, self._fresh(batch) if self._stage.task.judges_fresh else fakes)
        return {"loss": loss.detach(), **judged, **metrics}

    def state_dict(self) -> State:
        terms = {route: terms.state_dict() for route, terms in self._terms.items()}
        return {**self._descend.state_dict(), "terms": terms}

    def load_state_dict(self, state: State) -> None:
        self._descend.load_state_dict(state)
        for route, terms in self._terms.items():
            terms.load_state_dict(state["terms"][route])

    def _observe_student(self, batch: Batch) -> dict[Route, Observation]:
        return {
            route: self._stage.student.observe(x, self._terms[route].taps, route=route)
            for route, x in batch.inputs.items()
        }

    def _observe_teacher(self, batch: Batch) -> dict[Route, Observation]:
        task = self._stage.task
        always = self.task_weight > 0 and (not batch.targets or (task.needs_references and not batch.paired))
        seen: dict[Route, Observation] = {}
        with torch.no_grad():
            for route, x in batch.inputs.items():
                terms = self._terms[route]
                if always or len(terms):
                    image = always or terms.needs_image
                    seen[route] = self._teacher.observe(x, terms.taps, image=image, route=route)
        return seen

    def _discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        return self._stage.task.discriminate(batch, {route: fake.detach() for route, fake in fakes.items()})

    def _fresh(self, batch: Batch) -> dict[Route, Tensor]:
        """The student's images after its step."""
        with torch.no_grad():
            seen = {route: self._stage.student.observe(x, route=route).image for route, x in batch.inputs.items()}
        return {route: image for route, image in seen.items() if image is not None}

    def _losses(
        self,
        batch: Batch,
        references: Mapping[Route, Tensor],
        student: Mapping[Route, Observation],
        teacher: Mapping[Route, Observation],
    ) -> tuple[list[Tensor], Metrics]:
        """The weighted losses, and the detached metrics; terms are summed over routes."""
        losses: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        if self.task_weight:
            fakes = {route: seen.image for route, seen in student.items() if seen.image is not None}
            task, parts = self._stage.task.generator_loss(batch, fakes, references)
            losses.append(self.task_weight * task)
            metrics |= {"task": task.detach(), **parts}
        terms: dict[str, Tensor] = {}
        for route, target in teacher.items():
            if len(self._terms[route]):
                loss, values = self._terms[route](student[route], target)
                losses.append(loss)
                terms |= {name: terms[name] + value if name in terms else value for name, value in values.items()}
        return losses, metrics | terms


def _has_truth(batch: Batch) -> bool:
    return batch.paired and bool(batch.targets)
