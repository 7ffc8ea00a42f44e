"""Bicubic resampling against a literal sum over the kernel, known values and torch's own."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gansdk.toolkit.resampling import bicubic

SQUARES = torch.tensor([0, 1, 4, 9, 16, 25, 36, 49], dtype=torch.float64).view(1, 1, 1, 8)
"""Known values of its halves are golden ones of the methods file, part E."""


def test_halving_repeats_the_edges():
    expected = [0.382812, 6.261719, 20.425781, 42.273438]
    np.testing.assert_allclose(bicubic(SQUARES, 1, 4).flatten(), expected, atol=1e-6)


def test_halving_may_mirror_the_image_at_its_edges_as_matlab_does():
    expected = [0.300781, 6.261719, 20.425781, 43.011719]
    np.testing.assert_allclose(bicubic(SQUARES, 1, 4, mirrored=True).flatten(), expected, atol=1e-6)


def test_doubling_repeats_the_edges():
    expected = [-0.070312, 0.132812, 0.585938, 1.5625, 3.0625, 5.226562, 8.054688, 9.351562]
    np.testing.assert_allclose(bicubic(SQUARES[..., :4], 1, 8).flatten(), expected, atol=1e-6)


def test_torchs_antialiased_bicubic_treats_only_the_border_otherwise():
    halved = F.interpolate(SQUARES, (1, 4), mode="bicubic", antialias=True)
    np.testing.assert_allclose(halved.flatten(), [0.410042, 6.189189, 20.756757, 41.794979], atol=1e-6)
    image = torch.rand(1, 2, 60, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for factor in (2, 3, 4, 1 / 2, 1 / 3, 1 / 4):
        height, width = round(60 * factor), round(48 * factor)
        ours, theirs = (
            bicubic(image, height, width),
            F.interpolate(image, (height, width), mode="bicubic", antialias=True),
        )
        inner = math.ceil(3 * max(1, factor))
        np.testing.assert_allclose(
            ours[..., inner:-inner, inner:-inner], theirs[..., inner:-inner, inner:-inner], atol=1e-12
        )


def literal(row, new, mirrored):
    """One row by the sum over the kernel; beyond its edges it is mirrored, or they are repeated."""
    old = len(row)
    wide = max(1.0, old / new)

    def keys(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def at(j):
        if mirrored:
            while not 0 <= j < old:
                j = -1 - j if j < 0 else 2 * old - 1 - j
        return row[min(max(j, 0), old - 1)]

    made = []
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        weights = {j: keys((centre - j) / wide) for j in range(-20, old + 20)}
        total = sum(weights.values())
        made.append(sum(w * at(j) for j, w in weights.items()) / total)
    return made


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=12), st.integers(1, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_resampling_is_the_sum_over_the_kernel(row, new, mirrored):
    image = torch.tensor(row, dtype=torch.float64).view(1, 1, -1, 1)
    found = bicubic(image, new, 1, mirrored=mirrored).flatten()
    np.testing.assert_allclose(found, literal(row, new, mirrored), atol=1e-9)


def test_half_precision_around_it_changes_nothing():
    image = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = bicubic(image, 6, 5)
    assert torch.equal(found, bicubic(image, 6, 5))
