"""The searches of once-for-all by themselves, on made-up costs and scores."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gansdk_pruners.evolution import Evolution, every, evolve, pareto

choices = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found))),
    min_size=1,
    max_size=5,
)


def lower_is_better(config):
    """A score in which positions depend on one another."""
    return math.sin(sum((i + 1) * value for i, value in enumerate(config))) - 0.01 * sum(config)


def run_through(generations, scores):
    seen = []
    for population in generations:
        scores.update({config: lower_is_better(config) for config in population})
        seen.append(population)
    return seen


@settings(max_examples=40, deadline=None, derandomize=True)
@given(choices=choices, share=st.floats(0, 1), seed=st.integers(0, 99), mutate=st.floats(0, 1))
def test_evolution_never_leaves_the_budget_repeats_itself_and_never_gets_worse(choices, share, seed, mutate):
    least, most = sum(found[0] for found in choices), sum(found[-1] for found in choices)
    limit = least + share * (most - least)
    evolution = Evolution(population=6, iterations=4, mutate_prob=mutate)

    def searched():
        scores = {}
        return run_through(
            evolve(choices, lambda config: sum(config) <= limit, scores, settings=evolution, seed=seed), scores
        )

    generations = searched()
    assert generations == searched()
    assert [len(population) for population in generations] == [6] + 4 * [6 + evolution.parents]
    for config in itertools.chain(*generations):
        assert sum(config) <= limit
        assert all(value in options for value, options in zip(config, choices, strict=True))
    best = [min(map(lower_is_better, population)) for population in generations]
    assert best == sorted(best, reverse=True)


def test_a_budget_that_only_one_configuration_meets_does_not_stall_the_search():
    wide = [tuple(range(1, 9))] * 12
    scores = {}
    generations = evolve(wide, lambda config: sum(config) <= 12, scores, settings=Evolution(population=4), seed=0)
    assert set(itertools.chain(*run_through(generations, scores))) == {(1,) * 12}


def test_evolution_finds_what_brute_force_finds_in_a_space_it_can_get_around_in():
    space = [(1, 2, 3, 4)] * 5
    fitting = [config for config in itertools.product(*space) if sum(config) <= 12]
    scores = {}

    def distance(config):
        return sum((value - best) ** 2 for value, best in zip(config, (1, 4, 2, 1, 3), strict=True))

    for population in evolve(
        space, lambda config: sum(config) <= 12, scores, settings=Evolution(population=40, iterations=15), seed=1
    ):
        scores.update({config: distance(config) for config in population})
    assert min(scores, key=scores.get) == min(fitting, key=distance)
    assert len(scores) < len(fitting)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(choices=choices, limit=st.integers(1, 40))
def test_the_exhaustive_search_sees_every_configuration_within_the_budget_once(choices, limit):
    (found,) = every(choices, lambda config: sum(config) <= limit, seed=0)
    assert sorted(found) == [config for config in itertools.product(*choices) if sum(config) <= limit]


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1) | st.just(math.inf)), min_size=1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_front_holds_exactly_what_nothing_beats(rows):
    def beaten(row):
        return math.isinf(row[1]) or any(other[0] <= row[0] and other[1] <= row[1] and other != row for other in rows)

    assert list(pareto(rows)) == sorted({row for row in rows if not beaten(row)})
