"""What the adapters of image translation share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from torch import nn
from torch.nn.utils import spectral_norm

from gansdk.channels.groups import Knob
from gansdk.contracts import Contract, Labels
from gansdk.errors import CheckpointError, InvalidOption, Unsupported
from gansdk.generators.online_teacher import OnlineTeacher
from gansdk.interfaces import Adapter, Task, Teacher, TeacherFacts, Teaching, Variant
from gansdk.modules.weights import reset_parameters
from gansdk.text import quoted
from gansdk.toolkit.options import AtLeastZero, Count, HeightWidth, Share, check, checked
from gansdk_adapters.creating import Rate, sizes_from
from gansdk_adapters.keys import State
from gansdk_adapters.networks.discriminators import PatchDiscriminator, PatchSizes, patch_discriminator, share_stages
from gansdk_adapters.networks.inception import InceptionGenerator, InceptionSizes
from gansdk_adapters.networks.initialise import initialise
from gansdk_adapters.networks.norms import unused_statistics
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.unet import UNetSizes
from gansdk_adapters.search_spaces import CYCLEGAN_CHOICES, PIX2PIX_CHOICES, knobs_of, resnet_positions
from gansdk_adapters.separable import separable
from gansdk_adapters.tasks.adversarial import PUBLISHED_TEACHING, Critics, ImageToImageTask, check_width
from gansdk_adapters.tasks.losses import Kind
from gansdk_adapters.translation_layouts import (
    ARCHITECTURES,
    LAYOUTS,
    Layout,
    Network,
    Sizes,
    inception_branches,
    layout_of,
    resized,
    taps_of,
    unused_norms,
    without_spectral_norm,
)

Inference = Literal["auto", "eval", "batch-statistics"]

SHARED = 3
"""Stages that discriminators of teachers side by side share: the usual number of OMGD's scripts."""

SIDE = 256
"""Pixels of a side at which costs are quoted, where the network takes them."""


