"""Progressive growth: a student that begins with its first blocks and gets the others in stages."""

from __future__ import annotations

from torch import nn

from gansdk.contracts import MAIN
from gansdk.interfaces import Student

GROWING = 18 / 80
"""The share of the steps after which the student has all its blocks: 18 stages of one epoch, out of 80."""


def depth_at(step: int, steps: int, blocks: int, stages: int) -> int:
    """How many of the blocks run at `step`, counted from 0, of `steps`: round(blocks (i + 1) / stages) in stage i.

    The released code takes the epoch in place of i + 1, which is right for stages of one epoch only.
    """
    stages = max(1, min(stages, blocks))
    stage = max(i for i in range(stages) if round(i * GROWING * steps / stages) <= step)
    return round(blocks * (stage + 1) / stages)


def active_parameters(student: Student, depth: int) -> list[nn.Parameter]:
    """What the first `depth` blocks, and all that is in front of and behind the blocks, are made of."""
    network = student.networks()[MAIN]
    absent = {p for path in student.blocks[depth:] for p in network.get_submodule(path).parameters()}
    return [p for p in student.parameters() if p not in absent]
