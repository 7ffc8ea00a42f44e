"""Which configurations a search scores, generation by generation; what they score decides the next ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from gansdk_pruners.subnets import Config

Choices = Sequence[Sequence[int]]
Fits = Callable[[Config], bool]
TRIES = 100
"""Draws that may miss the budget before one of them is made to fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """Settings of the search; the defaults are GAN Compression's, who let it run for 500 iterations."""

    population: int = 100
    iterations: int = 10
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    """Share of the children that are mutants; the others are crossovers."""
    mutate_prob: float = 0.2
    """Of drawing a position of a mutant anew."""

    @property
    def parents(self) -> int:
        return max(1, round(self.parent_ratio * self.population))


def every(choices: Choices, fits: Fits, *, seed: int) -> Iterator[list[Config]]:
    """One generation: all configurations that fit, in random order, so that a time limit sees all kinds of them."""
    fitting = [config for config in product(*choices) if fits(config)]
    _random(seed, 0).shuffle(fitting)
    yield fitting


def evolve(
    choices: Choices, fits: Fits, scores: Mapping[Config, float], *, settings: Evolution, seed: int
) -> Iterator[list[Config]]:
    """Generations of configurations that all fit, after GAN Compression (Li et al., CVPR 2020; released code).

    `choices`: ascending, per position; the smallest configuration must fit. Every configuration of a generation must be
    in `scores` (lower is better) before the next one is asked for. Parents are the best of the last generation;
    with them live `population` children, mutants and uniform crossovers, each drawn again until it fits. Where `TRIES`
    draws do not, the last one is narrowed at random positions until it does, so tight budgets do not stall; the
    released code draws on without end. Random numbers depend on the seed and the number of the generation alone.
    """

    def fitting(draw: Callable[[], Config], rng: Random) -> Config:
        for _ in range(TRIES):
            config = draw()
            if fits(config):
                return config
        return _narrowed(config, choices, fits, rng)

    rng = _random(seed, 0)
    population = [fitting(lambda: tuple(rng.choice(c) for c in choices), rng) for _ in range(settings.population)]
    yield population
    for number in range(1, settings.iterations + 1):
        rng = _random(seed, number)
        parents = sorted(population, key=lambda config: (scores[config], config))[: settings.parents]
        mutants = round(settings.mutation_ratio * settings.population)
        children = [
            fitting(lambda: _mutant(rng.choice(parents), choices, settings.mutate_prob, rng), rng)  # noqa: B023
            for _ in range(mutants)
        ]
        children += [
            fitting(lambda: _crossover(rng.choice(parents), rng.choice(parents), rng), rng)  # noqa: B023
            for _ in range(settings.population - mutants)
        ]
        population = [*parents, *children]
        yield population


def pareto(rows: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Of (cost, score) rows those that no other one is both cheaper and better than, cheapest first.

    Scores that are not finite are none.
    """
    front: list[tuple[int, float]] = []
    for cost, score in sorted(rows):
        if math.isfinite(score) and (not front or score < front[-1][1]):
            front.append((cost, score))
    return tuple(front)


def _random(seed: int, generation: int) -> Random:
    return Random(f"search {seed} {generation}")


def _mutant(parent: Config, choices: Choices, probability: float, rng: Random) -> Config:
    """Positions are drawn anew, each with `probability`; they may come out as they were."""
    return tuple(
        rng.choice(options) if rng.random() < probability else value
        for value, options in zip(parent, choices, strict=True)
    )


def _crossover(one: Config, other: Config, rng: Random) -> Config:
    return tuple(rng.choice(pair) for pair in zip(one, other, strict=True))


def _narrowed(config: Config, choices: Choices, fits: Fits, rng: Random) -> Config:
    """Take random positions down by one choice until the configuration fits."""
    ranks = [options.index(value) for value, options in zip(config, choices, strict=True)]
    while not fits(config):
        ranks[rng.choice([i for i, rank in enumerate(ranks) if rank > 0])] -= 1
        config = tuple(options[rank] for rank, options in zip(ranks, choices, strict=True))
    return config