class Translation(Adapter):
    """Generators from image to image of the same size: ResNet, MobileResNet, U-Net and CAT's inception generator.

    Their weights fix everything but what leaves no trace in them:

    Args:
        inference: how norms run when images are made. "auto" is "batch-statistics" for a U-Net with batch norms,
            which pix2pix runs as in training (Isola et al., CVPR 2017, section 3.3; its dropout is left out, since
            noise is nothing to imitate), and "eval" for all others: CAT's and GAN Compression's are made to run so.
        dropout: the rate of dropout layers, where there are any: 0.5 in pix2pix' U-Net. "auto" is that for U-Nets,
            and 0 inside residual blocks, where GAN Compression and CAT keep an idle layer.
        size: (H, W) at which costs are quoted, or the side of a square; 256x256 if left out.
        labels: fields of `gansdk.Labels`, where inputs are label maps with a channel per class: {"classes": 12}, or 12.
        gan, gan_weight, reconstruction_weight: the losses of `ImageToImageTask`.
        constant: the part of the steps before learning rates fall.
        discriminator_width: channels of a fresh discriminator's first layer; 128 if left out. Given, it must be that of
            a discriminator that training goes on with, too.

    Raises:
        InvalidOption: an option has none of these values.
    """

    transforms = ("mobile",)
    conditional: bool
    """Whether the discriminator sees the input beside the image."""
    usual_discriminator_width: int

    @checked
    def __init__(
        self,
        *,
        inference: Inference = "auto",
        dropout: Rate | Literal["auto"] = "auto",
        size: HeightWidth | None = None,
        gan: Kind = "hinge",
        gan_weight: AtLeastZero = 1.0,
        reconstruction_weight: AtLeastZero = 100.0,
        constant: Share = 0.5,
        discriminator_width: Count | None = None,
        labels: int | Mapping[str, Any] | None = None,
    ) -> None:
        self._inference: Inference = inference
        self._dropout: float | Literal["auto"] = dropout
        self._size = size
        self._labels = None if labels is None else _labels_of(labels)
        self._gan: Kind = gan
        self._gan_weight = gan_weight
        self._reconstruction_weight = reconstruction_weight
        self._constant = constant
        self._discriminator_width = discriminator_width

    def teaching(self, facts: TeacherFacts) -> Teaching:
        """Return CAT's published choice beside the family's adversarial losses, which keep images sharp."""
        return PUBLISHED_TEACHING

    def options(self) -> dict[str, Any]:
        return {
            "inference": self._inference,
            "dropout": self._dropout,
            "size": None if self._size is None else list(self._size),
            "gan": self._gan,
            "gan_weight": self._gan_weight,
            "reconstruction_weight": self._reconstruction_weight,
            "constant": self._constant,
            "discriminator_width": self._discriminator_width,
            "labels": None if self._labels is None else asdict(self._labels),
        }

    def accepts(self, module: nn.Module) -> bool:
        return isinstance(module, Network)

    def contract(self, module: nn.Module) -> Contract:
        sizes = self._known(module).sizes
        multiple = 2**sizes.downs if isinstance(sizes, UNetSizes) else 4
        side = max(SIDE, multiple)
        batch = isinstance(sizes, UNetSizes) and sizes.norm == "batch"
        return Contract(
            channels_in=sizes.channels_in,
            channels_out=sizes.channels_out,
            size=self._size or (side, side),
            input_range=(-1.0, 1.0) if self._labels is None else (0.0, 1.0),
            labels=self._labels,
            multiple_of=multiple,
            inference=("batch-statistics" if batch else "eval") if self._inference == "auto" else self._inference,
        )

    def taps(self, module: nn.Module) -> Mapping[str, str]:
        """Return the paths of the feature maps that the papers compare.

        ResNet and inception: "stem" (behind the second halving) and the blocks at the thirds, "body3" the third
        block (GAN Compression, CAT). U-Net: the activated "down3" and "down5", and "up4" and "up2", the input of
        those levels' doublings (OMGD).
        """
        return taps_of(self._known(module).sizes)

    def branches(self, module: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return the inception branches, and the norm behind them once a block has none."""
        return module.branches() if isinstance(module, InceptionGenerator) else {}

    def knobs(self, module: nn.Module) -> Sequence[Knob]:
        """Return GAN Compression's search space for ResNets, mobile or not; other networks have none."""
        sizes = self._known(module).sizes
        if not isinstance(sizes, ResNetSizes) or sizes.deep:
            return ()
        published = PIX2PIX_CHOICES if self.conditional else CYCLEGAN_CHOICES
        return knobs_of(module, resnet_positions(sizes), published)

    def task(self, module: nn.Module, *, discriminator: State | None = None) -> Task:
        """Return the family's losses, with the given discriminator or a fresh one.

        Raises:
            CheckpointError: the weights are of no PatchGAN, or of one for other images.
            InvalidOption: they are not as wide as `discriminator_width` says.
        """
        return self._task(self.judge(module, discriminator))

    def learners(self, modules: Sequence[nn.Module], *, shared: int | None = None) -> Sequence[Teacher]:
        """Return teachers whose discriminators share their first `shared` of five stages, three if left out (OMGD).

        Raises:
            InvalidOption: a discriminator has fewer stages.
        """
        networks = [self.judge(module) for module in modules]
        share_stages(networks, SHARED if shared is None else shared)
        critics = Critics(networks)
        return [
            OnlineTeacher(module, self.contract(module), self.taps(module), self._task(network, critics))
            for module, network in zip(modules, networks, strict=True)
        ]

    def judge(self, module: nn.Module, weights: State | None = None) -> PatchDiscriminator:
        """Return the discriminator of the weights, or a fresh one with the generator's norm; errors as `task`."""
        sizes = self._known(module).sizes
        channels = sizes.channels_out + (sizes.channels_in if self.conditional else 0)
        if weights is None:
            asked = self._discriminator_width
            width = self.usual_discriminator_width if asked is None else asked
            fresh = PatchDiscriminator(PatchSizes(channels_in=channels, width=width, norm=sizes.norm))
            initialise(fresh)
            return fresh
        found = patch_discriminator(weights)
        if found.sizes.channels_in != channels:
            shown = f"the input and the image have {channels}" if self.conditional else f"the image has {channels}"
            raise CheckpointError(
                f"The discriminator takes {found.sizes.channels_in} channels, but {shown}. Pass the discriminator that "
                "the generator was trained with."
            )
        check_width(self._discriminator_width, found.sizes.width)
        return found

    def variants(self, state: State) -> Iterable[Variant]:
        """Offer each layout whose first layer is there; spectrally normalised weights keep their three tensors."""
        plain, normalised = without_spectral_norm(state)
        for layout in LAYOUTS:
            sizes = layout.read(plain)
            if sizes is not None:
                yield self._variant(layout, self._with_dropout(sizes), plain, normalised)

    def describe(self, module: nn.Module) -> dict[str, Any]:
        network = self._known(module)
        return {"network": layout_of(network.sizes).name, "sizes": asdict(network.sizes)}

    def build(self, description: Mapping[str, Any]) -> nn.Module:
        """Make the network of a description, with fresh weights from torch's global generator.

        Raises:
            CheckpointError: the description is not one that `describe` gives.
        """
        layout = next((layout for layout in LAYOUTS if layout.name == description.get("network")), None)
        names = ", ".join(layout.name for layout in LAYOUTS)
        strange = (
            f"The adapter {self.name!r} builds from {{'network': one of {names}; 'sizes': ...}}, "
            f"but got {dict(description)}."
        )
        try:
            if layout is not None:
                return layout.network(layout.sizes(**description["sizes"]))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{strange} The sizes are invalid: {error}.") from error
        raise CheckpointError(strange)

    def create(self, architecture: str = "", **sizes: Any) -> nn.Module:
        """Make a fresh network: N(0, 0.02) weights from torch's global generator (pix2pix, CycleGAN).

        `architecture`: "resnet" (the default), "mobile-resnet", "unet" or "inception". `sizes`: `width` (ngf),
        `channels_in`, `channels_out`, `norm`, `dropout`; `blocks`, or `downs` for the U-Net.

        Raises:
            InvalidOption: there is no such architecture or size; the message names those there are.
        """
        name = architecture or next(iter(ARCHITECTURES))
        if name not in ARCHITECTURES:
            raise InvalidOption(
                f"The adapter {self.name!r} has no architecture={quoted(architecture)}. Choose from: "
                f"{', '.join(ARCHITECTURES)}."
            )
        network_sizes = sizes_from(*ARCHITECTURES[name], sizes, name)
        return initialise(
            layout_of(network_sizes).network(network_sizes if "dropout" in sizes else self._with_dropout(network_sizes))
        )

    def initialise(self, module: nn.Module) -> None:
        """Give every layer fresh weights in place: torch's own, and N(0, 0.02) for convolutions."""
        reset_parameters(module)
        initialise(module)

    def rebuild(self, module: nn.Module, *, width: float = 1.0, deeper: bool = False) -> nn.Module:
        """Make a fresh network `width` times as wide, and on request OMGD's deeper one (Ren et al., ICCV 2021).

        Inception generators, which OMGD has none of, get one more block for every four.

        Raises:
            Unsupported: a deeper one of a network that was made deeper before.
        """
        network = self._known(module)
        sizes = resized(network.sizes, width, deeper)
        return initialise(layout_of(sizes).network(sizes))

    def transform(self, module: nn.Module, name: str) -> nn.Module:
        """As "mobile": the MobileResNet of a ResNet, with separable convolutions in the blocks (GAN Compression).

        Raises:
            Unsupported: another name or network, or one that was pruned or is mobile.
        """
        if name not in self.transforms:
            return super().transform(module, name)
        network = self._known(module)
        if not isinstance(network, ResNetGenerator):
            raise Unsupported(f"Only ResNets have a mobile variant, but this network is a {type(network).__name__}.")
        return separable(network, self.initialise)

    def _task(self, network: PatchDiscriminator, critics: Critics | None = None) -> Task:
        return ImageToImageTask(
            network,
            gan=self._gan,
            conditional=self.conditional,
            gan_weight=self._gan_weight,
            reconstruction_weight=self._reconstruction_weight,
            constant=self._constant,
            critics=critics,
        )

    def _known(self, module: nn.Module) -> Network:
        if isinstance(module, Network):
            return module
        raise Unsupported(
            f"The adapter {self.name!r} supports ResNetGenerator, UNetGenerator and InceptionGenerator, but got "
            f"{type(module).__qualname__}. Call gansdk.wrap(net, contract=...) for other networks."
        )

    def _with_dropout(self, sizes: Sizes) -> Sizes:
        if isinstance(sizes, InceptionSizes) or sizes.dropout is None or self._dropout == "auto":
            return sizes
        return replace(sizes, dropout=self._dropout)

    def _variant(self, layout: Layout, sizes: Sizes, plain: State, normalised: Sequence[str]) -> Variant:
        def build() -> nn.Module:
            network = layout.network(sizes)
            parts = dict(network.named_modules())
            for path in normalised:
                if path in parts:
                    spectral_norm(parts[path])
            return network

        note = ", spectral norm" if normalised else ""
        return Variant(
            name=f"{layout.title(sizes)}, {sizes.channels_in} channels in, norm {sizes.norm!r}{note}",
            build=build,
            rename=inception_branches(plain).rename,
            ignore=unused_statistics(plain, sizes.norm) | unused_norms(plain, sizes),
        )


def _labels_of(labels: int | Mapping[str, Any]) -> Labels:
    """The label map of its fields, or of a number of classes.

    Raises:
        InvalidOption: a field is missing, unknown or of another kind.
    """
    types: dict[str, Any] = {"classes": Count, "unknown": bool, "edges": bool}
    fields = labels if isinstance(labels, Mapping) else {"classes": labels}
    if not isinstance(labels, (int, Mapping)) or "classes" not in fields or set(fields) - set(types):
        raise InvalidOption(
            f"labels={quoted(labels)} does not describe a label map. Pass the number of its classes, or its fields: "
            "{'classes': 12, 'unknown': false, 'edges': false}; the last two are optional."
        )
    return Labels(**{name: check(types[name], value, f"labels.{name}") for name, value in fields.items()})
