"""What the wavelet term costs beside a bare strided Haar transform of the difference image.

Prints JSON: the median over rounds of (time of the term) / (time of the bare transform), forward and backward,
both taken in each round in alternating order on one thread. Longer filters are measured against the same.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/haar.py --rounds 31
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from timing import ratio_of_times, versions
from torch import Tensor

from gansdk.contracts import Observation
from gansdk_distillers.wavelet import wavelet


def haar_distance(s: Tensor, t: Tensor, levels: int = 3) -> Tensor:
    """L1 of the Haar details of `s` - `t`, as one would write it down."""
    rest, total = s - t, s.new_zeros(())
    for _ in range(levels):
        a, b = rest[..., 0::2, 0::2], rest[..., 0::2, 1::2]
        c, d = rest[..., 1::2, 0::2], rest[..., 1::2, 1::2]
        details = (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2
        rest = (a + b + c + d) / 2
        total = total + sum(band.abs().mean() for band in details) / 3
    return total


def with_gradient(distance: Callable[[Tensor, Tensor], Tensor], s: Tensor, t: Tensor) -> Callable[[], Tensor]:
    """A call of forward and backward that gives the gradient."""
    return lambda: torch.autograd.grad(distance(s, t), s)[0]


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--shape", type=int, nargs=4, default=(4, 3, 256, 256))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    s, t = (torch.rand(options.shape, generator=rng) * 2 - 1 for _ in range(2))
    bare = with_gradient(haar_distance, s.requires_grad_(), t)
    rows = {}
    for basis in ("haar", "db2", "db3"):
        (term,) = wavelet(basis=basis).terms
        ours = with_gradient(lambda a, b, term=term: term(Observation(a, {}), Observation(b, {})), s, t)
        rows[basis] = ratio_of_times(ours, bare, options.rounds)
        if basis == "haar":
            torch.testing.assert_close(ours(), bare())
    print(
        json.dumps(
            {
                "wavelet_term": rows,
                "settings": {"shape": list(options.shape), "levels": 3, "rounds": options.rounds, "threads": 1},
                "versions": versions("torch", "PyWavelets", "gansdk"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
