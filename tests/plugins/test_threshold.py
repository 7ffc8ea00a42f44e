"""CAT's threshold search against the widths, thresholds and MACs of the released routine (recorded golden cases)."""

import numpy as np
import pytest

from gansdk_pruners.threshold import threshold_search

AREA = 256 * 256
FULL = [64, 128, 256, 128, 64] + [42] * 54
FLOORS = [16] * 5 + [0] * 54


def macs(widths, *, untracked):
    """The inception generator's cost by CAT's counter, in closed form.

    Transposed convolutions count on their output grid; norms without tracked statistics add one per element.
    """
    d0, d1, d2, u0, u1 = widths[:5]
    blocks = [widths[5 + 6 * b : 11 + 6 * b] for b in range(9)]
    total = 147 * d0 * AREA + 9 * d0 * d1 * AREA // 4 + 9 * d1 * d2 * AREA // 16
    total += 9 * d2 * u0 * AREA // 4 + 9 * u0 * u1 * AREA + 147 * u1 * AREA
    for mids in blocks:
        total += AREA // 16 * sum(2 * k * k * d2 * m for k, m in zip((1, 3, 5), mids[:3], strict=True))
        total += AREA // 16 * sum((2 * d2 + k * k) * m for k, m in zip((1, 3, 5), mids[3:], strict=True))
    if untracked:
        total += d0 * AREA + d1 * AREA // 4 + d2 * AREA // 16 + u0 * AREA // 4 + u1 * AREA
        for mids in blocks:
            total += AREA // 16 * (sum(mids[:3]) + 2 * sum(mids[3:]) + (d2 if sum(mids) else 0))
    return total


def ramps(full=FULL, dtype=np.float64):
    return [((np.arange(count) + 1) / count).astype(dtype) for count in full]


@pytest.mark.parametrize(
    ("untracked", "budget", "threshold", "stem", "mid", "cost"),
    [
        (True, 2_600_000_000, 0.7777271270751953, [16, 29, 57, 29, 16], 10, 2_573_611_008),
        (False, 4_600_000_000, 0.690544605255127, [20, 40, 80, 40, 20], 13, 4_495_503_360),
    ],
)
def test_the_search_ends_at_the_recorded_threshold_widths_and_cost(untracked, budget, threshold, stem, mid, cost):
    found, widths = threshold_search(ramps(), lambda w: macs(w, untracked=untracked), budget, FLOORS)
    assert found == threshold
    assert widths == stem + [mid] * 54
    assert macs(widths, untracked=untracked) == cost


@pytest.mark.parametrize(("untracked", "floor"), [(False, 544_210_944), (True, 546_897_920)])
def test_a_budget_below_the_floor_is_refused_where_the_published_loop_would_not_end(untracked, floor):
    assert macs(FLOORS, untracked=untracked) == floor
    with pytest.raises(ValueError, match=str(floor)):
        threshold_search(ramps(), lambda w: macs(w, untracked=untracked), floor - 1, FLOORS)


def test_a_network_that_already_fits_loses_only_its_smallest_scales():
    _, widths = threshold_search(ramps(), lambda w: macs(w, untracked=False), 10**12, FLOORS)
    assert sum(FULL) - sum(widths) <= 2


@pytest.mark.parametrize("largest", [1.0, float(np.nextafter(1.0, 2.0))])
def test_the_search_ends_where_only_the_floors_fit(largest):
    threshold, widths = threshold_search([np.array([0.1, largest])], lambda widths: sum(widths), 0, [0])
    assert widths == [0]
    assert threshold == largest


@pytest.mark.parametrize(("untracked", "budget"), [(True, 2_600_000_000), (False, 4_600_000_000)])
def test_scales_in_single_precision_give_the_same_search(untracked, budget):
    def found(dtype):
        return threshold_search(ramps(dtype=dtype), lambda w: macs(w, untracked=untracked), budget, FLOORS)

    threshold, widths = found(np.float32)
    assert (threshold, widths) == found(np.float64)
    assert float(np.float32(threshold)) == threshold


# The GauGAN generator of CAT: (input, output) channels of a block in units of its width, and side of its grid.
SPADE_BLOCKS = [(16, 16, 64), (16, 16, 32), (16, 16, 16), (16, 8, 8), (8, 4, 4), (4, 2, 2), (2, 1, 1)]
SPADE_FULL = [1024] + [min(a, b) * 64 // 6 for a, b, _ in SPADE_BLOCKS for _ in range(6)] + [21] * 42
SPADE_FLOORS = [256] + [0] * 84
LABELS, SPADE_AREA = 36, 256 * 512


def spade_macs(widths):
    """Cost of the inception generator with SPADE at 256x512: the trunk, 42 widths of blocks, 42 of their norms.

    The trunk is cut to multiples of 16, and every later block's width follows from it by halving. Norms that
    track statistics cost nothing.
    """
    unit, mids, norms = widths[0] // 16, widths[1:43], widths[43:]
    total = 9 * LABELS * 16 * unit * SPADE_AREA // 64**2 + 9 * unit * 3 * SPADE_AREA
    for block, (inputs, outputs, shrink) in enumerate(SPADE_BLOCKS):
        inputs, outputs = inputs * unit, outputs * unit
        at_a_pixel = inputs * outputs if inputs != outputs else 0
        stages = ((mids, inputs, outputs), (norms, LABELS, 2 * inputs))
        for table, read, written in stages:
            row = table[6 * block : 6 * block + 6]
            at_a_pixel += sum(k * k * m * (read + written) for k, m in zip((1, 3, 5), row[:3], strict=True))
            at_a_pixel += sum(m * (read + k * k + written) for k, m in zip((1, 3, 5), row[3:], strict=True))
        total += at_a_pixel * SPADE_AREA // shrink**2
    return total


def test_the_closed_form_of_the_spade_generator_gives_the_recorded_full_and_smallest_costs():
    assert spade_macs(SPADE_FLOORS) == 327_712_768
    assert round(spade_macs(SPADE_FULL) / 1e9, 2) == 109.77


def test_the_search_ends_at_the_recorded_spade_generator():
    threshold, widths = threshold_search(ramps(SPADE_FULL), spade_macs, 30_000_000_000, SPADE_FLOORS)
    assert threshold == 0.5000004768371582
    assert widths[0] == 512
    assert widths[1:43:6] == [85, 85, 85, 43, 21, 11, 5]
    assert set(widths[43:]) == {11}
    assert spade_macs(widths) == 29_696_266_496


def test_a_spade_budget_below_the_floor_is_refused():
    with pytest.raises(ValueError, match="327712768"):
        threshold_search(ramps(SPADE_FULL), spade_macs, 327_712_767, SPADE_FLOORS)
