"""CAT's threshold search against the widths, thresholds and MACs of the released routine (recorded golden cases)."""

import numpy as np
import pytest

from gansdk.channels.select import threshold_search

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


def ramps():
    return [(np.arange(count) + 1) / count for count in FULL]


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
