"""Teachers: what a student is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Route
from gansdk.interfaces.training import Optimisation, State, Training


class Teacher(ABC):
    """A generator to imitate. Frozen by default; an online one also learns."""

    contracts: Mapping[Route, Contract]
    taps: tuple[str, ...]
    """Names of feature maps by meaning ("stem", "body3"), in execution order; the student uses the same."""
    optimisation: Optimisation = Optimisation()
    """How an online teacher learns."""
    needs_pairs: bool = False
    """Whether an online teacher learns from paired data only."""

    @abstractmethod
    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """Run on `x`: (N, channels_in, H, W). Differentiable in `x`, never in the teacher's weights.

        With `image=False` the forward pass may stop once every asked tap was seen.
        """

    def widths(self, taps: Sequence[str], device: torch.device) -> Mapping[str, int]:
        """Channels of each tap: what connectors map to. `device` is the one it runs on.

        The default looks at one black image of the contract's size; a teacher whose observations leave traces in it
        must say it otherwise.
        """
        route, contract = next(iter(self.contracts.items()))
        with torch.no_grad():
            seen = self.observe(torch.zeros(contract.example_shape, device=device), taps, image=False, route=route)
        return {tap: seen.features[tap].shape[1] for tap in taps}

    def check(self, batch: Batch) -> None:
        """Refuse images that an online teacher cannot learn from, as `Task.check`; called before any compute."""

    def bind(self, training: Training) -> None:
        """Prepare an online teacher to learn: make its optimisers anew."""

    def learn(self, batch: Batch) -> Metrics:
        """Take one optimiser step of an online teacher; a frozen one has nothing to learn."""
        return {}

    def teach(self, batch: Batch, taps: Sequence[str] = ()) -> tuple[Mapping[Route, Observation], Metrics]:
        """Learn from a batch, and give what was shown of it before that step, detached, by the batch's routes.

        The default observes and learns; a teacher that can share the forward pass between both does so here.
        """
        with torch.no_grad():
            shown = {route: self.observe(x, taps, route=route) for route, x in batch.inputs.items()}
        return shown, self.learn(batch)

    def parts(self) -> Mapping[Route, Teacher]:
        """One teacher for each of several routes; itself where there is one."""
        return {next(iter(self.contracts)): self}

    def networks(self) -> Mapping[Route, nn.Module]:
        """Plain modules, for scoring and reports."""
        return {}

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        """Weights of the discriminators an online teacher learns against; that of a route judges its images."""
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...
