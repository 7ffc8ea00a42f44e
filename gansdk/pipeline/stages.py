"""The stages of one student, from the teacher to its scores; `compress` and `ladder` call them in order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost, Limits
from gansdk.channels.groups import Plan, Space
from gansdk.channels.select import TARGET_USE
from gansdk.contracts import Contract, Route
from gansdk.errors import (
    BudgetUnreachable,
    ContractError,
    DataError,
    GansdkWarning,
    TrainingDiverged,
    VerificationError,
)
from gansdk.evaluation.evaluate import Evaluation, evaluate
from gansdk.evaluation.findings import TEACHER, Finding, warn_of
from gansdk.evaluation.self_checks import SelfCheck
from gansdk.events import Carved, PlanFound
from gansdk.generators.joint import source_of, student_of, teacher_of, views_of
from gansdk.interfaces import Metric, State, Student
from gansdk.modules.randomness import seeded
from gansdk.pipeline.job import Job
from gansdk.registry.isolation import returned
from gansdk.training.loop import Loop, continuing
from gansdk.training.run import CompressionRun
from gansdk.training.run_folder import damaged

TRACED, CARVED = "teacher -> traced copy", "plan -> carved"
EQUAL = 1e-4
"""Two forms of one student may differ by this share of the output range: float rounding, nothing else."""


def make_student(job: Job) -> tuple[Student, dict[Route, Cost]]:
    """The student at full size, and the cost of the generator of each route, which after a transform is another."""
    student = student_of(job.origin, fresh=job.origin is not job.generator)
    given = student if job.origin is job.generator else student_of(job.generator)
    return student, {route: part.cost(part.space.full_plan()) for route, part in given.parts().items()}


def start(job: Job, loop: Loop, student: Student, rung: str) -> CompressionRun:
    """The run of one student; see `CompressionRun` for `rung`.

    Raises:
        DataError: its teachers cannot learn from images of this size.
    """
    generator = job.generator
    reference = teacher_of(generator, loop.processes.device)
    with seeded(job.seed):  # fresh teachers follow the seed
        teachers = job.method.regime.teachers(reference, generator.adapter)
    if job.source is not None and job.method.regime.trains_teachers:
        for batch, teacher in product(source_of(job.source, generator).examples(seed=job.seed), teachers):
            teacher.check(batch.of(loop.share))
    return CompressionRun(
        loop,
        generator=generator,
        student=student,
        teacher=reference,
        teachers=teachers,
        task=job.task,
        regime=job.method.regime,
        terms=job.method.terms,
        learning_rate=job.learning_rate,
        rung=rung,
        scored_on=() if job.scored_on is None else tuple(views_of(job.scored_on, generator).values()),
        scored_images=job.method.pruner.scored_images,
    )


def check_traced(job: Job, run: CompressionRun, student: Student) -> float:
    """Largest difference between the images of what the student is made from and its own, still at full size."""
    student.train(False)
    return max(_traced_error(job, run, student, route) for route in student.contracts)


def _traced_error(job: Job, run: CompressionRun, student: Student, route: Route) -> float:
    contract = student.contracts[route]
    x = _example(job, student, contract)
    with torch.no_grad():
        images = [part.observe(x, route=route).image for part in (student, run.teacher, run.teacher)]
    image, original, again = images
    assert image is not None
    assert original is not None
    assert again is not None
    if not original.isfinite().all():
        raise ContractError(
            "The generator gives NaN or infinite values for noise within its input range, so there is nothing to "
            "imitate. Check its weights, and the contract's input_range."
        )
    if not torch.equal(original, again):
        raise ContractError(
            "The generator is not deterministic: two runs on the same input differ by up to "
            f"{float((original - again).abs().max()):.3g}. Pass noise as an input channel or a fixed buffer, and keep "
            "no state between calls."
        )
    if job.origin is not job.generator:
        original = teacher_of(job.origin, x.device).observe(x, route=route).image
        assert original is not None
    return _proved(contract, TRACED, image, original)


def find_plan(job: Job, run: CompressionRun, student: Student, limits: Sequence[Limits], own: Limits) -> Plan:
    """The pruner's plan within the job's `own` limits, or the one an earlier start of this run found.

    `limits` are those of all budgets, for what the pruner does once for all of them.
    """
    run.enter("prepare", student)
    job.method.pruner.prepare(student, limits, run)
    run.enter("search", student)
    known = run.load("search")
    if known is not None:
        return _known_plan(known, run, student, own)
    run.begin("search")
    plan = returned(job.method.pruner.search(student, own, run), Plan, job.method.pruner, "search")
    check_plan(plan, student.space, type(job.method.pruner).__name__)
    plan.check(student.space)
    cost = student.cost(plan)
    if not own.fits(cost):
        raise BudgetUnreachable(
            f"The pruner {type(job.method.pruner).__name__} returned a plan of {own.describe(cost)}, over the budget "
            f"{job.budget}. This is a fault of the pruner.",
            floor={"macs": cost.macs, "params": cost.params, "size": cost.bytes},
        )
    run.emit(PlanFound(widths=plan.widths(student.space), cost=cost))
    # A pruner may have trained the student while it searched, so the weights belong to the plan.
    told = {"told": run.searched, "compared": run.compared}
    run.save("search", {"plan": plan.to_dict(), "student": student.state_dict(), **told})
    return plan


def warn_of_plan(plan: Plan, student: Student, budget: Budget, others: Mapping[str, Plan]) -> None:
    """Say before any training if a budget takes nothing away, or has the plan of another one; `others` by budget."""
    if plan == student.space.full_plan():
        warnings.warn(
            f"The budget {str(budget)!r} allows the whole network, so nothing was pruned. Use a "
            "smaller budget for a smaller student.",
            GansdkWarning,
            stacklevel=2,
        )
    if same := [other for other, known in others.items() if known == plan]:
        warnings.warn(
            f"The budget {str(budget)!r} has the same plan as {' and '.join(map(repr, same))}: these students differ "
            "in their training at most. Omit one of them, or give the pruner more widths to choose from.",
            GansdkWarning,
            stacklevel=2,
        )


def why_unused(student: Student, plan: Plan, limits: Limits) -> str:
    """What keeps a plan from using its budget to 95 %; empty if nothing does."""
    if limits.usage(student.cost(plan)) >= TARGET_USE:
        return ""
    wider: dict[str, float] = {}
    for group in student.space.prunable:
        kept = set(plan[group.name])
        if kept and len(kept) < group.size:
            keep = tuple(sorted({*kept, min(set(range(group.size)) - kept)}))
            wider[group.name] = limits.usage(student.cost(Plan({**plan, group.name: keep})))
    if not wider:
        return "nothing was taken out"
    fitting = [name for name, usage in wider.items() if usage <= 1]
    if fitting:
        groups = "1 group" if len(fitting) == 1 else f"{len(fitting)} groups"
        return f"{groups} could keep one more channel within the budget"
    least = min(wider, key=lambda name: wider[name])
    return f"one more channel of any group exceeds the budget; with one of {least!r}, {wider[least]:.1%} would be used"


def _known_plan(state: State, run: CompressionRun, student: Student, limits: Limits) -> Plan:
    with continuing("search"):
        plan = Plan.from_dict(state["plan"])
        student.load_state_dict(state["student"])
        run.searched = list(state["told"])
        run.compared = dict(state["compared"])
    if not limits.fits(student.cost(plan)):
        raise damaged("search.pt", ValueError("its plan exceeds the budget"))
    return plan


def check_plan(plan: Plan, space: Space, pruner: str) -> None:
    """Refuse a plan that names no channels of this generator, before it is costed and carved."""
    for name, kept in plan.items():
        group = space.by_name.get(name)
        fault = (
            "which does not exist"
            if group is None
            else f"which is frozen ({group.frozen})"
            if group.frozen and len(kept) != group.size
            else f"with {list(kept)[:8]} instead of ascending ids below {group.size}, {group.floor} or more of them"
            if list(kept) != sorted({i for i in kept if 0 <= i < group.size}) or len(kept) < group.floor
            else ""
        )
        if fault:
            raise ContractError(
                f"The pruner {pruner} returned a plan for group {name!r}, {fault}. This is a fault of the pruner."
            )


def carve(job: Job, run: CompressionRun, student: Student, plan: Plan, before: Cost) -> tuple[Student, float]:
    """The carved student, proved equal to the full network run under the plan, and to its predicted cost."""
    carved = student.carve(plan, inherit=job.method.pruner.inherit)
    exact = carved if job.method.pruner.inherit == "all" else student.carve(plan)
    student.train(False)
    exact.train(False)
    student.activate(plan)
    error = max(_carved_error(job, student, exact, route) for route in student.contracts)
    student.activate(student.space.full_plan())
    after, predicted = carved.cost(carved.space.full_plan()), student.cost(plan)
    real = sum(p.numel() for p in carved.parameters())
    if after != predicted or real != after.params:
        raise VerificationError(
            f"The carved student has {real} parameters, {predicted.params} were predicted.",
            stage="cost",
            max_error=abs(real - predicted.params),
        )
    run.emit(Carved(cost=after, full=before, max_error=error))
    return carved, error


def _carved_error(job: Job, student: Student, carved: Student, route: Route) -> float:
    contract = student.contracts[route]
    x = _example(job, student, contract)
    with torch.no_grad():
        expected, found = student.observe(x, route=route).image, carved.observe(x, route=route).image
    assert expected is not None
    assert found is not None
    if not (found.isfinite().all() and expected.isfinite().all()):
        raise TrainingDiverged(
            "The student's images are not finite once its channels are removed: the training of the search broke its "
            "weights. Try a smaller learning_rate."
        )
    return _proved(contract, CARVED, found, expected)


def recover(job: Job, run: CompressionRun, full: Student, carved: Student, plan: Plan) -> None:
    """Let the pruner repair the carved student; a run that is continued has its repaired weights already."""
    run.enter("recover", carved)
    state = run.load("recover")
    if state is not None:
        with continuing("recover"):
            carved.load_state_dict(state["student"])
        return
    job.method.pruner.recover(full, carved, plan, run)
    run.loop.processes.share_weights(carved.module)
    run.save("recover", {"student": carved.state_dict()})


def start_checks(job: Job, run: CompressionRun) -> dict[Route, SelfCheck]:
    """What the student will check itself by, and a warning before any training where its teacher is at fault."""
    sources = {} if job.scored_on is None else views_of(job.scored_on, job.generator)
    teachers = run.teacher.parts()
    checks = {
        route: SelfCheck(
            teachers[route], sources.get(route), part.contract, device=run.loop.processes.device, seed=job.seed
        )
        for route, part in job.generator.parts.items()
    }
    warn_of([replace(check.of_teacher(), route=route) for route, check in checks.items()])
    return checks


def finish_checks(
    checks: Mapping[Route, SelfCheck], job: Job, run: CompressionRun, student: Student
) -> dict[Route, list[Finding]]:
    """What every route's student found of itself, with a warning for all that is out of line."""
    imitates = not job.method.regime.trains_teachers
    found: dict[Route, list[Finding]] = run.loop.processes.agree(
        {
            route: [replace(finding, route=route) for finding in checks[route].after(part, imitates=imitates)]
            for route, part in student.parts().items()
        }
    )
    warn_of([finding for findings in found.values() for finding in findings if finding.check != TEACHER])
    return found


