"""Teachers that learn: a generator trained by its family's own task, alone or beside a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Route
from gansdk.errors import MissingData
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces.task import Task
from gansdk.interfaces.teacher import Teacher
from gansdk.interfaces.training import State, Training
from gansdk.modules import taps as tapping
from gansdk.modules.fold import copy_module
from gansdk.toolkit.optim import Descent


class OnlineTeacher(Teacher):
    """One generator and the task it learns by, on a copy of the given module.

    `observe` runs in training mode, as the images of a generator that is still learning are made.

    Raises:
        ContractError: a tap's path (`taps`: name -> submodule path) does not exist.
    """

    def __init__(self, module: nn.Module, contract: Contract, taps: Mapping[str, str], task: Task) -> None:
        self.contracts = {MAIN: contract}
        self.taps = tuple(taps)
        task.prepare()
        self.task = task
        self.optimisation = task.optimisation
        self.needs_pairs = task.needs_pairs
        self.module = copy_module(module).train().requires_grad_(True)
        self._paths = dict(taps)
        for tap, path in taps.items():
            tapping.submodule(self.module, path, tap)

    def check(self, batch: Batch) -> None:
        self.task.check(batch)

    def bind(self, training: Training) -> None:
        self.module.to(training.device)
        self._descend = Descent(self.module.parameters(), training, self.task.optimisation)
        self.task.bind(training)

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        self.contracts[route].check_input(x)
        paths = tapping.select(self._paths, taps)
        with torch.no_grad():
            return tapping.observe(self.module, self.module, x, paths, image=image)

    def widths(self, taps: Sequence[str], device: torch.device) -> Mapping[str, int]:
        """Asked of a frozen copy, since observing moves running statistics and draws dropout."""
        return FrozenTeacher(self.module, self.contracts[MAIN], self._paths, device=device).widths(taps, device)

    def learn(self, batch: Batch) -> Metrics:
        return self.teach(batch)[1]

    def teach(self, batch: Batch, taps: Sequence[str] = ()) -> tuple[Mapping[Route, Observation], Metrics]:
        """One step of the discriminator and one of the generator, in the task's order, after one forward pass.

        Raises:
            MissingData: the batch has no target images.
        """
        if not batch.targets:
            raise MissingData("An online teacher learns from target images, but this data has only inputs.")
        x = batch.inputs[MAIN]
        seen = tapping.observe(self.module, self.module, x, tapping.select(self._paths, taps))
        assert seen.image is not None
        late = self.task.generator_first
        judged: Metrics = {} if late else self.task.discriminate(batch, {MAIN: seen.image.detach()})
        loss, parts = self.task.generator_loss(batch, {MAIN: seen.image}, batch.targets if batch.paired else {})
        self._descend(loss)
        if late:
            with torch.no_grad():
                judged_image = self.module(x) if self.task.judges_fresh else seen.image.detach()
            judged = self.task.discriminate(batch, {MAIN: judged_image})
        return {MAIN: seen.detached()}, {"loss": loss.detach(), **judged, **parts}

    def networks(self) -> Mapping[Route, nn.Module]:
        return {MAIN: self.module}

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        return self.task.discriminators()

    def state_dict(self) -> State:
        return {
            "generator": self.module.state_dict(),
            "descent": self._descend.state_dict(),
            "task": self.task.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.module.load_state_dict(state["generator"])
        self._descend.load_state_dict(state["descent"])
        self.task.load_state_dict(state["task"])
