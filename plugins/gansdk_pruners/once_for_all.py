"""Once-for-all pruning: train all subnets with shared weights, then search the best one within the budget."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from random import Random
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gansdk.budget.cost import Limits
from gansdk.channels.configs import plan_of, spelled
from gansdk.channels.groups import Plan
from gansdk.channels.select import check_scores
from gansdk.contracts import Route
from gansdk.errors import DataError, GansdkWarning, InvalidOption, MissingData, TrainingDiverged
from gansdk.interfaces import Pruner, Run, Student
from gansdk.toolkit.calibration import calibrate, calibrated, on_batch_statistics, tracks_statistics
from gansdk.toolkit.options import Count, CountOrZero, Positive, Share, Shares, checked
from gansdk_pruners.evolution import Evolution, every, evolve
from gansdk_pruners.importance import Importance, scores_by
from gansdk_pruners.reach import Widths, check_listed
from gansdk_pruners.scoring import Scoring
from gansdk_pruners.subnets import Config, Positions, Ranking, Subnets, rank

_log = logging.getLogger(__name__)

RANKING = "ranking"
"""Name of the note on the order of the channels."""
LEAST_IMAGES = 2


class OnceForAll(Pruner):
    """The search of GAN Compression (Li et al., CVPR 2020) over the channel groups of any generator.

    The shared weights are trained by the run's own distiller and task, one subnet a step; subnets within the budget
    are then scored without training on the held-out "search" images, and the best one is carved. A score is the mean
    absolute error of a subnet's images, to the ground truth or else to the teacher's images. The student may leave
    budget unused: what counts is the score. Several students share the training and all scores: a larger budget never
    gets a subnet of a worse score, and the tightest gets the one it would get alone.

    Args:
        steps: training steps of the shared weights; 0 searches in the weights as they are.
        space: what has a width of its own. "knobs": what the adapter's knobs set, at the adapter's widths (the
            papers'), and every group that none sets. "groups": every group. "auto": knobs where the adapter has them,
            and groups where not; where these widths cannot meet a budget, knobs get the shares of their width besides.
        shares: widths to choose from, as shares of the full one, for knobs too; None for the adapter's widths of knobs,
            and for 1, 3/4, 1/2, 3/8, 1/4 and 1/8 of other groups.
        multiple_of: these widths become multiples of this (smaller ones in narrow groups, and for shares below it);
            None for 8. Given, it makes the shares hold for knobs too.
        config: the subnet to carve, instead of a search: a number for every knob or group, as "16_16_32_16_32_32_16_16"
            (what a report shows), a list, or {name: number}. Any width up to the full one is allowed.
        sampling: "uniform" draws every step's widths (the paper); "sandwich" trains the largest, a random, the
            smallest and a random subnet in turn.
        order: "importance" keeps the most important channels at every width; "prefix" the first ones (the paper).
        importance: what ranks them, as for `one-step`.
        search: "evolution", "exhaustive" (all subnets within the budget), or "auto": exhaustive in spaces with no
            more subnets than the first generation.
        population, iterations, parent_ratio, mutation_ratio, mutate_prob: of the evolution. The paper's, but for 10
            iterations instead of its 500.
        scored_images: held-out images that subnets are scored on, at most; the papers take 120 to 300.
        calibration: training images on which the tracked statistics of norms are measured for every subnet before it is
            scored, and for the carved student; the shared weights are trained on batch statistics. 0 measures none:
            the teacher's are kept for all of it. The fresh norms of a transform have none to keep, so they want
            calibration.
        max_minutes: stop scoring for a budget after so long, over all starts of the run, and take the best so far. The
            plan then depends on the machine's speed. A run that is continued may have another limit than before.

    Raises:
        InvalidOption: an option is out of its range.
    """

    changeable = frozenset({"max_minutes"})

    _subnets: Subnets
    """Set by `prepare`."""

    @checked
    def __init__(
        self,
        *,
        steps: CountOrZero = 2000,
        space: Positions = "auto",
        shares: Shares | None = None,
        multiple_of: Count | None = None,
        config: str | int | Sequence[int] | Mapping[str, int] | None = None,
        sampling: Literal["uniform", "sandwich"] = "uniform",
        order: Literal["importance", "prefix"] = "importance",
        importance: Importance = "auto",
        search: Literal["auto", "evolution", "exhaustive"] = "auto",
        population: Annotated[int, Field(ge=2)] = 100,
        iterations: CountOrZero = 10,
        parent_ratio: Share = 0.25,
        mutation_ratio: Share = 0.5,
        mutate_prob: Share = 0.2,
        scored_images: Annotated[int, Field(ge=LEAST_IMAGES)] = 8,
        calibration: CountOrZero = 16,
        max_minutes: Positive | None = None,
    ) -> None:
        self.steps = steps
        self.trains = steps > 0
        self.space: Positions = space
        self.shares = shares
        self.multiple_of = multiple_of
        self.config = None if config is None else _config(config)
        self.sampling = sampling
        self.order = order
        self.importance = importance
        self._search = search
        self.population = population
        self.iterations = iterations
        self.parent_ratio = parent_ratio
        self.mutation_ratio = mutation_ratio
        self.mutate_prob = mutate_prob
        self.scored_images = scored_images
        self.calibration = calibration
        self._minutes = max_minutes

    def prepare(self, student: Student, limits: Sequence[Limits], run: Run) -> None:
        """Rank the channels and train the student's shared weights, once for all budgets.

        Raises:
            BudgetUnreachable: before any work, if even the smallest subnet costs more than one of the limits.
            NothingPruned: there is one width only, everywhere.
            InvalidOption: an exhaustive search has too many subnets to go through, or there is no such `config` or it
                is over a budget.
            MissingData: there are no images.
            DataError: fewer than two of them are held out for the search.
            TrainingDiverged: the training broke.
        """
        space = student.space
        check_scores(space, {group.name: np.zeros(group.size) for group in space.prunable})
        needed = [one for one in limits if not one.fits(student.cost(space.full_plan()))]
        widths = Widths(space=self.space, shares=self.shares, multiple_of=self.multiple_of)
        if self.config is not None:
            self._subnets = widths.subnets(student)
            self._check_given(student, limits)
        elif needed:
            self._subnets = widths.reaching(student, needed)
            if self._search == "exhaustive":
                check_listed(self._subnets, student, needed[0])
        else:
            return
        if self.config is None or self.steps:
            _check_images(run)
        self._subnets = Subnets(space, self._subnets.positions, self._ranking(student, run))
        if self.steps:
            # The teacher's statistics fit the wide network only; narrow ones trained on them score worse.
            with on_batch_statistics(student) if self.calibration else nullcontext():
                run.distil(self.steps, before_step=self.sampler(student, self._subnets, run.seed))
        student.activate(space.full_plan())

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        """The best-scoring plan within the limits; subnets scored for tighter limits are candidates as well.

        Raises:
            TrainingDiverged: no subnet gives finite images.
        """
        if self.config is not None:
            return self._given()
        if limits.fits(student.cost(student.space.full_plan())):
            return student.space.full_plan()
        subnets = self._subnets
        scoring = self._scoring(student, limits, run)
        scoring.go_through(*self._generations(scoring, run.seed))
        best = scoring.best()
        if not math.isfinite(scoring.scores[best]):
            raise TrainingDiverged(
                f"None of the subnets within the budget gives finite images after {self.steps} steps. Try a smaller "
                "learning_rate."
            )
        usage = limits.usage(student.cost(subnets.plan(best)))
        _log.info("The best subnet, %s, uses %.1f %% of the budget.", spelled(subnets.named(best)), 100 * usage)
        return subnets.plan(best)

    def recover(self, full: Student, carved: Student, plan: Plan, run: Run) -> None:
        images = self._calibration_images(carved, run)
        if self.calibration and not images and tracks_statistics(carved):
            warnings.warn(
                "The student's norms keep the statistics of the full network, which do not fit its narrower layers, "
                "since there are no images to compute new ones. Pass data='folder/', or calibration=0 to keep them.",
                GansdkWarning,
                stacklevel=2,
            )
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

    def _check_given(self, student: Student, limits: Sequence[Limits]) -> None:
        """Refuse a configuration that is none, or over a budget."""
        cost = student.cost(self._given())
        for one in limits:
            if not one.fits(cost):
                raise InvalidOption(
                    f"config={self.config!r} exceeds the budget: {one.describe(cost)}. Allow more, or pass a smaller "
                    "configuration."
                )

    def _given(self) -> Plan:
        assert self.config is not None
        return plan_of(self._subnets.space, self.config, self._subnets.ranking)

    def _ranking(self, student: Student, run: Run) -> Ranking | None:
        """The order of the channels, measured once, before any training."""
        if self.order == "prefix":
            return None
        notes = run.notes(RANKING)
        return notes[0] if notes else run.note(RANKING, rank(scores_by(self.importance, student, run)))

    def _scoring(self, student: Student, limits: Limits, run: Run) -> Scoring:
        images = self._calibration_images(student, run)

        def score(config: Config) -> float:
            plan = self._subnets.plan(config)
            with ExitStack() as stack:
                for route, part in student.parts().items():
                    stack.enter_context(calibrated(part, student.split(plan)[route], images.get(route, ())))
                return run.score(plan)

        return Scoring(
            student,
            self._subnets,
            limits,
            run,
            score=score,
            measure=f"the mean absolute error on {run.scored_images} held-out images, to the ground truth or else to "
            "the teacher's",
            max_minutes=self._minutes,
        )

    def _generations(self, scoring: Scoring, seed: int) -> tuple[Iterator[list[Config]], int]:
        """The generations, and how many there are."""
        subnets = self._subnets
        if self._search == "exhaustive" or (self._search == "auto" and subnets.count <= self.population):
            return every(subnets.choices, scoring.fits, seed=seed), 1
        settings = Evolution(
            population=self.population,
            iterations=self.iterations,
            parent_ratio=self.parent_ratio,
            mutation_ratio=self.mutation_ratio,
            mutate_prob=self.mutate_prob,
        )
        return evolve(subnets.choices, scoring.fits, scoring.scores, settings=settings, seed=seed), 1 + self.iterations

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
            "The pruner 'once-for-all' trains on images and scores subnets on held-out ones, but there are none. Pass "
            "data='folder/' or data='photos', or use the pruner 'one-step'."
        )
    if run.scored_images < LEAST_IMAGES:
        raise DataError(
            f"The data holds {run.scored_images} image(s) out of training for the search, which is too few to compare "
            f"subnets: at least {LEAST_IMAGES} are needed, for each direction if there are two. Pass more images, or "
            "hold out a larger fraction with the source's option holdout=0.2."
        )


def _config(given: str | int | Sequence[int] | Mapping[str, int]) -> str | list[int] | dict[str, int]:
    """The option as a text, or numbers in a list or by names; `plan_of` says whether it is a configuration."""
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return dict(given)
    return [given] if isinstance(given, int) else list(given)
