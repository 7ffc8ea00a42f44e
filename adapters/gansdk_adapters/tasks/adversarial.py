"""Tasks with a discriminator: its optimisation and state, and pix2pix's and CycleGAN's losses on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import Batch, Metrics, Route
from gansdk.errors import DataError, InvalidOption
from gansdk.interfaces import Optimisation, State, Task, Teaching, Training
from gansdk.modules.fold import copy_module
from gansdk.toolkit.optim import Descent
from gansdk_adapters.tasks.losses import Kind, check_kind, discriminator_loss, generator_loss

PUBLISHED_TEACHING = Teaching(
    distillers=("gka",),
    reason="CAT publishes gka for this family (Jin et al., CVPR 2021), beside the family's own adversarial losses.",
)
"""What distiller="auto" stands for: a discriminator keeps images sharp, whatever the teacher is."""


class Critics:
    """Discriminators, perhaps with layers in common, that take one step once each of them has judged."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = nn.ModuleList(networks)
        self._judged: list[Tensor] = []

    def bind(self, training: Training, optimisation: Optimisation, *, rate: float) -> None:
        """Move them to the training's device and make their optimiser anew."""
        self.networks.to(training.device)
        self.descent = Descent(self.networks.parameters(), training, optimisation, rate=rate)

    def descend(self, loss: Tensor) -> None:
        """Take the loss of one of them; the last one's turn is the step of all, down the sum."""
        self._judged.append(loss)
        if len(self._judged) == len(self.networks):
            self.descent(torch.stack(self._judged).sum())
            self._judged.clear()


