"""The training of a CycleGAN: two generators, two discriminators, cycles and a pool (Zhu et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Route
from gansdk.errors import InvalidOption, MissingData, Unsupported
from gansdk.interfaces import Optimisation, Stage, State, Student, Task, Teacher, Training
from gansdk.modules import taps as tapping
from gansdk.modules.fold import copy_module
from gansdk.toolkit.optim import Descent
from gansdk_adapters.tasks.adversarial import check_judged, described, untrained
from gansdk_adapters.tasks.losses import Kind, check_kind, discriminator_loss, generator_loss

A2B, B2A = "A2B", "B2A"
POOL = 50
"""Generated images that a discriminator's history holds (Shrivastava et al., CVPR 2017)."""


class CycleTask(Task):
    """CycleGAN's losses for two generators that are trained together; batches have the routes "A2B" and "B2A".

    `critics` are the discriminators by route: that of "A2B" judges images of domain B. The generators' step is first:
    `gan_weight` GAN + `cycle_weight` L1 of both cycles + `identity_weight` times that of L1 between G(y) and y for a
    y that is in the generator's output domain already. Then each discriminator is trained with half the sum of its
    losses on real images and on images out of its pool. The teacher's images are not looked at.

    Cycles run the generators themselves: the student's of a stage that the task is bound to, or `generate`.
    """

    generator_first = True
    judges_fresh = False
    needs_references = False

    def __init__(
        self,
        critics: Mapping[Route, nn.Module],
        *,
        optimisation: Optimisation,
        gan: Kind = "lsgan",
        gan_weight: float = 1.0,
        cycle_weight: float = 10.0,
        identity_weight: float = 0.5,
    ) -> None:
        check_kind(gan)
        if not (gan_weight or cycle_weight):
            raise InvalidOption("gan_weight=0 and cycle_weight=0 leave no loss for both directions. Raise one of them.")
        self.critics = nn.ModuleDict({route: critics[route].train() for route in (A2B, B2A)})
        self.critics.requires_grad_(True)
        self.gan: Kind = gan
        self.gan_weight = gan_weight
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        self.optimisation = optimisation
        self.generate: Callable[[Route, Tensor], Tensor] = _unbound

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        return {
            route: {name: tensor.detach().cpu() for name, tensor in critic.state_dict().items()}
            for route, critic in self.critics.items()
        }

    def describe(self) -> dict[str, Any]:
        return {"discriminators": {route: described(critic) for route, critic in self.critics.items()}}

    def check(self, batch: Batch) -> None:
        for route, target in batch.targets.items() if self.gan_weight else ():
            check_judged(self.critics[route], target.shape)

    def bind(self, training: Training) -> None:
        self.critics.to(training.device)
        self._descend = Descent(self.critics.parameters(), training, self.optimisation)
        self._pools = {route: ImagePool(POOL, training.rng) for route in (A2B, B2A)}
        if isinstance(training, Stage):
            self.generate = _images_of(training.student)

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        if not self.gan_weight:
            return {}
        losses = {
            route: discriminator_loss(self.gan, critic(batch.targets[route]), real=True)
            + discriminator_loss(self.gan, critic(self._pools[route].exchange(fakes[route])), real=False)
            for route, critic in self.critics.items()
        }
        self._descend(torch.stack([0.5 * loss for loss in losses.values()]).sum())
        return {f"d/{route}": loss.detach() for route, loss in losses.items()}

    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        losses: dict[str, Tensor] = {}
        for route, back in ((A2B, B2A), (B2A, A2B)):
            if self.gan_weight:
                with untrained(self.critics[route]):
                    judged = generator_loss(self.gan, self.critics[route](fakes[route]))
                losses[f"g/gan/{route}"] = self.gan_weight * judged
            cycled, real = self.generate(back, fakes[route]), batch.inputs[route]
            losses[f"g/cycle/{route}"] = self.cycle_weight * (cycled - real).abs().mean()
            if self.identity_weight:
                real = batch.targets[route]
                weight = self.cycle_weight * self.identity_weight
                losses[f"g/identity/{route}"] = weight * (self.generate(route, real) - real).abs().mean()
        return torch.stack(list(losses.values())).sum(), {name: loss.detach() for name, loss in losses.items()}

    def state_dict(self) -> State:
        return {
            "critics": self.critics.state_dict(),
            "descent": self._descend.state_dict(),
            "pools": {route: pool.images for route, pool in self._pools.items()},
        }

    def load_state_dict(self, state: State) -> None:
        self.critics.load_state_dict(state["critics"])
        self._descend.load_state_dict(state["descent"])
        for route, images in state["pools"].items():
            self._pools[route].images = list(images)


