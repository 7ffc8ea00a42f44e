"""In which order images are trained on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gansdk_adapters.sources import ordering
from gansdk_adapters.sources.ordering import turns

seeds = st.integers(0, 2**32)


def indices(images: int, size: int, steps: range, **key) -> list[int]:
    return [turn.index for step in steps for turn in turns(images, size, step=step, **key)]


def numbers(images: int, size: int, step: int, **key) -> list[int]:
    return [int(turn.draw.integers(2**62)) for turn in turns(images, size, step=step, **key)]


@given(images=st.integers(1, 40), size=st.integers(1, 50), seed=seeds, first=st.integers(0, 10**9))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_every_image_comes_once_in_every_epoch_whatever_the_batch_size(images, size, seed, first):
    start = first * images  # a step whose batch begins with an epoch
    seen = indices(images, size, range(start, start + 2 * images), seed=seed)
    epochs = [seen[begin : begin + images] for begin in range(0, len(seen), images)]
    assert all(sorted(epoch) == list(range(images)) for epoch in epochs if len(epoch) == images)
    assert len(epochs) >= 2


@given(size=st.integers(1, 30), seed=seeds, epoch=st.integers(0, 10**9))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_two_epochs_differ_in_their_order_and_in_the_numbers_of_every_image(size, seed, epoch):
    first, second = turns(30, 60, seed=seed, step=epoch)[:30], turns(30, 60, seed=seed, step=epoch)[30:]
    assert [turn.index for turn in first] != [turn.index for turn in second]
    drawn = [int(turn.draw.integers(2**62)) for turn in (*first, *second)]
    assert len(set(drawn)) == 60


@given(images=st.integers(1, 20), size=st.integers(1, 8), seed=seeds, step=st.integers(0, 2**40))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_same_key_gives_the_same_turns_whatever_was_asked_before(images, size, seed, step):
    first = [(turn.index, int(turn.draw.integers(2**62))) for turn in turns(images, size, seed=seed, step=step)]
    ordering._order.cache_clear()
    turns(images, size + 1, seed=seed, step=step + 3)
    again = [(turn.index, int(turn.draw.integers(2**62))) for turn in turns(images, size, seed=seed, step=step)]
    assert first == again
    assert numbers(images, size, step, seed=seed) != numbers(images, size, step, seed=seed + 1)
    assert numbers(images, size, step, seed=seed) != numbers(images, size, step, seed=seed, domain=1)


def test_the_numbers_of_an_image_are_those_of_its_epoch_wherever_it_is_in_a_batch():
    by_place = {turn.index: int(turn.draw.integers(2**62)) for turn in turns(6, 6, seed=3, step=0)}
    one_by_one = [turn for step in range(6) for turn in turns(6, 1, seed=3, step=step)]
    assert {turn.index: int(turn.draw.integers(2**62)) for turn in one_by_one} == by_place


def test_processes_that_share_an_epoch_draw_different_images():
    """The loop gives process r of n the step `step * n + r`."""
    drawn = [indices(24, 2, range(rank, 12, 3), seed=1) for rank in range(3)]
    assert sorted(np.concatenate(drawn)) == list(range(24))


def test_lists_of_other_lengths_do_not_change_the_order_of_another_domain():
    first = indices(7, 3, range(20), seed=0, domain=1)
    turns(50, 3, seed=0, step=0)
    assert indices(7, 3, range(20), seed=0, domain=1) == first
    assert indices(7, 3, range(20), seed=0) != first


def test_the_order_of_very_many_images_is_made_once_an_epoch():
    ordering._order.cache_clear()
    for step in range(50):
        turns(118_000, 4, seed=0, step=step)
    assert ordering._order.cache_info().misses == 1