class DiscriminatorTask(Task):
    """A task with one discriminator, trained by Adam beside the generator, `rate` times as fast.

    `constant`: the part of the steps before the learning rates of both fall.

    `critics` are those it is trained together with. Then the generator learns from a discriminator that has not taken
    its step yet, whatever the family's own order, and no second image is made for it (OMGD, Ren et al., ICCV 2021).
    """

    optimisation = Optimisation(learning_rate=2e-4, betas=(0.5, 0.999), schedule="constant-linear")
    rate = 1.0

    def __init__(self, network: nn.Module, critics: Critics | None = None, *, constant: float = 0.5) -> None:
        self.optimisation = replace(self.optimisation, constant=constant)
        self.network = network.train().requires_grad_(True)
        self.critics = critics or Critics([network])
        if critics is not None:
            self.generator_first, self.judges_fresh = True, False

    @property
    def discriminator(self) -> Mapping[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}

    def describe(self) -> dict[str, Any]:
        return {"discriminator": described(self.network)}

    def check(self, batch: Batch) -> None:
        for route, target in batch.targets.items():
            check_judged(self.network, self.judged(batch, route, target).shape)

    def judged(self, batch: Batch, route: Route, image: Tensor) -> Tensor:
        """(N, C, H, W): what the discriminator is shown of an image, here the input beside it."""
        return torch.cat([batch.inputs[route], image], dim=1)

    def bind(self, training: Training) -> None:
        self.critics.bind(training, self.optimisation, rate=self.rate)

    def state_dict(self) -> State:
        return {"discriminator": self.network.state_dict(), "descent": self.critics.descent.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.network.load_state_dict(state["discriminator"])
        self.critics.descent.load_state_dict(state["descent"])


class ImageToImageTask(DiscriminatorTask):
    """pix2pix's losses, and those of a CycleGAN's student: `gan_weight` GAN + `reconstruction_weight` L1.

    The discriminator judges patches, of the input and the image together (`conditional`; Isola et al., CVPR 2017) or
    of the image alone. Its step comes first, with half the sum of its losses on real and generated images; real
    are the batch's targets. L1 is to the reference: the truth of paired data, else the teacher's image (Li et al.,
    CVPR 2020; Jin et al., CVPR 2021: weights 100 and 10, or 5 for CAT's CycleGAN).

    `network`: (N, C, H, W) -> (N, 1, h, w), with C the channels of the input and the image, or of the image alone.

    Raises:
        InvalidOption: an unknown loss, a weight that is no finite number from 0, or both of them 0.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        gan: Kind = "hinge",
        conditional: bool = True,
        gan_weight: float = 1.0,
        reconstruction_weight: float = 100.0,
        constant: float = 0.5,
        critics: Critics | None = None,
    ) -> None:
        super().__init__(network, critics, constant=constant)
        check_kind(gan)
        for name, weight in (("gan_weight", gan_weight), ("reconstruction_weight", reconstruction_weight)):
            if not 0 <= weight < float("inf"):
                raise InvalidOption(f"{name}={weight!r} must be a finite number >= 0.")
        if not (gan_weight or reconstruction_weight):
            raise InvalidOption(
                "gan_weight=0 and reconstruction_weight=0 leave no loss. Raise one of them; to learn from distillers "
                "alone, add Distiller(regime=OfflineRegime(task_weight=0))."
            )
        self.gan: Kind = gan
        self.conditional = self.needs_pairs = conditional
        self.gan_weight = gan_weight
        self.reconstruction_weight = reconstruction_weight

    def check(self, batch: Batch) -> None:
        if self.gan_weight:
            super().check(batch)

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        if not self.gan_weight:
            return {}
        real, fake = (
            torch.stack(
                [
                    discriminator_loss(self.gan, self.network(self.judged(batch, route, images[route])), real=is_real)
                    for route in fakes
                ]
            ).sum()
            for images, is_real in ((batch.targets, True), (fakes, False))
        )
        self.critics.descend(0.5 * (real + fake))
        return {"d/real": real.detach(), "d/fake": fake.detach()}

    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        losses: dict[str, list[Tensor]] = {"gan": [], "l1": []}
        for route, fake in fakes.items():
            if self.gan_weight:
                with untrained(self.network):
                    losses["gan"].append(generator_loss(self.gan, self.network(self.judged(batch, route, fake))))
            if self.reconstruction_weight and route in references:
                losses["l1"].append((fake - references[route]).abs().mean())
        sums = {name: torch.stack(values).sum() for name, values in losses.items() if values}
        weights = {"gan": self.gan_weight, "l1": self.reconstruction_weight}
        zero = next(iter(fakes.values())).new_zeros(())
        total = sum((weights[name] * value for name, value in sums.items()), zero)
        return total, {f"g/{name}": value.detach() for name, value in sums.items()}

    def judged(self, batch: Batch, route: Route, image: Tensor) -> Tensor:
        return super().judged(batch, route, image) if self.conditional else image


LARGEST = 1024
"""Pixels of a side up to which the smallest one that a discriminator takes is looked for."""


def check_judged(network: nn.Module, shape: Sequence[int]) -> None:
    """Refuse images too small for a discriminator: (N, C, H, W) of what it is shown in a training step.

    Raises:
        DataError: they are; the message says how large they must be.
    """
    number, channels, height, width = shape
    judge = copy_module(network).to("meta")  # shapes without values
    if _judges(judge, (number, channels, height, width)):
        return
    least = next((side for side in range(2, LARGEST) if _judges(judge, (number, channels, side, side))), LARGEST)
    raise DataError(
        f"Training images of {height}x{width} pixels are too small for the discriminator: it needs sides of at least "
        f"{least}. Train on larger crops (patch, crop_size, or the adapter's size)."
    )


def _judges(network: nn.Module, shape: Sequence[int]) -> bool:
    try:
        network(torch.empty(*shape, device="meta"))
    except (RuntimeError, ValueError):  # torch's words for what no kernel or norm fits into
        return False
    return True


def check_width(asked: int | None, found: int) -> None:
    """Refuse to go on with a discriminator of another width than the one that was asked for, if one was.

    Raises:
        InvalidOption: it is another.
    """
    if asked not in (None, found):
        raise InvalidOption(
            f"discriminator_width={asked} was requested, but the existing discriminator has width {found}. Pass "
            f"discriminator='fresh' for a new one of width {asked}, or set the width to None."
        )


def described(network: nn.Module) -> dict[str, Any]:
    """JSON: the sizes of a discriminator, its width among them, and how many parameters it has."""
    sizes = getattr(network, "sizes", None)
    parameters = sum(p.numel() for p in network.parameters())
    return {**(asdict(sizes) if is_dataclass(sizes) and not isinstance(sizes, type) else {}), "parameters": parameters}


@contextmanager
def untrained(network: nn.Module) -> Iterator[None]:
    """Build a graph through the network without gradients for its weights: the generator's step does not use them."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
