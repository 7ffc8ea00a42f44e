"""`train_teacher`: a family's generator from its own data and losses, as something to compress."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gansdk.contracts import MAIN, Pairing, Route
from gansdk.errors import DataError, GansdkWarning, InvalidOption, MissingData, OutputError
from gansdk.evaluation.evaluate import Evaluation, evaluate
from gansdk.events import collected
from gansdk.files import replacing
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.interfaces import Adapter, DataSource, Generator, State, Teacher, Training
from gansdk.modules.inference import inferring
from gansdk.modules.randomness import seeded
from gansdk.modules.weights import fingerprint
from gansdk.pipeline.checks import check_pairing
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.pipeline.result import CompressionResult
from gansdk.pipeline.session import open_session, stamped
from gansdk.recipe import TeacherTraining, takes
from gansdk.registry.isolation import guarded
from gansdk.registry.parts import open_adapter
from gansdk.registry.records import recorded_whole
from gansdk.saving.writing import check_target
from gansdk.toolkit.images import Pixels, picture, to_uint8
from gansdk.training.loop import Loop
from gansdk.training.processes import Processes
from gansdk.validation.paths import check_folder

TEACHER, SAMPLES = "teacher", "samples"
"""Folders in the output folder."""
SHEET_ROWS = 4
SHEET_STEP = 2 * 10**9
"""Images of the sample sheets are training images of a step no training reaches."""


@dataclass(kw_only=True)
class TrainedTeacher:
    """What `train_teacher` gives: one generator per route, each ready to compress."""

    generators: Mapping[Route, Generator]
    """By route: "main", or "A2B" and "B2A" for a CycleGAN."""
    history: list[dict[str, float]]
    settings: dict[str, Any]
    evaluations: Mapping[Route, Evaluation] = field(default_factory=dict)
    """Of the routes that could be compared with a ground truth."""
    warnings: list[str] = field(default_factory=list)

    @property
    def generator(self) -> Generator:
        """The generator of the first route."""
        return next(iter(self.generators.values()))

    def save(self, directory: str | Path) -> dict[Route, Path]:
        """Write a folder that `gansdk.compress` and `gansdk.load` read; with several routes, one below for each.

        Raises:
            OutputError: the folder cannot be written, or holds something else.
        """
        root = check_folder(directory, "directory")
        return {route: self._as_result(route).save(_place(root, route)) for route in self.generators}

    def _as_result(self, route: Route) -> CompressionResult:
        """The generator as a student of itself that nothing was taken from."""
        generator = self.generators[route]
        student = ElasticStudent.of(generator)
        plan = student.space.full_plan()
        return CompressionResult(
            student=student.module,
            teacher=None,
            generator=generator,
            space=student.space,
            plan=plan,
            budget="1x",
            before=student.cost(plan),
            after=student.cost(plan),
            evaluation=self.evaluations.get(route),
            warnings=self.warnings,
            history=self.history,
            settings=self.settings,
            discriminator=generator.discriminator,
        )


@takes(TeacherTraining)
@guarded("train_teacher")
def train_teacher(call: TeacherTraining) -> TrainedTeacher:
    """Train a generator of a family, by the losses and the optimization of its papers.

    {arguments}

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
        TrainingDiverged: a loss or a weight is not finite, or the loss grew tenfold and stayed there.
    """
    processes = Processes(call.device)
    with processes.together(), guarded("train_teacher"):
        return _train(call, processes)


def _train(call: TeacherTraining, processes: Processes) -> TrainedTeacher:
    """One process's part of `train_teacher`."""
    began = time.perf_counter()
    target = None if call.out_dir is None else check_folder(call.out_dir, "out_dir")
    opening: list[str] = []
    with collected(opening):
        job = _open(call, share=processes.share(call.batch_size))
        for check in CHECKS:
            check(job)
    settings = job.settings(processes=processes.count)

    def check_places() -> None:
        if target is not None:
            for route in job.learner.networks():
                check_target(_place(target / TEACHER, route))
            check_folder(target / SAMPLES, "out_dir")

    with open_session(
        call,
        settings,
        target=target,
        run_in=target,
        results=[] if target is None else [target / TEACHER],
        reports=[SAMPLES],
        check_places=check_places,
        processes=processes,
        warnings=opening,
        began=began,
    ) as session:
        loop = session.loop(job.source, seed=call.seed)
        with session.collecting(loop) as noted:
            _learn(loop, job, target)
            trained = TrainedTeacher(
                generators=_trained(job),
                history=loop.history,
                settings=stamped(settings, began=began),
                warnings=noted,
            )
            trained.evaluations = _scored(trained, job.source if call.eval_data is None else call.eval_data)
            session.once(lambda target: trained.save(target / TEACHER))
        session.finish(loop)
    return trained


