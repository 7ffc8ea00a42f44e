"""GauGAN: SPADE, its mobile form and CAT's inception-SPADE, from label maps to images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gansdk.channels.groups import Knob
from gansdk.contracts import Contract, Labels
from gansdk.errors import CheckpointError, InvalidOption, Unsupported
from gansdk.generators.online_teacher import OnlineTeacher
from gansdk.interfaces import Adapter, Task, Teacher, TeacherFacts, Teaching, Variant
from gansdk.text import quoted
from gansdk.toolkit.options import AtLeastZero, Count, HeightWidth, Share, check, checked
from gansdk_adapters.creating import Size, sizes_from
from gansdk_adapters.keys import Branches, State, keys_below, read_branches, side
from gansdk_adapters.networks.inception_spade import (
    FIRST_LAYER,
    SPATIAL_LAYER,
    InceptionSPADEGenerator,
    InceptionSPADESizes,
    branch_paths,
)
from gansdk_adapters.networks.initialise import initialise
from gansdk_adapters.networks.multiscale import MultiScaleDiscriminator, MultiScaleSizes, multi_scale_discriminator
from gansdk_adapters.networks.spade import COARSE, SPADEGenerator, SPADELayout, SPADESizes, Upsampling, block_names
from gansdk_adapters.search_spaces import SPADE_CHOICES, knobs_of, spade_positions
from gansdk_adapters.separable import separable
from gansdk_adapters.tasks.adversarial import PUBLISHED_TEACHING, Critics, check_width
from gansdk_adapters.tasks.semantic import SemanticSynthesisTask

Network = SPADEGenerator | InceptionSPADEGenerator
NETWORKS: dict[str, tuple[Any, Any]] = {
    "spade": (SPADEGenerator, SPADESizes),
    "inception": (InceptionSPADEGenerator, InceptionSPADESizes),
}
DISCRIMINATOR_WIDTH = 64
KNOWN_LABELS = {
    36: Labels(classes=35, edges=True),  # Cityscapes
    184: Labels(classes=182, unknown=True, edges=True),  # COCO-Stuff
}


class GauGAN(Adapter):
    """Generators of images from one-hot label maps (Park et al., CVPR 2019; Jin et al., CVPR 2021).

    What weights do not tell is said here; each has a default for the published networks.

    Args:
        upsampling: "normal", "more" or "most". The first two have the same weights: 36 label channels (Cityscapes)
            mean "more", others "normal".
        edges: whether the last label channel marks instance edges; True for 36 and 184 channels, False for others.
        unknown: whether the channel before it is for pixels without a class; True for 184 channels, False for others.
        size: (H, W) at which costs are quoted, or the side of a square; 256x512 for 36 channels, 256x256 for others.
        slope: of the activations inside inception blocks. CAT's teachers are trained with 0.01, but rebuilt with 0 to
            be distilled; 0 if left out.
        perceptual: path of VGG-19 weights for the perceptual loss, "pretrained" for timm's, None to leave it out.
        discriminator_width: channels of a fresh discriminator's first layer; 64 if left out. Given, it must be that of
            a discriminator that training goes on with, too.
        feature_weight, perceptual_weight: of the two losses beside the adversarial one.
        constant: the part of the steps before learning rates fall.

    Raises:
        InvalidOption: an option has a value that it cannot have.
    """

    name = "gaugan"
    transforms = ("mobile",)

    @checked
    def __init__(
        self,
        *,
        upsampling: Upsampling | None = None,
        edges: bool | None = None,
        unknown: bool | None = None,
        size: HeightWidth | None = None,
        slope: AtLeastZero = 0.0,
        perceptual: str | Path | None = "pretrained",
        discriminator_width: Count | None = None,
        feature_weight: AtLeastZero = 10.0,
        perceptual_weight: AtLeastZero = 10.0,
        constant: Share = 0.5,
    ) -> None:
        self._upsampling = upsampling
        self._edges = edges
        self._unknown = unknown
        self._size = size
        self._slope = slope
        self._perceptual = perceptual
        self._discriminator_width = discriminator_width
        self._feature_weight = feature_weight
        self._perceptual_weight = perceptual_weight
        self._constant = constant

    def teaching(self, facts: TeacherFacts) -> Teaching:
        """Return CAT's published choice beside the family's adversarial losses, which keep images sharp."""
        return PUBLISHED_TEACHING

    def options(self) -> dict[str, Any]:
        return {
            "upsampling": self._upsampling,
            "edges": self._edges,
            "unknown": self._unknown,
            "size": None if self._size is None else list(self._size),
            "slope": self._slope,
            "perceptual": None if self._perceptual is None else str(self._perceptual),
            "discriminator_width": self._discriminator_width,
            "feature_weight": self._feature_weight,
            "perceptual_weight": self._perceptual_weight,
            "constant": self._constant,
        }

    def accepts(self, module: nn.Module) -> bool:
        return isinstance(module, (SPADEGenerator, InceptionSPADEGenerator))

    def contract(self, module: nn.Module) -> Contract:
        sizes = _known(module).sizes
        multiple = 2**sizes.doublings
        usual = (256, 512) if sizes.labels == 36 else (256, 256)
        return Contract(
            channels_in=sizes.labels,
            channels_out=sizes.channels_out,
            size=self._size or usual,
            input_range=(0.0, 1.0),
            multiple_of=multiple,
            labels=self._labels(sizes.labels),
        )

    def taps(self, module: nn.Module) -> Mapping[str, str]:
        """Return the outputs of head_0, the last middle block and up_1, as both papers distil them."""
        _known(module)
        return {name: name for name in ("head_0", "G_middle_1", "up_1")}

    def branches(self, module: nn.Module) -> Mapping[str, Sequence[str]]:
        return branch_paths(module) if isinstance(module, InceptionSPADEGenerator) else {}

    def knobs(self, module: nn.Module) -> Sequence[Knob]:
        """Return GAN Compression's search space for SPADE, and CAT's trunk rule for inception-SPADE.

        The rule ties the trunk and, by halving, every later block to one number. Its unit is ngf; the trunk's width
        is a multiple of 16 of it, of 32 for "most" (CAT, released code). A network whose widths are in other
        proportions has none.
        """
        network = _known(module)
        sizes = network.sizes
        if isinstance(network, SPADEGenerator):
            return knobs_of(module, spade_positions(network.sizes), SPADE_CHOICES)
        step = 32 if sizes.upsampling == "most" else 16
        factors = [step >> (index + 1) for index in range(len(sizes.ups))]
        value, rest = divmod(sizes.trunk, step)
        if rest:
            return ()
        if any(width != factor * value for width, factor in zip(sizes.ups, factors, strict=True)):
            return ()
        layers = {"fc": step, **{f"up_{index}.shortcut.1.conv": factor for index, factor in enumerate(factors)}}
        return (Knob(name="ngf", choices=tuple(range(1, value + 1)), widths=tuple(layers.items()), tied=True),)

    def task(self, module: nn.Module, *, discriminator: State | None = None) -> Task:
        """GauGAN's losses, with the given discriminator or a fresh one.

        Raises:
            CheckpointError: the weights are of no multi-scale discriminator, or of one for other images.
            InvalidOption: they are not as wide as `discriminator_width` says.
        """
        return self._task(self._judge(module, discriminator))

    def learners(self, modules: Sequence[nn.Module], *, shared: int | None = None) -> Sequence[Teacher]:
        """Return teachers with a discriminator each, or, with `shared` all of its five stages, with one for all.

        Raises:
            InvalidOption: `shared` is neither 0 nor all.
        """
        networks = [self._judge(module) for module in modules]
        stages = networks[0].sizes.layers + 1
        if shared not in (None, 0, stages):
            raise InvalidOption(
                f"Multi-scale discriminators can share 0 or {stages} stages, but {shared!r} were requested."
            )
        networks = [networks[0]] * len(networks) if shared else networks
        critics = Critics(networks)
        return [
            OnlineTeacher(module, self.contract(module), self.taps(module), self._task(network, critics))
            for module, network in zip(modules, networks, strict=True)
        ]

    def variants(self, state: State) -> Iterable[Variant]:
        fc, image = state.get("fc.weight"), state.get("conv_img.weight")
        if fc is None or image is None or fc.ndim not in (2, 4) or image.ndim != 4:
            return
        noise = fc.ndim == 2  # which fits nothing here, but is named
        trunk = _rows(state, "head_0.conv_1", 0) if noise else fc.shape[0]
        labels = side(state, "head_0.norm_0.mlp_shared.0.weight", 1, 0) if noise else fc.shape[1]
        if 0 in (trunk, labels, *fc.shape, *image.shape):
            return
        layout = self._layout(state, labels, trunk, image)
        if "fc_norm.weight" in state:
            yield self._inception_variant(state, layout)
            return
        sizes = self._spade_sizes(state, layout)
        start = " from label maps (from noise, with use_vae, is not supported)" if noise else ""
        yield Variant(name=f"SPADE generator{start}, {_told(sizes)}", build=lambda: SPADEGenerator(sizes))

    def create(self, architecture: str = "", **sizes: Any) -> nn.Module:
        """Make "spade" (the usual one), "mobile" or "inception"; `sizes` are `width`, `labels` and others of theirs.

        Raises:
            InvalidOption: there is no such architecture or size; the message names those there are.
        """
        kinds = {"": ("spade", {}), "spade": ("spade", {}), "mobile": ("spade", {"separable": True})}
        kind, fixed = {**kinds, "inception": ("inception", {})}.get(architecture, (None, {}))
        if kind is None:
            raise InvalidOption(
                f"The family 'gaugan' has no {quoted(architecture)}. Choose spade, mobile or inception."
            )
        network, table = NETWORKS[kind]
        labels = check(Size, sizes.get("labels", 36), "labels")
        options = {"upsampling": self._usual_upsampling(labels), "labels": labels, **fixed, **sizes}
        if kind == "inception":
            options.setdefault("slope", self._slope)
        generator: nn.Module = network(sizes_from(table, table.of, options, architecture or kind))
        self.initialise(generator)
        return generator

    def initialise(self, module: nn.Module) -> None:
        """Xavier normal with gain 0.02, as in both papers' code."""
        initialise(module, "xavier")

    def describe(self, module: nn.Module) -> dict[str, Any]:
        network = _known(module)
        kind = next(name for name, (made, _) in NETWORKS.items() if isinstance(network, made))
        return {"network": kind, "sizes": asdict(network.sizes)}

    def build(self, description: Mapping[str, Any]) -> nn.Module:
        kind = NETWORKS.get(description.get("network", ""))
        try:
            if kind is not None:
                network: nn.Module = kind[0](kind[1](**description["sizes"]))
                return network
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{dict(description)} does not describe a network of 'gaugan': {error}.") from error
        raise CheckpointError(f"The adapter 'gaugan' builds 'spade' and 'inception', but got {dict(description)}.")

    def rebuild(self, module: nn.Module, *, width: float = 1.0, deeper: bool = False) -> nn.Module:
        """Make a fresh network `width` times as wide; deeper means one of OMGD's expansion blocks behind every block.

        Raises:
            Unsupported: a deeper network is to become deeper.
        """
        network = _known(module)
        old = network.sizes
        if deeper and old.deep:
            raise Unsupported("This generator is already a deeper teacher. Pass the original generator.")
        ngf = max(2, round(width * old.trunk / 16))
        table = NETWORKS[self.describe(module)["network"]][1]
        unchanged = {"separable", "spectral", "slope", "kernels", "channels_out"}
        options = {name: value for name, value in asdict(old).items() if name in unchanged}
        hidden = round(width * _hidden(old))
        new = table.of(
            ngf,
            labels=old.labels,
            upsampling=old.upsampling,
            deep=deeper or old.deep,
            hidden=hidden,
            **options,
        )
        generator: nn.Module = NETWORKS[self.describe(module)["network"]][0](new)
        self.initialise(generator)
        return generator

    def transform(self, module: nn.Module, name: str) -> nn.Module:
        """As "mobile": the MobileSPADE of a SPADE generator, with separable convolutions for gamma and beta.

        Raises:
            Unsupported: another name, CAT's generator, or one that was pruned or is mobile.
        """
        if name not in self.transforms:
            return super().transform(module, name)
        network = _known(module)
        if not isinstance(network, SPADEGenerator):
            raise Unsupported("Only SPADE generators have a mobile variant; prune CAT's inception generators directly.")
        return separable(network, self.initialise)

    def _judge(self, module: nn.Module, weights: State | None = None) -> MultiScaleDiscriminator:
        sizes = _known(module).sizes
        channels = sizes.labels + sizes.channels_out
        if weights is None:
            asked = self._discriminator_width
            width = DISCRIMINATOR_WIDTH if asked is None else asked
            network = MultiScaleDiscriminator(MultiScaleSizes(channels_in=channels, width=width))
            initialise(network, "xavier")
        else:
            network = multi_scale_discriminator(weights)
            check_width(self._discriminator_width, network.sizes.width)
        if network.sizes.channels_in != channels:
            raise CheckpointError(
                f"The discriminator takes {network.sizes.channels_in} channels, but this generator's label map and "
                f"image have {sizes.labels} + {sizes.channels_out}. Pass the discriminator that the generator was "
                "trained with."
            )
        return network

    def _task(self, network: MultiScaleDiscriminator, critics: Critics | None = None) -> Task:
        return SemanticSynthesisTask(
            network,
            perceptual=self._perceptual,
            feature_weight=self._feature_weight,
            perceptual_weight=self._perceptual_weight,
            constant=self._constant,
            critics=critics,
        )

    def _labels(self, channels: int) -> Labels:
        known = KNOWN_LABELS.get(channels, Labels(classes=channels))
        edges = known.edges if self._edges is None else self._edges
        unknown = known.unknown if self._unknown is None else self._unknown
        return Labels(classes=channels - edges - unknown, unknown=unknown, edges=edges)

    def _usual_upsampling(self, labels: int) -> Upsampling:
        return self._upsampling or ("more" if labels == 36 else "normal")

    def _layout(self, state: State, labels: int, trunk: int, image: Tensor) -> dict[str, Any]:
        """Read what both kinds of network share."""
        most = any(key.startswith("up_4.") for key in state)
        return {
            "labels": labels,
            "channels_out": image.shape[0],
            "trunk": trunk,
            "upsampling": "most" if most else self._usual_upsampling(labels),
            "deep": any(key.startswith("deeper.") for key in state),
        }

    def _spade_sizes(self, state: State, layout: Mapping[str, Any]) -> SPADESizes:
        names = block_names(layout["upsampling"])
        inner = tuple(_rows(state, f"{name}.conv_0", layout["trunk"]) for name in names)
        made = tuple(_rows(state, f"{name}.conv_1", layout["trunk"]) for name in names)
        hidden = tuple(_rows(state, f"{name}.norm_0.mlp_shared.0", 128) for name in names)
        return SPADESizes(
            **layout,
            ups=made[len(COARSE) :],
            inner=inner,
            hidden=hidden,
            separable="head_0.norm_0.mlp_gamma.conv.0.weight" in state,
            spectral="head_0.conv_0.weight_orig" in state,
        )

    def _inception_variant(self, state: State, layout: Mapping[str, Any]) -> Variant:
        branches = read_branches(state, FIRST_LAYER, SPATIAL_LAYER)
        sizes = self._inception_sizes(state, branches, layout)
        return Variant(
            name=f"inception-SPADE generator, {_told(sizes)}",
            build=lambda: InceptionSPADEGenerator(sizes),
            rename=branches.rename,
            # Blocks without a branch may keep their norm, and do not run it.
            ignore=keys_below(state, (f"{name}.spade" for name in sizes.names if not any(branches.row(name)))),
        )

    def _inception_sizes(self, state: State, branches: Branches, layout: Mapping[str, Any]) -> InceptionSPADESizes:
        names = block_names(layout["upsampling"])
        later = names[len(COARSE) :]
        return InceptionSPADESizes(
            **layout,
            ups=tuple(_rows(state, f"{name}.shortcut.1.conv", layout["trunk"]) for name in later),
            kernels=branches.kernels,
            middle=tuple(branches.row(name) for name in names),
            guide=tuple(branches.row(f"{name}.spade") for name in names),
            slope=self._slope,
        )


def _told(sizes: SPADELayout) -> str:
    return f"trunk of {sizes.trunk}, {sizes.labels} label channels, {sizes.upsampling!r}"


def _rows(state: State, path: str, default: int) -> int:
    """Output channels of a convolution, with or without spectral norm."""
    weight = state.get(f"{path}.weight", state.get(f"{path}.weight_orig"))
    return default if weight is None or weight.ndim == 0 or not len(weight) else len(weight)


def _hidden(sizes: SPADESizes | InceptionSPADESizes) -> int:
    """Channels in front of gamma and beta of the whole network: those of its first block."""
    if isinstance(sizes, SPADESizes):
        return sizes.hidden[0]
    return 6 * math.ceil(max(sizes.guide[0], default=21) or 21)


def _known(module: nn.Module) -> Network:
    if isinstance(module, (SPADEGenerator, InceptionSPADEGenerator)):
        return module
    raise Unsupported(
        "The adapter 'gaugan' supports SPADEGenerator and InceptionSPADEGenerator, but got "
        f"{type(module).__qualname__}. Call gansdk.wrap(net, contract=...) for other networks."
    )
