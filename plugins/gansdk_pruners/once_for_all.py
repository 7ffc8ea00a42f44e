"""Once-for-all pruning: train all subnets with shared weights, then search the best one within the budget."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from random import Random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gansdk.budget import Limits
from gansdk.channels.groups import Plan
from gansdk.channels.select import check_floor, check_scores
from gansdk.contracts import Route
from gansdk.errors import DataError, InvalidOption, MissingData, TrainingDiverged
from gansdk.events import SearchStep
from gansdk.interfaces import Pruner, Run, Student
from gansdk.toolkit.calibration import calibrate, calibrated, on_batch_statistics, tracks_statistics
from gansdk_pruners.evolution import Evolution, every, evolve, pareto
from gansdk_pruners.importance import IMPORTANCES, scores_by
from gansdk_pruners.subnets import Config, Ranking, Subnets, rank

_log = logging.getLogger(__name__)

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)
"""GAN Compression's widths of a 64-channel network, 64 to 16, as shares."""
RANKING, CANDIDATES = "ranking", "candidates"
"""Names of the notes: the order of the channels, and every subnet that was scored."""
LEAST_IMAGES = 2
MOST_LISTED = 1_000_000
"""Subnets whose costs an exhaustive search goes through: minutes."""


class OnceForAll(Pruner):
    """The search of GAN Compression (Li et al., CVPR 2020) over the channel groups of any generator.

    The shared weights are trained by the run's own distiller and task, one subnet a step; subnets within the budget
    are then scored without training on the held-out "search" images, and the best one is carved. It may leave budget
    unused: what counts is the score. Several students share the training and all scores: a larger budget never gets a
    subnet of a worse score, and the tightest gets the one it would get alone.

    Args:
        steps: training steps of the shared weights; 0 searches in the weights as they are.
        shares: widths to choose from for groups that no knob of the adapter sets, as shares of the full one.
        multiple_of: these widths become multiples of this (smaller ones in narrow groups).
        sampling: "uniform" draws every step's widths (the paper); "sandwich" trains the largest, a random, the
            smallest and a random subnet in turn.
        order: "importance" keeps the most important channels at every width; "prefix" the first ones (the paper).
        importance: what ranks them, as for `one-step`.
        search: "evolution", "exhaustive" (all subnets within the budget), or "auto": exhaustive in spaces with no
            more subnets than the first generation.
        population, iterations, parent_ratio, mutation_ratio, mutate_prob: of the evolution. The paper's, but for 10
            iterations instead of its 500.
        calibration: training images on which the tracked statistics of norms are measured for every subnet before it is
            scored, and for the carved student; the shared weights are trained on batch statistics. 0 keeps the
            teacher's statistics for all of it.
        max_minutes: stop scoring for a budget after so long, over all starts of the run, and take the best so far. The
            plan then depends on the machine's speed.

    Raises:
        InvalidOption: an option is out of its range.
    """

    def __init__(
        self,
        *,
        steps: int = 2000,
        shares: Sequence[float] = SHARES,
        multiple_of: int = 8,
        sampling: Literal["uniform", "sandwich"] = "uniform",
        order: Literal["importance", "prefix"] = "importance",
        importance: str = "auto",
        search: Literal["auto", "evolution", "exhaustive"] = "auto",
        population: int = 100,
        iterations: int = 10,
        parent_ratio: float = 0.25,
        mutation_ratio: float = 0.5,
        mutate_prob: float = 0.2,
        calibration: int = 16,
        max_minutes: float | None = None,
    ) -> None:
        _check_choice("sampling", sampling, ("uniform", "sandwich"))
        _check_choice("order", order, ("importance", "prefix"))
        _check_choice("importance", importance, ("auto", *IMPORTANCES))
        _check_choice("search", search, ("auto", "evolution", "exhaustive"))
        for name, value, least in (
            ("steps", steps, 0),
            ("multiple_of", multiple_of, 1),
            ("population", population, 2),
            ("iterations", iterations, 0),
            ("calibration", calibration, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise InvalidOption(f"{name}={value!r} must be a whole number from {least}.")
        for name, share in (
            ("parent_ratio", parent_ratio),
            ("mutation_ratio", mutation_ratio),
            ("mutate_prob", mutate_prob),
            *(("shares", share) for share in shares),
        ):
            if not 0 <= share <= 1:
                raise InvalidOption(f"{name}: {share!r} must lie within 0 and 1.")
        if max_minutes is not None and not max_minutes > 0:
            raise InvalidOption(f"max_minutes={max_minutes!r} must be above zero, or None for no limit.")
        self.steps = steps
        self.trains = steps > 0
        self.shares = tuple(shares)
        self.multiple_of = multiple_of
        self.sampling = sampling
        self.order = order
        self.importance = importance
        self.strategy = search
        self.population = population
        self.iterations = iterations
        self.parent_ratio = parent_ratio
        self.mutation_ratio = mutation_ratio
        self.mutate_prob = mutate_prob
        self.calibration = calibration
        self.max_minutes = max_minutes

    def prepare(self, student: Student, limits: Sequence[Limits], run: Run) -> None:
        """Rank the channels and train the student's shared weights, once for all budgets.

        Raises:
            BudgetUnreachable: before any work, if even the smallest subnet costs more than one of the limits.
            NothingPruned: there is one width only, everywhere.
            InvalidOption: an exhaustive search has too many subnets to go through.
            MissingData: there are no images.
            DataError: fewer than two of them are held out for the search.
            TrainingDiverged: the training broke.
        """
        space = student.space
        check_scores(space, {group.name: np.zeros(group.size) for group in space.prunable})
        subnets = self._subnets(student)
        least = student.cost(subnets.plan(subnets.smallest))
        needed = [one for one in limits if not one.fits(student.cost(space.full_plan()))]
        for one in needed:
            check_floor(space, one, least)
        if not needed:
            return
        if self.strategy == "exhaustive" and subnets.count > MOST_LISTED:
            raise InvalidOption(
                f"search='exhaustive' would go through {subnets.count:,} subnets, and {MOST_LISTED:,} are the most. "
                f"Give fewer shares than {self.shares} or a larger multiple_of, or use search='evolution'."
            )
        _check_images(run)
        subnets = self._subnets(student, self._ranking(student, run))
        if self.steps:
            # The teacher's statistics fit the wide network only; narrow ones trained on them score worse.
            with on_batch_statistics(student) if self.calibration else nullcontext():
                run.distil(self.steps, before_step=self.sampler(student, subnets, run.seed))
        student.activate(space.full_plan())

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        """The best-scoring plan within the limits; subnets scored for tighter limits are candidates as well.

        Raises:
            TrainingDiverged: no subnet gives finite images.
        """
        if limits.fits(student.cost(student.space.full_plan())):
            return student.space.full_plan()
        subnets = self._subnets(student, self._ranking(student, run))
        best, score = self._best(student, subnets, limits, run)
        if not math.isfinite(score):
            raise TrainingDiverged(
                f"None of the subnets within the budget gives finite images after {self.steps} steps. Try a smaller "
                "learning_rate."
            )
        usage = limits.usage(student.cost(subnets.plan(best)))
        _log.info("The best subnet, %s, uses %.1f %% of the budget.", best, 100 * usage)
        return subnets.plan(best)

    def recover(self, full: Student, carved: Student, plan: Plan, run: Run) -> None:
        images = self._calibration_images(carved, run)
        for route, part in carved.parts().items():
            calibrate(part, part.space.full_plan(), images.get(route, ()))

    def sampler(self, student: Student, subnets: Subnets, seed: int) -> Callable[[int], None]:
        """What is called before every training step: activates the subnet that (seed, step) say."""

        def activate(step: int) -> None:
            config = subnets.draw(Random(f"width {seed} {step}"))
            if self.sampling == "sandwich" and step % 2 == 0:
                config = subnets.largest if step % 4 == 0 else subnets.smallest
            student.activate(subnets.plan(config))

        return activate

    def _subnets(self, student: Student, ranking: Ranking | None = None) -> Subnets:
        return Subnets(student.space, shares=self.shares, multiple_of=self.multiple_of, ranking=ranking)

    def _ranking(self, student: Student, run: Run) -> Ranking | None:
        """The order of the channels, measured once, before any training."""
        if self.order == "prefix":
            return None
        known = run.notes(RANKING)
        return known[0] if known else run.note(RANKING, rank(scores_by(self.importance, student, run)))

    def _best(self, student: Student, subnets: Subnets, limits: Limits, run: Run) -> tuple[Config, float]:
        """The best configuration and its score; what the notes know the score of is not scored again."""
        images = self._calibration_images(student, run)
        budget = [limits.macs, limits.params, limits.bytes]
        fitting: dict[Config, bool] = {}

        def fits(config: Config) -> bool:
            if config not in fitting:
                fitting[config] = limits.fits(student.cost(subnets.plan(config)))
            return fitting[config]

        def score(config: Config) -> float:
            plan = subnets.plan(config)
            with ExitStack() as stack:
                for route, part in student.parts().items():
                    stack.enter_context(calibrated(part, student.split(plan)[route], images.get(route, ())))
                return run.score(plan)

        def is_over() -> bool:
            return self.max_minutes is not None and bool(scores) and spent > 60 * self.max_minutes

        rows = [(tuple(row["config"]), row) for row in run.notes(CANDIDATES)]
        known = {config: _number(row["score"]) for config, row in rows}
        scores = {config: known[config] for config, row in rows if row["budget"] != budget and fits(config)}
        spent = max((row["seconds"] for _, row in rows if row["budget"] == budget), default=0.0)
        started = time.monotonic() - spent
        generations, total = self._generations(subnets, fits, scores, run.seed)
        for number, population in enumerate(generations, start=1):
            scores.update((config, known[config]) for config in population if config in known)
            missing = list(dict.fromkeys(config for config in population if config not in known))
            results = run.map(score, missing)
            for config in missing:
                if is_over():
                    return _lowest(scores)
                found = next(results)
                row = run.note(
                    CANDIDATES,
                    {
                        "config": config,
                        "macs": student.cost(subnets.plan(config)).macs,
                        "score": found if math.isfinite(found) else None,
                        "budget": budget,
                        "seconds": round(time.monotonic() - started, 3),
                    },
                )
                # The main process's numbers, its clock too, so that all processes go on alike.
                known[config], spent = _number(row["score"]), row["seconds"]
                scores[config] = known[config]
            self._tell(student, subnets, scores, run, number, total)
        return _lowest(scores)

    def _generations(
        self, subnets: Subnets, fits: Callable[[Config], bool], scores: Mapping[Config, float], seed: int
    ) -> tuple[Iterator[list[Config]], int]:
        """The generations, and how many there are."""
        if self.strategy == "exhaustive" or (self.strategy == "auto" and subnets.count <= self.population):
            return every(subnets.choices, fits, seed=seed), 1
        settings = Evolution(
            population=self.population,
            iterations=self.iterations,
            parent_ratio=self.parent_ratio,
            mutation_ratio=self.mutation_ratio,
            mutate_prob=self.mutate_prob,
        )
        return evolve(subnets.choices, fits, scores, settings=settings, seed=seed), 1 + self.iterations

    def _tell(
        self, student: Student, subnets: Subnets, scores: Mapping[Config, float], run: Run, number: int, total: int
    ) -> None:
        costs = {config: student.cost(subnets.plan(config)) for config in scores}
        best, lowest = _lowest(scores)
        run.emit(
            SearchStep(
                generation=number,
                generations=total,
                scored=len(scores),
                best=lowest,
                cost=costs[best],
                front=pareto([(costs[config].macs, score) for config, score in scores.items()]),
            )
        )

    def _calibration_images(self, student: Student, run: Run) -> dict[Route, list[Tensor]]:
        """Training images by route, batches of those of one size: (N, C, H, W) each; none where no norm needs them."""
        if not self.calibration or not tracks_statistics(student):
            return {}
        by_size: dict[Route, dict[torch.Size, list[Tensor]]] = {}
        for batch in run.probe_batches(self.calibration) or []:
            for route, x in batch.inputs.items():
                by_size.setdefault(route, {}).setdefault(x.shape[1:], []).append(x)
        return {route: [torch.cat(images) for images in sizes.values()] for route, sizes in by_size.items()}


def _check_images(run: Run) -> None:
    if run.probe_batches(1) is None:
        raise MissingData(
            "The pruner 'once-for-all' trains on images and scores subnets on held-out ones, and none were given. Pass "
            "data='folder/' or data='photos', or use the pruner 'one-step'."
        )
    if run.scored_images < LEAST_IMAGES:
        raise DataError(
            f"The data holds {run.scored_images} image(s) out of training for the search, which is too few to tell "
            f"subnets apart: at least {LEAST_IMAGES} are needed, for each direction where there are two. Give more "
            "images, or hold a larger share of them out, by the source's option holdout=0.2."
        )


def _lowest(scores: Mapping[Config, float]) -> tuple[Config, float]:
    """The best configuration and its score; equal scores by configuration."""
    score, config = min((score, config) for config, score in scores.items())
    return config, score


def _number(score: float | None) -> float:
    """What was not finite ranks last."""
    return math.inf if score is None else score


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(f"{option}={value!r} is none of: {', '.join(choices)}.")
