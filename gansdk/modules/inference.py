"""A module as it is used: in evaluation, with the statistics that its contract asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gansdk.contracts import Contract
from gansdk.modules.fold import copy_module
from gansdk.modules.norms import input_statistics, tracked_norms


@contextmanager
def inferring(network: nn.Module, contract: Contract) -> Iterator[None]:
    """Run the network as images are made, without gradients; afterwards every mode and statistic is as before.

    With "batch-statistics" normalisation layers use those of the image, and their running ones stay as they are.
    """
    modes = {module: module.training for module in network.modules()}
    norms = tracked_norms(network) if contract.inference == "batch-statistics" else ()
    network.eval()
    try:
        with torch.no_grad(), input_statistics(norms):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def inference_form(module: nn.Module, contract: Contract) -> nn.Module:
    """A copy on the CPU, in eval mode, that makes images as the contract says without any further care.

    With "batch-statistics" its norms hold no running statistics, so that they use those of their input.
    """
    form = copy_module(module).cpu().eval().requires_grad_(False)
    if contract.inference == "batch-statistics":
        forget_statistics(form)
    return form


def forget_statistics(module: nn.Module) -> None:
    """Let the norms of `module` use the statistics of their input from now on."""
    for norm in tracked_norms(module):
        norm.running_mean, norm.running_var, norm.track_running_stats = None, None, False
