"""The adapter of CycleGAN: unpaired image translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gansdk.errors import InvalidOption
from gansdk.interfaces import Teacher
from gansdk_adapters.tasks.cycle import A2B, B2A, CycleTeacher
from gansdk_adapters.tasks.losses import Kind
from gansdk_adapters.translation import Translation


class CycleGAN(Translation):
    """Unpaired translation (Zhu et al., ICCV 2017), with the same generators as pix2pix.

    A generator is one direction, and so is its student, which never sees a cycle: it learns from the discriminator of
    its output's domain and from the teacher's images (Li et al., CVPR 2020; CAT weighs these by 5). Both directions
    are trained together by `train_teacher`, as the routes "A2B" and "B2A".

    Args:
        cycle_weight, identity_weight: of the losses a teacher is trained with beside the adversarial one.
        options: those of `Translation`; `gan` is "lsgan", `reconstruction_weight` 10 and `discriminator_width` 64.
    """

    name = "cyclegan"
    conditional = False

    def __init__(
        self,
        *,
        gan: Kind = "lsgan",
        reconstruction_weight: float = 10.0,
        discriminator_width: int = 64,
        cycle_weight: float = 10.0,
        identity_weight: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(
            gan=gan,
            reconstruction_weight=reconstruction_weight,
            discriminator_width=discriminator_width,
            **options,
        )
        self._cycle_weight = cycle_weight
        self._identity_weight = identity_weight

    def options(self) -> dict[str, Any]:
        own = {"cycle_weight": self._cycle_weight, "identity_weight": self._identity_weight}
        return {**super().options(), **own}

    def learner(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Teacher:
        """Return a teacher of both directions: `module` from A to B, and a fresh network of its sizes back."""
        return CycleTeacher(
            {A2B: module, B2A: self.rebuild(module)},
            {A2B: self.judge(module, discriminator), B2A: self.judge(module)},
            self.contract(module),
            self.taps(module),
            optimisation=self.task(module).optimisation,
            gan=self._gan,
            cycle_weight=self._cycle_weight,
            identity_weight=self._identity_weight,
        )

    def learners(self, modules: Sequence[nn.Module], *, shared: int | None = None) -> Sequence[Teacher]:
        """Return teachers of both directions, each with two discriminators of its own, as in OMGD's CycleGANs.

        Raises:
            InvalidOption: they are to share stages.
        """
        if shared:
            raise InvalidOption(f"shared={shared!r}: discriminators of a CycleGAN's teachers share nothing; pass 0.")
        return [self.learner(module) for module in modules]
