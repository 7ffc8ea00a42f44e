"""The default regime: a frozen teacher, the family's own losses, and any number of terms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gansdk.contracts import Batch, Metrics, Observation, Route
from gansdk.errors import IncompatibleParts, InvalidOption
from gansdk.interfaces import Regime, Stage, State
from gansdk.toolkit.optim import warmup_cosine
from gansdk.toolkit.terms import TermSum


class OfflineRegime(Regime):
    """Train the student on `task_weight` times its task's loss plus the weighted terms, by Adam.

    The learning rate rises over the first 2 % of the stage's steps and falls along a cosine to 1 %; it is a
    function of the step, so a resumed stage repeats a straight one bit for bit. Gradients are left as they
    are, as in the papers, unless `clip_norm` bounds the norm of all of them together.

    Raises:
        InvalidOption: a weight or bound is not a number in its range.
        IncompatibleParts: when bound, without anything to learn from or with several teachers; in a step,
            for a batch that is too small for a term, or that leaves colours and brightness free.
    """

    def __init__(
        self,
        *,
        task_weight: float = 1.0,
        clip_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if not 0 <= task_weight < float("inf"):
            raise InvalidOption(f"task_weight={task_weight!r} must be a finite number from 0.")
        if clip_norm is not None and not clip_norm > 0:
            raise InvalidOption(f"clip_norm={clip_norm!r} must be above zero, or None to leave gradients as they are.")
        self.task_weight = task_weight
        self.clip_norm = clip_norm
        self.betas = betas

    def bind(self, stage: Stage) -> None:
        if len(stage.teachers) != 1:
            raise IncompatibleParts(
                f"Offline distillation imitates one teacher, but was given {len(stage.teachers)}. For several, use a "
                f"distiller that brings a regime of its own."
            )
        if not stage.terms and not self.task_weight:
            raise IncompatibleParts(
                "There is nothing to learn from: no distiller gives a term, and the task's loss has no weight. Add a "
                "distiller such as 'pixel', or set task_weight above zero."
            )
        self._stage = stage
        self._teacher = stage.teachers[0]
        self._terms = TermSum(stage, self._teacher)
        self._parameters: list[nn.Parameter] = [*stage.student.parameters(), *self._terms.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=stage.learning_rate, betas=self.betas, foreach=True)
        self._step = 0
        stage.student.train()

    def step(self, batch: Batch) -> Metrics:
        self._check(batch)
        teacher = self._observe_teacher(batch)  # first, so that its activations never lie beside the student's graph
        student = {
            route: self._stage.student.observe(x, self._terms.taps, route=route) for route, x in batch.inputs.items()
        }
        losses, metrics = self._losses(batch, student, teacher)
        loss = torch.stack(losses).sum()
        self._descend(loss)
        return {"loss": loss.detach(), **metrics}

    def state_dict(self) -> State:
        return {"step": self._step, "optimizer": self._optimizer.state_dict(), "terms": self._terms.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self._step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._terms.load_state_dict(state["terms"])

    def _check(self, batch: Batch) -> None:
        """Refuse a batch before anything was computed or changed."""
        self._terms.check_batch(min(len(x) for x in batch.inputs.values()))
        if not (self._terms.anchors_low_frequencies or (self.task_weight and batch.targets)):
            raise IncompatibleParts(
                "Nothing tells the student which colours and brightness to give: the distillers compare details or "
                "features only, and the task's loss has no target images or no weight. Add the distiller 'pixel', or "
                "data with targets."
            )

    def _observe_teacher(self, batch: Batch) -> dict[Route, Observation]:
        if not len(self._terms):
            return {}
        with torch.no_grad():
            return {
                route: self._teacher.observe(x, self._terms.taps, image=self._terms.needs_image, route=route)
                for route, x in batch.inputs.items()
            }

    def _losses(
        self, batch: Batch, student: Mapping[Route, Observation], teacher: Mapping[Route, Observation]
    ) -> tuple[list[Tensor], Metrics]:
        """The weighted losses, and the detached metrics; terms are summed over routes."""
        losses: list[Tensor] = []
        told: dict[str, Tensor] = {}
        if self.task_weight:
            fakes = {route: seen.image for route, seen in student.items() if seen.image is not None}
            told |= self._stage.task.discriminate(batch, {route: fake.detach() for route, fake in fakes.items()})
            task = self._stage.task.generator_loss(batch, fakes)
            losses.append(self.task_weight * task)
            told["task"] = task.detach()
        terms: dict[str, Tensor] = {}
        for route, target in teacher.items():
            loss, values = self._terms(student[route], target)
            losses.append(loss)
            terms |= {name: terms[name] + value if name in terms else value for name, value in values.items()}
        return losses, told | terms

    def _descend(self, loss: Tensor) -> None:
        """One step of Adam; every process takes the same."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.learning_rate * warmup_cosine(self._step, self._stage.steps)
        self._optimizer.zero_grad()
        self._stage.processes.backward(loss)
        self._stage.processes.average_gradients(self._parameters)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
        self._optimizer.step()
        self._step += 1