@dataclass(frozen=True, kw_only=True)
class TeacherJob:
    """A teacher that was requested: everything opened, before any compute is spent; see `CHECKS`."""

    call: TeacherTraining
    generator: Generator
    """What training starts from."""
    known: Mapping[Route, Generator]
    """The same by the routes it is trained on; those of the learner that are not here start fresh."""
    learner: Teacher
    source: DataSource
    share: int
    """Images of a step in this process."""

    @property
    def learning_rate(self) -> float:
        """As requested, or the family's own."""
        own = self.learner.optimisation.learning_rate
        return own if self.call.learning_rate is None else self.call.learning_rate

    def settings(self, *, processes: int) -> dict[str, Any]:
        """JSON facts that decide the result."""
        call, family = self.call, self.generator.adapter
        return {
            "adapter": {"name": family.name, **family.options()},
            "given": {"adapter": recorded_whole(family), "data": recorded_whole(self.source)},
            "architecture": call.architecture,
            "sizes": dict(call.sizes or {}),
            "weights": fingerprint(self.generator.module),
            "data": self.source.describe(),
            "steps": call.steps,
            "batch_size": call.batch_size,
            "patch": call.patch,
            "seed": call.seed,
            "learning_rate": self.learning_rate,
            "processes": processes,
        }


def _open(call: TeacherTraining, *, share: int) -> TeacherJob:
    """Open everything that a call names: the generator or its family, then images, then what learns."""
    generator = _beginning(call.adapter, call.architecture, call.sizes or {}, call.model, call.seed)
    known = _known_routes(generator)
    # A learner of several routes sees the data forward, whichever of them it goes on from.
    ahead = replace(generator, way="forward") if generator.adapter.routes else generator
    source = open_source(call.data, ahead, patch=call.patch, seed=call.seed)
    if call.eval_data is not None:  # opened once more when there is something to score
        open_source(call.eval_data, next(iter(generator.parts.values())), split="all")
    with seeded(call.seed):
        learner = _learner(generator.adapter, known)
    return TeacherJob(call=call, generator=generator, known=known, learner=learner, source=source, share=share)


def _place(root: Path, route: Route) -> Path:
    return root if route == MAIN else root / route


def _beginning(
    adapter: str | Mapping[str, Any] | Adapter, architecture: str, sizes: Mapping[str, Any], model: Any, seed: int
) -> Generator:
    """The generator to train, or those of several routes: as given, or a fresh one from the seed."""
    if model is not None:
        if architecture or sizes:
            given = ", ".join(["architecture"] * bool(architecture) + ["sizes"] * bool(sizes))
            raise InvalidOption(
                f"A model to go on from was given, and {given} too, but it keeps the architecture and sizes it has. "
                "Leave model out to train a fresh network, or the others to go on."
            )
        return open_generator(model, adapter)
    family = open_adapter(adapter)
    with seeded(seed):
        module = family.create(architecture, **sizes)
    return open_generator(module, family)


def _known_routes(generator: Generator) -> Mapping[Route, Generator]:
    """What there is to begin with, by the routes it is trained on."""
    own = [route for route, way in generator.adapter.routes.items() if way == generator.way]
    return generator.routes or {own[0] if own else MAIN: generator}


def _learner(family: Adapter, known: Mapping[Route, Generator]) -> Teacher:
    if not family.routes:
        return family.learner(known[MAIN].module, discriminator=known[MAIN].discriminator)
    return family.joint_learner(
        {route: part.module for route, part in known.items()},
        discriminators={route: part.discriminator for route, part in known.items() if part.discriminator is not None},
    )


def warn_of_fresh_routes(job: TeacherJob) -> None:
    """Say which routes start fresh beside those that training goes on from."""
    fresh = [route for route in job.learner.networks() if route not in job.known]
    if job.call.model is not None and fresh:
        warnings.warn(
            f"Training goes on from {' and '.join(job.known)}, but {' and '.join(fresh)} starts from fresh weights. "
            "Give the folder that holds all of them, or a mapping, to go on with all.",
            GansdkWarning,
            stacklevel=4,
        )


def check_has_targets(job: TeacherJob) -> None:
    """The images show what the teacher should make."""
    if job.source.pairing is Pairing.INPUTS_ONLY:
        layout = job.source.describe().get("source", type(job.source).__name__)
        wanted = (
            "pairs: A and B side by side in the files of train, folders A and B, or label maps beside photographs"
            if job.learner.needs_pairs
            else "both domains, in folders trainA and trainB"
        )
        raise MissingData(
            f"A teacher learns from target images, but this data (read as {layout!r}) has only inputs. "
            f"Give {wanted}; or name the layout: {{'name': 'aligned', 'path': ...}}."
        )