class CycleTeacher(Teacher):
    """Two generators that learn by `task` from unpaired images of two domains, one step of `learn` at a time.

    `generators` are by route. A batch brings images of A as inputs and of B as targets.
    """

    def __init__(
        self, generators: Mapping[Route, nn.Module], contract: Contract, taps: Mapping[str, str], task: CycleTask
    ) -> None:
        self.contracts = dict.fromkeys((A2B, B2A), contract)
        self.taps = tuple(taps)
        self.generators = nn.ModuleDict({r: copy_module(generators[r]).train() for r in (A2B, B2A)})
        self.generators.requires_grad_(True)
        self.task = task
        self.optimisation = task.optimisation
        self._paths = dict(taps)

    def bind(self, training: Training) -> None:
        self.generators.to(training.device)
        self._descend = Descent(self.generators.parameters(), training, self.optimisation)
        self.task.bind(training)
        self.task.generate = lambda route, x: self.generators[route](x)

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """As the interface says; the main route of a batch is the way from A to B."""
        route = A2B if route == MAIN else route
        self.contracts[route].check_input(x)
        paths = tapping.select(self._paths, taps)
        generator = self.generators[route]
        with torch.no_grad():
            return tapping.observe(generator, generator, x, paths, image=image)

    def check(self, batch: Batch) -> None:
        self.task.check(_both_ways(batch))

    def learn(self, batch: Batch) -> Metrics:
        return self.teach(batch)[1]

    def teach(self, batch: Batch, taps: Sequence[str] = ()) -> tuple[Mapping[Route, Observation], Metrics]:
        """One step of both generators, then one of both discriminators; shown is the way from A to B.

        Raises:
            MissingData: the batch has no images of the other domain.
        """
        both = _both_ways(batch)
        a, b = both.inputs[A2B], both.inputs[B2A]
        generator = self.generators[A2B]
        seen = tapping.observe(generator, generator, a, tapping.select(self._paths, taps))
        assert seen.image is not None
        fakes = {A2B: seen.image, B2A: self.generators[B2A](b)}
        loss, parts = self.task.generator_loss(both, fakes, {})
        self._descend(loss)
        judged = self.task.discriminate(both, {route: fake.detach() for route, fake in fakes.items()})
        return {MAIN: seen.detached()}, {"loss": loss.detach(), **parts, **judged}

    def networks(self) -> Mapping[Route, nn.Module]:
        return {A2B: self.generators[A2B], B2A: self.generators[B2A]}

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        return self.task.discriminators()

    def state_dict(self) -> State:
        return {
            "generators": self.generators.state_dict(),
            "descent": self._descend.state_dict(),
            "task": self.task.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.generators.load_state_dict(state["generators"])
        self._descend.load_state_dict(state["descent"])
        self.task.load_state_dict(state["task"])


def _both_ways(batch: Batch) -> Batch:
    """A source's images of A and B as inputs and targets of both routes.

    Raises:
        MissingData: there are no images of the other domain.
    """
    if MAIN not in batch.targets:
        raise MissingData(
            "A CycleGAN learns from images of two domains, but this data has one. Pass a folder with trainA and trainB."
        )
    a, b = batch.inputs[MAIN], batch.targets[MAIN]
    return Batch({A2B: a, B2A: b}, {A2B: b, B2A: a}, batch.names, paired=False)


def _images_of(student: Student) -> Callable[[Route, Tensor], Tensor]:
    def generate(route: Route, x: Tensor) -> Tensor:
        image = student.observe(x, route=route).image
        assert image is not None
        return image

    return generate


def _unbound(route: Route, x: Tensor) -> Tensor:
    raise Unsupported(
        "The losses of a CycleGAN need its generators, so they are available only during training. Use "
        "importance='gauss-newton' to rank channels."
    )


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
