"""`train_teacher`: a family's generator from its own data and losses, as something to compress."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gansdk.adapter import Adapter, Generator
from gansdk.contracts import MAIN, Pairing, Route
from gansdk.errors import DataError, GansdkWarning
from gansdk.evaluate import Evaluation, evaluate, inferring
from gansdk.events import Event, Finished
from gansdk.images import Pixels, picture, to_uint8
from gansdk.interfaces import State, Teacher, Training
from gansdk.loop import Loop
from gansdk.opening import check_pairing, open_adapter, open_generator, open_source
from gansdk.options import check_choices, check_numbers
from gansdk.processes import Processes
from gansdk.result import CompressionResult
from gansdk.routes import the_only
from gansdk.run_folder import RunFolder
from gansdk.saving import check_target, fingerprint
from gansdk.student import ElasticStudent

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
        root = Path(directory)
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


def train_teacher(
    adapter: str | Mapping[str, Any] | Adapter,
    data: Any,
    *,
    architecture: str = "",
    sizes: Mapping[str, Any] | None = None,
    model: Any = None,
    steps: int = 10_000,
    batch_size: int = 1,
    eval_data: Any = None,
    patch: int | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    learning_rate: float | None = None,
    observers: Sequence[Callable[[Event], None]] = (),
) -> TrainedTeacher:
    """Train a generator of a family from scratch, by the losses and optimisation of its papers.

    Args:
        adapter: the family: "pix2pix", "cyclegan", "gaugan", {"name": ..., option: value}, or an adapter.
        data: where images come from, as for `gansdk.compress`.
        architecture: one of the family's, such as "inception" for CAT's teachers; its usual one if left out.
        sizes: what differs from the architecture's usual sizes: {"ngf": 32, "channels_in": 12}.
        model: a generator of the family to go on from, instead of a fresh one.
        steps: optimiser steps; the papers' schedules, given in epochs, are spread over them.
        batch_size: images a step, over all processes.
        eval_data: what the trained generator is scored on; left out, the held-out part of `data`.
        patch: side of the training images in pixels; the source's own choice if left out.
        seed: of everything random; the same seed on the same machine gives the same generator.
        out_dir: where the run, sample sheets and the teacher go; left out, nothing is written.
        resume: "auto" continues a run found in `out_dir`; "never" moves it aside.
        device: "auto", or "cpu".
        learning_rate: the generator's; the family's own if left out.
        observers: called with every event of the run.

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
        TrainingDiverged: a loss or a weight is not finite, or the loss grew tenfold and stayed there.
    """
    began = time.perf_counter()
    check_numbers(
        steps=steps, seed=seed, batch_size=batch_size, patch=patch, learning_rate=learning_rate, least_steps=1
    )
    check_choices(resume=resume, device=device)
    generator = _beginning(adapter, architecture, sizes or {}, model, seed)
    family = generator.adapter
    source = open_source(data, generator, patch=patch, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = family.learner(generator.module, discriminator=generator.discriminator)
    check_pairing(source, family.name, needs_pairs=learner.needs_pairs)
    rate = learner.optimisation.learning_rate if learning_rate is None else learning_rate
    processes = Processes(device)
    processes.share(batch_size)
    settings = {
        "adapter": {"name": family.name, **family.options()},
        "architecture": architecture,
        "sizes": dict(sizes or {}),
        "weights": fingerprint(generator.module),
        "data": source.describe(),
        "steps": steps,
        "batch_size": batch_size,
        "patch": patch,
        "seed": seed,
        "learning_rate": rate,
        "processes": processes.count,
    }
    target = None if out_dir is None else Path(out_dir)
    folder = RunFolder(target if processes.is_main else None, settings, resume=resume)
    if target is not None and processes.is_main:
        for route in learner.networks():
            check_target(_place(target / "teacher", route))
    processes.wait()
    loop = Loop(
        source=source, processes=processes, folder=folder, seed=seed, batch_size=batch_size, observers=observers
    )
    _learn(loop, learner, steps, rate, target)
    trained = TrainedTeacher(
        generators=_trained(generator, learner),
        history=loop.history,
        settings={**settings, "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__},
    )
    trained.evaluations, trained.warnings = _scored(trained, source if eval_data is None else eval_data)
    if target is not None and processes.is_main:
        trained.save(target / "teacher")
    processes.wait()
    loop.emit(Finished(seconds=time.perf_counter() - began, output=str(target or "")))
    return trained


def _place(root: Path, route: Route) -> Path:
    return root if route == MAIN else root / route


def _beginning(
    adapter: str | Mapping[str, Any] | Adapter, architecture: str, sizes: Mapping[str, Any], model: Any, seed: int
) -> Generator:
    """The generator to train: the given one, or a fresh one from the seed."""
    if model is not None:
        return the_only(open_generator(model, adapter))
    family = open_adapter(adapter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = family.create(architecture, **sizes)
    return open_generator(module, family)


def _learn(loop: Loop, learner: Teacher, steps: int, rate: float, target: Path | None) -> None:
    learner.bind(Training(steps=steps, rng=loop.rng, processes=loop.processes, learning_rate=rate))

    def load_state(state: State) -> None:
        learner.load_state_dict(state["teacher"])

    def show(step: int) -> None:
        if target is not None and loop.processes.is_main:
            _write_sheet(_sheet(learner, loop), target / "samples" / f"step-{step:07d}.png")

    loop.train(
        "teach",
        steps,
        step=learner.learn,
        state=lambda: {"teacher": learner.state_dict()},
        load_state=load_state,
        networks=lambda: learner.networks().values(),
        saved=show,
    )


def _trained(generator: Generator, learner: Teacher) -> dict[Route, Generator]:
    critics = learner.discriminators()
    return {
        route: Generator(
            module=network.cpu().eval(),
            contract=generator.contract,
            adapter=generator.adapter,
            taps=generator.taps,
            source=f"trained {generator.adapter.name}{'' if route == MAIN else f' {route}'}",
            way=generator.adapter.routes.get(route, "forward"),
            discriminator=critics.get(route) and {name: t.detach().cpu() for name, t in critics[route].items()},
        )
        for route, network in learner.networks().items()
    }


def _scored(trained: TrainedTeacher, data: Any) -> tuple[dict[Route, Evaluation], list[str]]:
    """The first route's quality against the ground truth of paired data."""
    route, generator = next(iter(trained.generators.items()))
    source = open_source(data, generator, split="all")
    if source.pairing is not Pairing.PAIRED:
        return {}, []
    try:
        found = evaluate(generator.module, teacher=None, source=source, contract=generator.contract)
    except DataError as error:
        message = f"The teacher was not scored: {error}"
        warnings.warn(message, GansdkWarning, stacklevel=3)
        return {}, [message]
    return {route: found}, []


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

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