def check_pairs(job: TeacherJob) -> None:
    """Images have the targets that the family learns from."""
    check_pairing(job.source, job.generator.adapter.name, needs_pairs=job.learner.needs_pairs)


def check_images(job: TeacherJob) -> None:
    """The learner takes the images that it will see in a step."""
    for batch in job.source.examples(seed=job.call.seed):
        job.learner.check(batch.of(job.share))


CHECKS: tuple[Callable[[TeacherJob], None], ...] = (
    check_has_targets,
    check_pairs,
    check_images,
    warn_of_fresh_routes,
)
"""In this order, from the cheapest on."""


def _learn(loop: Loop, job: TeacherJob, target: Path | None) -> None:
    learner, steps = job.learner, job.call.steps
    learner.bind(Training(steps=steps, rng=loop.rng, processes=loop.processes, learning_rate=job.learning_rate))

    def load_state(state: State) -> None:
        learner.load_state_dict(state["teacher"])

    def show(step: int) -> None:
        if target is not None and loop.processes.is_main:
            _write_sheet(_sheet(learner, loop), target / SAMPLES / f"step-{step:07d}.png")

    with guarded("teach", lambda: learner.networks().values()):
        loop.train(
            "teach",
            steps,
            step=learner.learn,
            state=lambda: {"teacher": learner.state_dict()},
            load_state=load_state,
            networks=lambda: learner.networks().values(),
            saved=show,
        )


def _trained(job: TeacherJob) -> dict[Route, Generator]:
    critics = job.learner.discriminators()
    trained = {}
    for route, network in job.learner.networks().items():
        begun = job.known.get(route) or next(iter(job.known.values()))  # a fresh one is of the same family and size
        trained[route] = Generator(
            module=network.cpu().eval(),
            contract=begun.contract,
            adapter=begun.adapter,
            taps=begun.taps,
            source=f"trained {begun.adapter.name}{'' if route == MAIN else f' {route}'}",
            way=begun.adapter.routes.get(route, "forward"),
            discriminator=critics.get(route) and {name: t.detach().cpu() for name, t in critics[route].items()},
        )
    return trained


def _scored(trained: TrainedTeacher, data: Any) -> dict[Route, Evaluation]:
    """The first route's quality against the ground truth of paired data; nothing, with a warning, if it has none."""
    route, generator = next(iter(trained.generators.items()))
    source = open_source(data, generator, split="all")
    if source.pairing is not Pairing.PAIRED:
        return {}
    try:
        return {route: evaluate(generator.module, teacher=None, source=source, contract=generator.contract)}
    except DataError as error:
        warnings.warn(f"The teacher was not scored: {error}", GansdkWarning, stacklevel=4)
        return {}


def _sheet(learner: Teacher, loop: Loop) -> Pixels:
    """Rows of input, image and target, from every route beside one another."""
    assert loop.source is not None
    batch = loop.processes.to_device(loop.source.train_batch(SHEET_ROWS, seed=loop.seed, step=SHEET_STEP))
    x, y = batch.inputs[MAIN], batch.targets[MAIN]
    columns: list[list[Pixels]] = []
    for number, (route, network) in enumerate(learner.networks().items()):
        contract = learner.contracts[route]
        shown, other = (x, y) if number == 0 else (y, x)
        with inferring(network, contract):
            made = network(shown)
        columns.append([picture(image, contract.input_range) for image in shown])
        columns.append([to_uint8(image, contract.output_range) for image in made])
        if batch.paired:
            columns.append([picture(image, contract.output_range) for image in other])
    return np.concatenate([np.concatenate(_alike(row), axis=1) for row in zip(*columns, strict=True)])


def _alike(row: Sequence[Pixels]) -> list[Pixels]:
    """In colour, and small inputs in large pixels, as high as what is made of them."""
    height = max(len(image) for image in row)
    return [_rgb(image).repeat(height // len(image), axis=0).repeat(height // len(image), axis=1) for image in row]


def _rgb(image: Pixels) -> Pixels:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _write_sheet(sheet: Pixels, path: Path) -> None:
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            Image.fromarray(sheet).save(file, format="PNG")
    except OSError as error:
        raise OutputError(
            f"The sample sheet '{path}' cannot be written: {error.strerror or error}. The training up to there is "
            "kept: free some space or make the folder writable, and run it again."
        ) from error
