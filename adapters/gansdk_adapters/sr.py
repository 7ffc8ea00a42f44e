"""Super-resolution: SRResNet and SRGAN, MSRResNet, EDSR and VDSR behind one adapter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from gansdk.contracts import Contract
from gansdk.errors import CheckpointError, InvalidOption, Unsupported
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import Adapter, Task, Variant
from gansdk.text import quoted
from gansdk.toolkit.degradation import shrunk
from gansdk.toolkit.options import check, checked
from gansdk.validation.signatures import fitting
from gansdk_adapters.creating import Size
from gansdk_adapters.networks.edsr import EDSR, EDSRBasicSR, EDSRSizes, published_res_scale
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import MSRResNet, SRGANGenerator, SRGANSizes, SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR

State = Mapping[str, Tensor]
Network = SRResNet | SRGANGenerator | MSRResNet | EDSR | EDSRBasicSR | VDSR
NETWORKS = (SRResNet, SRGANGenerator, MSRResNet, EDSR, EDSRBasicSR, VDSR)
SCALES = (1, 2, 3, 4, 8)


class SuperResolution(Adapter):
    """Generators that enlarge photographs.

    `pre_upsampled` is the factor a VDSR's inputs were enlarged by, which its weights do not tell; the other
    networks ignore it. `degrade` depends on the network's scale and value range, so it works on what `bind` returns.
    """

    name = "sr"
    patch = 24

    @checked
    def __init__(self, *, pre_upsampled: Size = 4) -> None:
        self._pre_upsampled = pre_upsampled
        self._contract: Contract | None = None

    def bind(self, module: nn.Module) -> SuperResolution:
        """Return this adapter with `degrade` fixed to the contract of `module`."""
        bound = SuperResolution(pre_upsampled=self._pre_upsampled)
        bound._contract = self.contract(module)
        return bound

    def options(self) -> dict[str, Any]:
        return {"pre_upsampled": self._pre_upsampled}

    def accepts(self, module: nn.Module) -> bool:
        return isinstance(module, NETWORKS)

    def contract(self, module: nn.Module) -> Contract:
        network = _known(module)
        sizes = network.sizes
        on_target_grid = isinstance(network, VDSR)
        image_range = (0.0, network.sizes.peak) if isinstance(network, EDSR) else (0.0, 1.0)
        return Contract(
            channels_in=sizes.channels,
            channels_out=sizes.channels,
            size=(256, 256) if on_target_grid else (64, 64),
            input_range=image_range,
            output_range=image_range,
            inner_range=(0.0, network.sizes.peak) if isinstance(network, EDSRBasicSR) else None,
            scale=sizes.scale,
            pre_upsampled=self._pre_upsampled if on_target_grid else 1,
        )

    def taps(self, module: nn.Module) -> Mapping[str, str]:
        """Return the paths of "stem", of the blocks at the quarter points ("body4" is the fourth block), and "trunk".

        "trunk" is the convolution behind the blocks; networks without one (VDSR, MSRResNet) lack that tap.
        """
        network = _known(module)
        return _layout_of(network).taps(network.sizes)

    def blocks(self, module: nn.Module) -> Sequence[str]:
        """Return the paths of all residual blocks, of VDSR of all layers between the first and the last."""
        network = _known(module)
        return tuple(_layout_of(network).body(index + 1) for index in range(network.sizes.blocks))

    def task(self, module: nn.Module, *, discriminator: State | None = None) -> Task:
        """L1 to the reference, in units of the output range; there is no discriminator."""
        return ReconstructionTask(self.contract(module).output_range)

    def variants(self, state: State) -> Iterable[Variant]:
        for layout in LAYOUTS:
            sizes = layout.sizes_of(state)
            if sizes is not None:
                yield layout.variant(sizes)

    def describe(self, module: nn.Module) -> dict[str, Any]:
        network = _known(module)
        return {"network": _layout_of(network).name, "sizes": asdict(network.sizes)}

    def build(self, description: Mapping[str, Any]) -> nn.Module:
        """Make the network of a description, with fresh weights from torch's global generator.

        Raises:
            CheckpointError: the description is not one that `describe` gives.
        """
        layout = next((layout for layout in LAYOUTS if layout.name == description.get("network")), None)
        try:
            if layout is not None:
                return layout.network(layout.sizes(**description["sizes"]))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{_strange(description)} The sizes are invalid: {error}.") from error
        raise CheckpointError(_strange(description))

    def create(self, architecture: str = "", **sizes: Any) -> nn.Module:
        """Make a fresh network, with weights from torch's global generator.

        `architecture`: "srresnet" (the usual one), "srgan", "msrresnet", "edsr", "edsr-basicsr" or "vdsr". `sizes`:
        `width` (64), `blocks` (16, VDSR 18), `channels` (3, VDSR 1), `scale` (4) and others of theirs. The scale of
        VDSR is that of its inputs: the adapter's `pre_upsampled`.

        Raises:
            InvalidOption: there is no such architecture or size.
        """
        layout = next((layout for layout in LAYOUTS if layout.name == (architecture or "srresnet")), None)
        if layout is None:
            names = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
            raise InvalidOption(f"The adapter 'sr' has no architecture={quoted(architecture)}. Choose from: {names}.")
        if layout.upsampling is None and "scale" in sizes:
            raise InvalidOption(
                f"{layout.title} does not upscale; its inputs are upscaled beforehand. Pass the factor to the adapter: "
                f"pre_upsampled={sizes['scale']}."
            )
        usual = {"blocks": 18, "channels": 1} if layout.upsampling is None else {"blocks": 16, "scale": 4}
        chosen = fitting(layout.sizes, {"width": 64, **usual, **sizes}, whose=f"The architecture {layout.name!r}")
        for name in ("width", "blocks", "channels", "scale"):
            if name in chosen:
                check(Size, chosen[name], name)
        if layout.sizes is EDSRSizes:
            chosen.setdefault("res_scale", published_res_scale(chosen["width"]))
        try:
            return layout.network(layout.sizes(**chosen))
        except TypeError as error:
            raise InvalidOption(f"The architecture {layout.name!r} has no such size: {error}.") from error

    def rebuild(self, module: nn.Module, *, width: float = 1.0, deeper: bool = False) -> nn.Module:
        """Make a fresh network `width` times as wide; deeper means one more block for every four, at least one."""
        network = _known(module)
        old = network.sizes
        new = replace(
            old,
            width=max(1, round(old.width * width)),
            blocks=old.blocks + max(1, old.blocks // 4) if deeper else old.blocks,
        )
        if isinstance(new, EDSRSizes):
            new = replace(new, res_scale=min(new.res_scale, published_res_scale(new.width)))
        return _layout_of(network).network(new)

    def degrade(self, image: Tensor) -> Tensor:
        """What `gansdk.toolkit.degradation.shrunk` makes of an image.

        Raises:
            Unsupported: the adapter is not bound to a network, so the scale is unknown.
            ContractError: as `shrunk`.
        """
        contract = self._contract
        if contract is None:
            raise Unsupported(
                "degrade() needs the scale and the value range of one network. Use the adapter of a Generator, "
                "or SuperResolution().bind(network).degrade(image)."
            )
        return shrunk(image, contract)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One published key layout: how to read sizes from it, and where its feature maps are."""

    name: str
    title: str
    network: Callable[[Any], nn.Module]
    sizes: Callable[..., Sizes]
    head: str
    """Key of the first convolution's weight."""
    block: str
    """Pattern of one key that every residual block has exactly once."""
    upsampling: str | None
    """Pattern of the weights in front of pixel shuffles; None where the network does not enlarge."""
    options: Callable[[State], dict[str, Any]] = lambda state: {}
    """What the sizes hold beyond width, blocks, channels and scale."""
    stem: str
    body: Callable[[int], str]
    """Path of block i, counted from 1."""
    trunk: Callable[[int], str] | None
    """Path of the convolution behind n blocks."""
    rename: Callable[[str], str] = lambda key: key

    def sizes_of(self, state: State) -> Sizes | None:
        """Read the sizes from the weights; None if the head is missing. What cannot be read is guessed."""
        head = state.get(self.head)
        if head is None or head.ndim != 4 or 0 in head.shape:
            return None
        return self.sizes(
            width=head.shape[0],
            channels=head.shape[1],
            blocks=max(1, len(_matching(self.block, state))),
            scale=1 if self.upsampling is None else _scale(_matching(self.upsampling, state)),
            **self.options(state),
        )

    def variant(self, sizes: Sizes) -> Variant:
        """Offer the network of these sizes."""
        enlarging = "" if self.upsampling is None else f" x{sizes.scale}"
        return Variant(
            name=f"{self.title}{enlarging}, {sizes.width} channels, {sizes.blocks} blocks",
            build=lambda: self.network(sizes),
            rename=self.rename,
        )

    def taps(self, sizes: Sizes) -> dict[str, str]:
        """Name the stem, the blocks at the quarter points of the body, and the trunk."""
        chosen = sorted({math.ceil(sizes.blocks * quarter / 4) for quarter in (1, 2, 3, 4)})
        taps = {"stem": self.stem, **{f"body{index}": self.body(index) for index in chosen}}
        return taps if self.trunk is None else {**taps, "trunk": self.trunk(sizes.blocks)}


