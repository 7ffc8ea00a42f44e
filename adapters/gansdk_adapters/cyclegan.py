"""The adapter of CycleGAN: unpaired image translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from gansdk.contracts import Route
from gansdk.errors import InvalidOption, Unsupported
from gansdk.interfaces import Teacher
from gansdk.toolkit.options import AtLeastZero, Count, HeightWidth, Share, checked
from gansdk_adapters.creating import Rate
from gansdk_adapters.tasks.cycle import A2B, B2A, CycleTask, CycleTeacher
from gansdk_adapters.tasks.losses import Kind
from gansdk_adapters.translation import Inference, Translation


class CycleGAN(Translation):
    """Unpaired translation (Zhu et al., ICCV 2017), with the same generators as pix2pix.

    A single generator is one direction, and so is its student, which never sees a cycle: it learns from the
    discriminator of its output's domain and from the teacher's images (Li et al., CVPR 2020; CAT weighs these by 5).
    Both directions, the routes "A2B" and "B2A", are trained together by `train_teacher`, and so are their students if
    both teachers are given: with cycles, as their teachers (Zhang et al., CVPR 2022).

    Args:
        cycle_weight, identity_weight: of the losses that both directions are trained with beside the adversarial one;
            they take no notice of `reconstruction_weight`, which is one direction's.

    The other options are those of `Translation`; here `gan` is "lsgan", `reconstruction_weight` 10 and
    `discriminator_width` 64 if left out.

    Raises:
        InvalidOption: an option has a value that it cannot have.
    """

    name = "cyclegan"
    routes = {A2B: "forward", B2A: "backward"}  # noqa: RUF012 - read only
    conditional = False
    usual_discriminator_width = 64

    @checked
    def __init__(
        self,
        *,
        inference: Inference = "auto",
        dropout: Rate | Literal["auto"] = "auto",
        size: HeightWidth | None = None,
        gan: Kind = "lsgan",
        gan_weight: AtLeastZero = 1.0,
        reconstruction_weight: AtLeastZero = 10.0,
        constant: Share = 0.5,
        cycle_weight: AtLeastZero = 10.0,
        identity_weight: AtLeastZero = 0.5,
        discriminator_width: Count | None = None,
        labels: int | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            inference=inference,
            dropout=dropout,
            size=size,
            gan=gan,
            gan_weight=gan_weight,
            reconstruction_weight=reconstruction_weight,
            constant=constant,
            discriminator_width=discriminator_width,
            labels=labels,
        )
        self._cycle_weight = cycle_weight
        self._identity_weight = identity_weight

    def options(self) -> dict[str, Any]:
        own = {"cycle_weight": self._cycle_weight, "identity_weight": self._identity_weight}
        return {**super().options(), **own}

    def joint_task(
        self, modules: Mapping[Route, nn.Module], *, discriminators: Mapping[Route, Mapping[str, Tensor]]
    ) -> CycleTask:
        """Return CycleGAN's own losses for both directions, with the given discriminators or fresh ones.

        Raises:
            CheckpointError: weights are of no PatchGAN, or of one for other images.
            InvalidOption: they are not as wide as `discriminator_width` says.
            Unsupported: the images of both sides do not have the same channels.
        """
        self._check_channels(modules)
        return CycleTask(
            {route: self.judge(module, discriminators.get(route)) for route, module in modules.items()},
            optimisation=self.task(modules[A2B]).optimisation,
            gan=self._gan,
            gan_weight=self._gan_weight,
            cycle_weight=self._cycle_weight,
            identity_weight=self._identity_weight,
        )

    def learner(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Teacher:
        """Return a teacher of both directions: `module` from A to B, and a fresh network of its sizes back."""
        return self.joint_learner({A2B: module}, discriminators={} if discriminator is None else {A2B: discriminator})

    def joint_learner(
        self, modules: Mapping[Route, nn.Module], *, discriminators: Mapping[Route, Mapping[str, Tensor]]
    ) -> Teacher:
        """Return a teacher of both directions; one that is missing is a fresh network of the other's sizes.

        Raises:
            CheckpointError, InvalidOption, Unsupported: as `joint_task`.
        """
        given = next(iter(modules.values()))
        both = {route: modules[route] if route in modules else self.rebuild(given) for route in (A2B, B2A)}
        task = self.joint_task(both, discriminators=discriminators)
        return CycleTeacher(both, self.contract(given), self.taps(given), task)

    def learners(self, modules: Sequence[nn.Module], *, shared: int | None = None) -> Sequence[Teacher]:
        """Return teachers of both directions, each with two discriminators of its own, as in OMGD's CycleGANs.

        Raises:
            InvalidOption: they are to share stages.
        """
        if shared:
            raise InvalidOption(
                f"The discriminators of a CycleGAN's teachers share no stages, but {shared!r} were requested. Pass 0."
            )
        return [self.learner(module) for module in modules]

    def _check_channels(self, modules: Mapping[Route, nn.Module]) -> None:
        """Cycles and identities show every generator the images of both sides."""
        sizes = {route: self._known(module).sizes for route, module in modules.items()}
        if len({channels for own in sizes.values() for channels in (own.channels_in, own.channels_out)}) > 1:
            shown = " and ".join(f"{route} maps {s.channels_in} to {s.channels_out}" for route, s in sizes.items())
            raise Unsupported(
                f"A CycleGAN needs images with the same number of channels on both sides, but {shown}. Train networks "
                "with channels_in equal to channels_out, or compress one direction only."
            )