def score(run: CompressionRun, job: Job, student: Student, metrics: Sequence[Metric]) -> dict[Route, Evaluation]:
    """Student and teacher by one protocol; nothing, with a warning, where there is nothing to score on."""
    run.begin("evaluate")
    if job.scored_on is None:
        warnings.warn("No images were given, so the student was not scored.", GansdkWarning, stacklevel=2)
        return {}
    students, teachers = student.networks(), run.teacher.networks()
    found: dict[Route, Evaluation] = {}
    for route, source in views_of(job.scored_on, job.generator).items():
        try:
            found[route] = evaluate(
                students[route],
                teacher=teachers[route],
                source=source,
                contract=student.contracts[route],
                device=run.loop.processes.device,
                metrics=metrics,
                beside=job.method.regime.learned() if len(students) == 1 else None,
            )
        except (DataError, ContractError) as error:  # an image with NaN, which the checks say more of, costs no student
            warnings.warn(f"The student was not scored: {error}", GansdkWarning, stacklevel=2)
    return found


def _example(job: Job, student: Student, contract: Contract) -> Tensor:
    """Noise within the contract's range, on the student's device: (1, channels_in, H, W)."""
    return contract.noise(job.seed).to(next(student.parameters()).device)


def _proved(contract: Contract, stage: str, image: Tensor, expected: Tensor) -> float:
    """Largest difference of two images that should be one.

    Raises:
        VerificationError: it is more than rounding.
    """
    low, high = contract.output_range
    error = float((image - expected).abs().max())
    # A network far outside its contract's range has rounding errors in proportion.
    if not error <= EQUAL * max(high - low, float(expected.abs().max())):
        raise VerificationError(
            f"{stage}: the images differ by {error:.3g}, more than rounding explains. The generator does something "
            "the trace does not see; please report its layers.",
            stage=stage,
            max_error=error,
        )
    return error
