"""What the terms on features and images cost within a distillation step of a ResNet-9.

Prints JSON: for GKA, wavelet and channel distillation, each alone and all together, the median over rounds of (time of
the terms, forward and backward to the student's feature maps and image) / (time of the whole step with all of them),
both taken in each round in alternating order on one thread. The step is a CycleGAN's or pix2pix', with discriminator,
or the teacher, the student and L1 to the truth alone.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/terms.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial

import torch
from timing import ratio_of_times, versions

from gansdk.contracts import MAIN, Batch, Observation
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import Stage, Term
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.toolkit.terms import TermSum
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk_distillers.channel import channel
from gansdk_distillers.kernel_alignment import gka
from gansdk_distillers.wavelet import wavelet

TERMS = {"gka": gka, "wavelet": wavelet, "channel": channel}


def terms_of(names: Sequence[str]) -> tuple[Term, ...]:
    """Terms with their defaults."""
    return tuple(term for name in names for term in TERMS[name]().terms)


def stage(family: str, widths: Sequence[int], size: int, names: Sequence[str]) -> Stage:
    """A ResNet-9 to imitate, another to train, and the terms; "none" has no discriminator."""
    adapter = open_adapter({"name": "pix2pix" if family == "none" else family, "size": [size, size]})
    torch.manual_seed(0)
    teacher, small = (open_generator(adapter.create("resnet", width=width), adapter) for width in widths)
    return Stage(
        student=ElasticStudent.of(small),
        teachers=(FrozenTeacher(teacher.module, teacher.contract, teacher.taps),),
        task=ReconstructionTask() if family == "none" else adapter.task(small.module),
        terms=terms_of(names),
        steps=10**6,
        rng=torch.Generator(),
        processes=Processes("cpu"),
    )


def terms_alone(bound: Stage, batch: Batch) -> Callable[[], object]:
    """All terms of a stage on fixed observations, forward and backward."""
    terms = TermSum(bound, bound.teachers[0])
    x = batch.inputs[MAIN]
    with torch.no_grad():
        theirs = bound.teachers[0].observe(x, terms.taps)
        seen = bound.student.observe(x, terms.taps)
    assert seen.image is not None

    def run() -> object:
        ours = Observation(
            seen.image.detach().requires_grad_(),
            {tap: feature.detach().requires_grad_() for tap, feature in seen.features.items()},
        )
        loss, _ = terms(ours, theirs)
        loss.backward()
        return loss

    return run


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=["cyclegan", "pix2pix", "none"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs=2, default=(64, 16), metavar=("TEACHER", "STUDENT"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(options.batch, 3, options.size, options.size, generator=rng) * 2 - 1 for _ in range(2))
    shares: dict[str, dict[str, object]] = {}
    for family in options.families:
        batch = Batch({MAIN: x}, {MAIN: y}, paired=family != "cyclegan")
        regime = OfflineRegime()
        regime.bind(stage(family, options.widths, options.size, tuple(TERMS)))
        shares[family] = {}
        for names in (*((name,) for name in TERMS), tuple(TERMS)):
            alone = terms_alone(stage(family, options.widths, options.size, names), batch)
            row = ratio_of_times(alone, partial(regime.step, batch), options.rounds)
            found = {"share": row["ratio"], "terms_ms": row["sdk_ms"], "step_ms": row["hand_ms"]}
            shares[family]["+".join(names)] = found
    settings = {"size": options.size, "batch": options.batch, "widths": list(options.widths), "rounds": options.rounds}
    print(json.dumps({"terms": shares, "settings": settings, "versions": versions("torch", "gansdk")}, indent=2))


if __name__ == "__main__":
    main()
