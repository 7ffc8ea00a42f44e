"""Train the small teacher of `gansdk demo`: an SRResNet without norms that enlarges photographs twice.

It learns from the photographs inside scikit-image and scikit-learn; flower and chelsea are held out.
About ten minutes on one CPU core:

    python examples/train_demo_teacher.py gansdk/assets/demo_teacher.safetensors
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from gansdk import DataSource
from gansdk.contracts import MAIN
from gansdk.evaluation.evaluate import evaluate
from gansdk.pipeline.opening import open_generator, open_source
from gansdk_adapters.sr import SuperResolution

DESCRIPTION = {"network": "msrresnet", "sizes": {"width": 32, "blocks": 6, "channels": 3, "scale": 2}}
BATCH = 16
PATCH_PX = 24
RATE, LAST_RATE = 1e-3, 1e-5

log = logging.getLogger(__name__)


def train(network: nn.Module, source: DataSource, *, steps: int, seed: int) -> None:
    """Adam on the mean absolute error, with the rate falling along half a cosine."""
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=LAST_RATE)
    network.train()
    for step in range(steps):
        batch = source.train_batch(BATCH, seed=seed, step=step)
        loss = (network(batch.inputs[MAIN]) - batch.targets[MAIN]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            log.info("step %d of %d: loss %.4f", step + 1, steps, loss.item())
    network.eval()


def main() -> None:
    """Train, score on the held-out photographs and save."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("output", type=Path, help="the .safetensors file to write")
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    torch.manual_seed(asked.seed)
    network = SuperResolution().build(DESCRIPTION)
    generator = open_generator(network)
    source = open_source("photos", generator, patch=PATCH_PX, seed=asked.seed)
    train(network, source, steps=asked.steps, seed=asked.seed)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, asked.output)

    scores = evaluate(network, teacher=None, source=source, contract=generator.contract)
    for image in scores.per_image:
        log.info("%s: %s", image["name"], image["ground-truth"])


if __name__ == "__main__":
    main()
