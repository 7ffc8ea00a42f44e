"""The training of a CycleGAN: two generators, two discriminators, cycles and a pool (Zhu et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gansdk.channels.fold import copy_module
from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Route
from gansdk.errors import MissingData
from gansdk.interfaces import Optimisation, State, Teacher, Training
from gansdk.toolkit import taps as tapping
from gansdk.toolkit.optim import Descent
from gansdk_adapters.tasks.adversarial import untrained
from gansdk_adapters.tasks.losses import Kind, check_kind, discriminator_loss, generator_loss

A2B, B2A = "A2B", "B2A"
POOL = 50
"""Generated images that a discriminator's history holds (Shrivastava et al., CVPR 2017)."""


class CycleTeacher(Teacher):
    """Two generators that learn from unpaired images of two domains, one step of `learn` at a time.

    `generators` and `discriminators` are by route: the discriminator of "A2B" judges images of domain B. A batch
    brings images of A as inputs and of B as targets. The generators' step comes first:
    GAN + `cycle_weight` L1 of both cycles + `identity_weight` times that of L1 between G(y) and y for a y that is in
    the generator's output domain already. Then each discriminator is trained with half the sum of its losses on real
    images and on images out of its pool.
    """

    def __init__(
        self,
        generators: Mapping[Route, nn.Module],
        discriminators: Mapping[Route, nn.Module],
        contract: Contract,
        taps: Mapping[str, str],
        *,
        optimisation: Optimisation,
        gan: Kind = "lsgan",
        cycle_weight: float = 10.0,
        identity_weight: float = 0.5,
    ) -> None:
        check_kind(gan)
        self.contracts = dict.fromkeys((A2B, B2A), contract)
        self.taps = tuple(taps)
        self.generators = nn.ModuleDict({r: copy_module(generators[r]).train() for r in (A2B, B2A)})
        self.critics = nn.ModuleDict({r: copy_module(discriminators[r]).train() for r in (A2B, B2A)})
        self.generators.requires_grad_(True)
        self.critics.requires_grad_(True)
        self.gan: Kind = gan
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        self.optimisation = optimisation
        self._paths = dict(taps)

    def bind(self, training: Training) -> None:
        self.generators.to(training.device)
        self.critics.to(training.device)
        self._descend = Descent(self.generators.parameters(), training, self.optimisation)
        self._descend_critics = Descent(self.critics.parameters(), training, self.optimisation)
        self._pools = {route: ImagePool(POOL, training.rng) for route in (A2B, B2A)}

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """As the interface says; the main route of a batch is the way from A to B."""
        route = A2B if route == MAIN else route
        self.contracts[route].check_input(x)
        paths = tapping.select(self._paths, taps)
        generator = self.generators[route]
        with torch.no_grad():
            return tapping.observe(generator, generator, x, paths, image=image)

    def learn(self, batch: Batch) -> Metrics:
        return self.teach(batch)[1]

    def teach(self, batch: Batch, taps: Sequence[str] = ()) -> tuple[Mapping[Route, Observation], Metrics]:
        """One step of both generators, then one of both discriminators; shown is the way from A to B.

        Raises:
            MissingData: the batch has no images of the other domain.
        """
        if MAIN not in batch.targets:
            raise MissingData(
                "A CycleGAN learns from images of two domains, and this data has one. Give a folder with trainA and "
                "trainB."
            )
        real = {A2B: batch.inputs[MAIN], B2A: batch.targets[MAIN]}
        generator = self.generators[A2B]
        seen = tapping.observe(generator, generator, real[A2B], tapping.select(self._paths, taps))
        assert seen.image is not None
        fakes = {A2B: seen.image, B2A: self.generators[B2A](real[B2A])}
        loss, parts = self._generator_losses(real, fakes)
        self._descend(loss)
        judged = self._critic_losses({A2B: real[B2A], B2A: real[A2B]}, fakes)
        self._descend_critics(torch.stack([0.5 * loss for loss in judged.values()]).sum())
        told = {**parts, **{f"d/{route}": value for route, value in judged.items()}}
        metrics = {"loss": loss.detach(), **{name: value.detach() for name, value in told.items()}}
        return {MAIN: seen.detached()}, metrics

    def networks(self) -> Mapping[Route, nn.Module]:
        return {A2B: self.generators[A2B], B2A: self.generators[B2A]}

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        return {route: self.critics[route].state_dict() for route in (A2B, B2A)}

    def state_dict(self) -> State:
        return {
            "generators": self.generators.state_dict(),
            "critics": self.critics.state_dict(),
            "descent": self._descend.state_dict(),
            "critics_descent": self._descend_critics.state_dict(),
            "pools": {route: pool.images for route, pool in self._pools.items()},
        }

    def load_state_dict(self, state: State) -> None:
        self.generators.load_state_dict(state["generators"])
        self.critics.load_state_dict(state["critics"])
        self._descend.load_state_dict(state["descent"])
        self._descend_critics.load_state_dict(state["critics_descent"])
        for route, images in state["pools"].items():
            self._pools[route].images = list(images)

    def _generator_losses(
        self, real: Mapping[Route, Tensor], fakes: Mapping[Route, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        losses: dict[str, Tensor] = {}
        for route, back in ((A2B, B2A), (B2A, A2B)):
            with untrained(self.critics[route]):
                losses[f"g/gan/{route}"] = generator_loss(self.gan, self.critics[route](fakes[route]))
            cycled = self.generators[back](fakes[route])
            losses[f"g/cycle/{route}"] = self.cycle_weight * (cycled - real[route]).abs().mean()
            if self.identity_weight:
                same = self.generators[route](real[back])
                weight = self.cycle_weight * self.identity_weight
                losses[f"g/identity/{route}"] = weight * (same - real[back]).abs().mean()
        return torch.stack(list(losses.values())).sum(), losses

    def _critic_losses(self, real: Mapping[Route, Tensor], fakes: Mapping[Route, Tensor]) -> dict[str, Tensor]:
        return {
            route: discriminator_loss(self.gan, critic(real[route]), real=True)
            + discriminator_loss(self.gan, critic(self._pools[route].exchange(fakes[route].detach())), real=False)
            for route, critic in self.critics.items()
        }


class ImagePool:
    """Generated images of earlier steps: half of what goes in comes out again later, in place of newer ones.

    Random numbers are `rng`'s, on the CPU.
    """

    def __init__(self, size: int, rng: torch.Generator) -> None:
        self.images: list[Tensor] = []
        self._size = size
        self._rng = rng

    def exchange(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape: each image, or an older one that it takes the place of."""
        return torch.stack([self._exchanged(image) for image in images])

    def _exchanged(self, image: Tensor) -> Tensor:
        if len(self.images) < self._size:
            self.images.append(image)
            return image
        if torch.rand((), generator=self._rng) < 0.5:
            return image
        index = int(torch.randint(self._size, (), generator=self._rng))
        older, self.images[index] = self.images[index], image
        return older.to(image)
