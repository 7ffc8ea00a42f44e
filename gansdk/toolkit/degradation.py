"""From images back to the inputs they came from, for networks that enlarge."""

from __future__ import annotations

from torch import Tensor

from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.toolkit.resampling import bicubic


def shrunk(image: Tensor, contract: Contract) -> Tensor:
    """(N, C, sH, sW) -> (N, C, H, W) by bicubic resampling (`gansdk.toolkit.resampling`), in the contract's ranges.

    For pre-upsampled networks (VDSR) the image is shrunk and enlarged again, so its size stays. Values are clamped to
    the range. Differentiable: nothing is rounded, since rounding has gradient zero everywhere.

    Raises:
        ContractError: wrong channels, sides that are not multiples of the scale, or sides below the factor.
    """
    factor = contract.scale * contract.pre_upsampled
    if image.ndim != 4 or image.shape[1] != contract.channels_out:
        raise ContractError(f"degrade() takes (N, {contract.channels_out}, H, W) images, but got {tuple(image.shape)}.")
    height, width = image.shape[2:]
    if height % contract.scale or width % contract.scale or min(height, width) < factor:
        raise ContractError(
            f"degrade() shrinks by {factor}, so sides must be multiples of {contract.scale} and at least {factor} "
            f"pixels, but the image is {height}x{width}. Crop it first."
        )
    low, high = contract.output_range
    small = bicubic((image - low) / (high - low), height // factor, width // factor)
    if contract.pre_upsampled > 1:
        small = bicubic(small, height // contract.scale, width // contract.scale)
    low, high = contract.input_range
    return small.clamp(0, 1) * (high - low) + low
