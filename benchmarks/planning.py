"""Planning a ResNet-9 generator (11.4 M parameters, 256x256) against one of its own forward passes.

`OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/planning.py`
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gansdk.budget.budget import Budget
from gansdk.channels.cost import CostModel
from gansdk.channels.select import select
from gansdk.channels.tracing.trace import trace

ROUNDS = 5


class Block(nn.Module):
    """Two 3x3 convolutions with instance norms around a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, H, W) to the same."""
        return x + self.body(x)


def resnet(width: int = 64, blocks: int = 9) -> nn.Sequential:
    """The CycleGAN generator."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU(True)]
    for factor in (1, 2):
        layers += [nn.Conv2d(width * factor, width * factor * 2, 3, 2, 1), nn.InstanceNorm2d(width * factor * 2)]
        layers += [nn.ReLU(True)]
    layers += [Block(width * 4) for _ in range(blocks)]
    for factor in (4, 2):
        layers += [nn.ConvTranspose2d(width * factor, width * factor // 2, 3, 2, 1, 1)]
        layers += [nn.InstanceNorm2d(width * factor // 2), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Interleave the measurements and print their medians and ratios."""
    torch.set_num_threads(1)
    net, x = resnet().eval(), torch.zeros(1, 3, 256, 256)
    rng = np.random.default_rng(0)

    def plan() -> None:
        space = trace(net, x)
        costs = CostModel(space)
        scores = {group.name: rng.random(group.size) for group in space.prunable}
        limits = Budget.parse("10x").resolve(costs.cost(space.full_plan()))
        select(space, scores, limits, cost=costs.cost, compare="cost")

    def forward() -> None:
        with torch.no_grad():
            net(x)

    cold = seconds(plan)
    costs = CostModel(trace(net, x))
    widths = np.array([group.size for group in costs.space.groups])
    rows: dict[str, list[float]] = {"plan": [], "forward": [], "query": []}
    for _ in range(ROUNDS):
        rows["forward"].append(seconds(forward))
        rows["plan"].append(seconds(plan))
        rows["query"].append(seconds(lambda: [costs.cost_of_widths(widths) for _ in range(1000)]) / 1000)
    median = {name: statistics.median(values) for name, values in rows.items()}
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "parameters": sum(p.numel() for p in net.parameters()),
                "cpu_seconds": {"first plan of a process": cold, **median},
                "plan / forward": median["plan"] / median["forward"],
                "first plan / forward": cold / median["forward"],
                "forward / query": median["forward"] / median["query"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
