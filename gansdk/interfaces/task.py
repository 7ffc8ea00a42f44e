"""Tasks: a family's own losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gansdk.contracts import MAIN, Batch, Metrics, Route
from gansdk.interfaces.training import Optimisation, State, Training


class Task(ABC):
    """The family's own training losses: what a generator of this kind is trained for without a teacher.

    Scalars are means over the batch; `fakes[route]`: (N, channels_out, sH, sW), the generator's images.
    """

    optimisation: Optimisation = Optimisation()
    needs_pairs: bool = False
    """Whether a target must show what its input should become; samples of the other domain do not serve."""
    generator_first: bool = False
    """Whether the generator's step precedes the discriminator's."""
    judges_fresh: bool = True
    """Whether a discriminator whose step comes second judges fresh images (SPADE), or those of the first step
    (CycleGAN)."""
    needs_references: bool = True
    """Whether `generator_loss` reads its references; if not, no teacher's image is made for it."""

    @property
    def discriminator(self) -> Mapping[str, Tensor] | None:
        """Weights of the discriminator as they are now; None for families without one."""
        return None

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        """Weights of all discriminators as they are now, each by the route whose images it judges."""
        return {} if self.discriminator is None else {MAIN: self.discriminator}

    def describe(self) -> dict[str, Any]:
        """JSON facts for the report: the size of the discriminator, and what else decides the training."""
        return {}

    def prepare(self) -> None:
        """Load what training needs beside the discriminator, or say what is missing; called before any compute."""

    def check(self, batch: Batch) -> None:
        """Refuse images that it cannot train on, such as ones too small for its discriminator; before any compute.

        `batch` has the shapes of a training step.

        Raises:
            DataError: why, and what to change.
        """

    def bind(self, training: Training) -> None:
        """Called once per stage: move discriminators to its device and make their optimisers anew."""

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        """One discriminator step on detached `fakes`; families without one do nothing."""
        return {}

    @abstractmethod
    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        """(), with gradient to the fakes, and its detached parts by name.

        `references[route]`: (N, channels_out, sH, sW), what each fake should look like: the ground truth of a
        paired batch, else the teacher's image; routes that have neither are left out.
        """

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...