def _matching(pattern: str, state: State) -> list[Tensor]:
    return [tensor for key, tensor in state.items() if re.fullmatch(pattern, key)]


def _scale(upsampling_weights: Iterable[Tensor]) -> int:
    """Multiply the factors of all stages; a convolution in front of PixelShuffle(r) has r * r outputs per input."""
    shapes = [weight.shape for weight in upsampling_weights if weight.ndim == 4 and 0 not in weight.shape]
    scale = math.prod(math.isqrt(shape[0] // shape[1]) for shape in shapes)
    return scale if scale in SCALES else 4


def _per_channel(key: str) -> Callable[[State], bool]:
    return lambda state: key in state and state[key].numel() > 1


def _srgan_options(state: State) -> dict[str, Any]:
    return {
        "per_channel_slopes": _per_channel("block1.1.weight")(state),
        "trunk_norm": bool(_matching(r"block\d+\.1\.running_mean", state)),
    }


def _edsr_options(head: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {"res_scale": published_res_scale(state[head].shape[0])}


def _official_edsr_options(state: State) -> dict[str, Any]:
    mean = state.get("add_mean.bias")
    small = mean is not None and not mean.is_meta and mean.numel() > 0 and 0 < float(mean.abs().max()) <= 1
    return {**_edsr_options("head.0.weight")(state), "peak": 1.0 if small else 255.0}


_MSRRESNET = Layout(
    name="msrresnet",
    title="MSRResNet",
    network=MSRResNet,
    sizes=Sizes,
    head="conv_first.weight",
    block=r"body\.\d+\.conv1\.weight",
    upsampling=r"upconv\d+\.weight",
    stem="conv_first",
    body=lambda index: f"body.{index - 1}",
    trunk=None,
)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="srgan",
        title="SRGAN generator",
        network=SRGANGenerator,
        sizes=SRGANSizes,
        head="block1.0.weight",
        block=r"block\d+\.conv1\.weight",
        upsampling=r"block\d+\.\d+\.conv\.weight",
        options=_srgan_options,
        stem="block1",
        body=lambda index: f"block{index + 1}",
        trunk=lambda blocks: f"block{blocks + 2}",
    ),
    Layout(
        name="srresnet",
        title="SRResNet",
        network=SRResNet,
        sizes=SRResNetSizes,
        head="conv1.0.weight",
        block=r"trunk\.\d+\.rcb\.0\.weight",
        upsampling=r"upsampling\.\d+\.upsample_block\.0\.weight",
        options=lambda state: {"per_channel_slopes": _per_channel("conv1.1.weight")(state)},
        stem="conv1",
        body=lambda index: f"trunk.{index - 1}",
        trunk=lambda blocks: "conv2",
    ),
    _MSRRESNET,
    replace(
        _MSRRESNET,
        title="MSRResNet (MMSR)",
        block=r"recon_trunk\.\d+\.conv1\.weight",
        rename=lambda key: re.sub(r"^HRconv\.", "conv_hr.", re.sub(r"^recon_trunk\.", "body.", key)),
    ),
    Layout(
        name="edsr",
        title="EDSR",
        network=EDSR,
        sizes=EDSRSizes,
        head="head.0.weight",
        block=r"body\.\d+\.body\.0\.weight",
        upsampling=r"tail\.0\.\d+\.weight",
        options=_official_edsr_options,
        stem="head",
        body=lambda index: f"body.{index - 1}",
        trunk=lambda blocks: f"body.{blocks}",
    ),
    Layout(
        name="edsr-basicsr",
        title="EDSR (BasicSR)",
        network=EDSRBasicSR,
        sizes=EDSRSizes,
        head="conv_first.weight",
        block=r"body\.\d+\.conv1\.weight",
        upsampling=r"upsample\.\d+\.weight",
        options=_edsr_options("conv_first.weight"),
        stem="conv_first",
        body=lambda index: f"body.{index - 1}",
        trunk=lambda blocks: "conv_after_body",
    ),
    Layout(
        name="vdsr",
        title="VDSR",
        network=VDSR,
        sizes=Sizes,
        head="input.weight",
        block=r"residual_layer\.\d+\.conv\.weight",
        upsampling=None,
        stem="input",
        body=lambda index: f"residual_layer.{index - 1}",
        trunk=None,
    ),
)


def _known(module: nn.Module) -> Network:
    if isinstance(module, NETWORKS):
        return module
    raise Unsupported(
        f"The adapter 'sr' supports {', '.join(kind.__name__ for kind in NETWORKS)}, but got "
        f"{type(module).__qualname__}. Call gansdk.wrap(net, contract=...) for other networks."
    )


def _layout_of(network: Network) -> Layout:
    return next(layout for layout in LAYOUTS if isinstance(network, layout.network))  # type: ignore[arg-type]


def _strange(description: Mapping[str, Any]) -> str:
    names = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    return f"The adapter 'sr' builds from {{'network': one of {names}; 'sizes': ...}}, but got {dict(description)}."
