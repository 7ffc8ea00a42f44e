"""The command line. Results go to stdout, everything else to stderr; torch is imported by the commands that need it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.rich_utils import rich_format_error

from gansdk.cli.options import OUT, part_of, parts_of, with_fields
from gansdk.cli.printing import (
    add_row,
    cost_table,
    new_table,
    print_json,
    print_outcome,
    print_quality,
    print_rows,
    say,
    shown_if_poor,
    working,
)
from gansdk.cli.wording import as_options, flags_of, worded
from gansdk.errors import GansdkError, GansdkWarning, PluginLoadError
from gansdk.recipe import Rungs, TeacherTraining
from gansdk.runtime.launch import is_main
from gansdk.runtime.signals import stoppable
from gansdk.text import quoted, readable, visible_json

if TYPE_CHECKING:
    from gansdk.registry.description import Description
    from gansdk.registry.discovery import Registry, Row

PLUGIN_CHECK_FAILED = 5
READER_GONE = 1
"""As rich and typer exit when they find it."""
_UsageError: Any = typer.BadParameter.__mro__[2]
"""click's ClickException; of click itself or of typer's copy of it, by typer's version."""

app = typer.Typer(
    name="gansdk",
    help="Make image generators small: prune channels to a budget, then distil the generator into what is left.",
    epilog="Exit codes: 0 done, 2 wrong input, 3 budget out of reach, 4 floor missed, 5 check failed, 6 plugin failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(help="A checkpoint, the folder of a saved student, 'demo', or a JSON object with one per route."),
]
BudgetOption = Annotated[
    str, typer.Option("--budget", "-b", help='What the student may cost: "4x", "macs<=2.6G", "params<=25%,size<=5MB".')
]
PrunerOption = Annotated[str, typer.Option("--pruner", help="A pruner that `gansdk plugins` lists.")]
PrunerOptions = Annotated[
    list[str], typer.Option("--pruner-option", metavar="KEY=VALUE", help="Option of the pruner; repeatable.")
]
MetricNames = Annotated[
    list[str], typer.Option("--metric", help="Further metrics: kid, fid, miou or a plugin's; repeatable.")
]
MetricOptions = Annotated[
    list[str],
    typer.Option(
        "--metric-option", metavar="NAME.KEY=VALUE", help="Option of a metric, such as kid.weights=FILE; repeatable."
    ),
]
AdapterOptions = Annotated[
    list[str], typer.Option("--adapter-option", metavar="KEY=VALUE", help="Option of the adapter; repeatable.")
]
AdapterName = Annotated[str, typer.Option("--adapter", help="The generator's family; 'auto' recognizes it.")]
Transform = Annotated[
    str | None,
    typer.Option("--transform", help="An architecture of the family for the student to start from, such as 'mobile'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; our own errors become one paragraph on stderr.

    A signal ends it with one line, and so does a reader of its output that goes away without any.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with stoppable(words, for_good=arguments is None), _speaking():
        sys.exit(_run(words))


def _run(arguments: list[str]) -> int:
    """The exit code."""

    def in_options(text: object) -> str:
        command = arguments[0] if arguments else ""
        commands: Any = typer.main.get_command(app)
        return as_options(str(text), flags_of(commands.commands[command]) if command in commands.commands else {})

    try:
        # Not in click's standalone mode, which shows what was typed as it is.
        with worded(in_options):
            code = app(args=arguments, prog_name="gansdk", standalone_mode=False)
        sys.stdout.flush()
    except GansdkError as error:
        print(f"{type(error).__name__}: {in_options(error)}", file=sys.stderr)
        return int(error.exit_code)
    except GansdkWarning as warning:  # where warnings are errors
        print(f"{type(warning).__name__}: {in_options(warning)}", file=sys.stderr)
        return GansdkError.exit_code
    except typer.Abort:
        return 1
    except _UsageError as error:  # it quotes what was typed
        error.message = readable(error.message or "")
        rich_format_error(error)
        return int(error.exit_code)
    return code if isinstance(code, int) else 0


@contextmanager
def _speaking() -> Iterator[None]:
    """Of several processes the main one alone prints results. Where nobody reads them any more, that is the end."""
    with ExitStack() as stack:
        if not is_main():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        except BrokenPipeError:
            # What is still to be written goes nowhere, or Python complains of it at exit.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            sys.exit(READER_GONE)


def _version(is_requested: bool) -> None:
    if is_requested:
        from gansdk import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for the student and its report.")] = Path(
        "gansdk-demo"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compress the bundled teacher to a quarter of its MACs, on photographs that come with the dependencies.

    About two minutes on two CPU cores. Exits with 4 if the student is no better than bicubic enlargement.
    """
    from gansdk.cli.progress import ProgressObserver
    from gansdk.pipeline.demo import STEPS, run_demo

    with shown_if_poor(as_json=as_json):
        with working() as console, ProgressObserver(console) as progress:
            result = run_demo(out, steps=steps or STEPS, observers=(progress,))
        print_outcome(result, as_json=as_json)


@app.command()
def inspect(
    model: Model,
    budget: Annotated[str | None, typer.Option("--budget", "-b", help="A budget; check whether it can be met.")] = None,
    adapter: AdapterName = "auto",
    adapter_option: AdapterOptions = [],  # noqa: B006 - typer copies it
    transform: Transform = None,
    as_json: AsJson = False,
) -> None:
    """Show what a generator costs, what can be pruned, and what is frozen and why. Trains nothing, needs no data."""
    with working():
        from gansdk.pipeline.inspection import inspect as look

        inspection = look(model, budget, adapter=part_of(adapter, adapter_option), transform=transform)
    if as_json:
        return print_json(inspection.to_dict())
    console = Console()
    say(console, f"{inspection.name}, adapter {inspection.adapter}")
    console.print(cost_table(inspection.cost, inspection.floor, "smallest"))
    groups = new_table("channel group", "channels", "frozen because")
    for group in inspection.groups:
        add_row(groups, group["name"], str(group["size"]), group["frozen"])
    console.print(groups)
    if inspection.knobs:
        knobs = new_table("knob of a search", "choices", "channels of each group")
        for knob in inspection.knobs:
            sets = ", ".join(f"{group} x{factor}" for group, factor in knob["groups"].items())
            add_row(knobs, knob["name"], " ".join(map(str, knob["choices"])), sets)
        console.print(knobs)
    for line in (*inspection.notes, inspection.verdict):
        say(console, line)


@app.command()
def plan(
    model: Model,
    budget: BudgetOption,
    adapter: AdapterName = "auto",
    adapter_option: AdapterOptions = [],  # noqa: B006 - typer copies it
    pruner: PrunerOption = "one-step",
    pruner_option: PrunerOptions = [],  # noqa: B006 - typer copies it
    transform: Transform = None,
    as_json: AsJson = False,
) -> None:
    """Choose channels for a budget from the weights only. `compress` with data ranks them better."""
    with working():
        from gansdk.pipeline.inspection import plan as choose

        preview = choose(
            model,
            budget,
            part_of(pruner, pruner_option),
            adapter=part_of(adapter, adapter_option),
            transform=transform,
        )
    if as_json:
        return print_json(preview.to_dict())
    console = Console()
    widths = new_table("channel group", "kept", "of")
    for name, (width, size) in preview.widths.items():
        add_row(widths, name, str(width), str(size))
    console.print(widths)
    console.print(cost_table(preview.before, preview.after, "after"))
    say(console, f"{preview.used:.1%} of the budget {preview.budget} is used")


@app.command()
@with_fields(Rungs)
def compress(values: dict[str, Any], *, as_json: AsJson = False) -> None:
    """Compress a generator into one or several small students, and write them with a report."""
    from gansdk.budget.order import read_budgets
    from gansdk.cli.progress import ProgressObserver

    values = {"out_dir": OUT, **values}
    for name, described in (("model", "argument MODEL"), ("budgets", "option --budget")):
        if name not in values:
            raise typer.BadParameter(f"Missing {described}. Pass it, or a --recipe that sets it.")
    budgets = read_budgets(values.pop("budgets"))
    with shown_if_poor(as_json=as_json):
        with working() as console, ProgressObserver(console) as progress:
            import gansdk

            run: Any = gansdk.ladder if len(budgets) > 1 else gansdk.compress
            values |= {"budgets": budgets} if len(budgets) > 1 else {"budget": budgets[0]}
            outcome = run(**values, observers=(progress,))
        print_outcome(outcome, as_json=as_json)


@app.command("train-teacher")
@with_fields(TeacherTraining)
def train_teacher(values: dict[str, Any], *, as_json: AsJson = False) -> None:
    """Train a generator with its family's losses, as a teacher to compress."""
    from gansdk.cli.progress import ProgressObserver

    values = {"out_dir": OUT, **values}
    with working() as console, ProgressObserver(console) as progress:
        from gansdk.pipeline.train_teacher import train_teacher as train

        trained = train(**values, observers=(progress,))
    qualities = [quality for evaluation in trained.evaluations.values() for quality in evaluation.qualities]
    if as_json:
        return print_json({"settings": trained.settings, "quality": [asdict(item) for item in qualities]})
    if qualities:
        print_quality(Console(), qualities)
    say(Console(), f"Teacher: {values['out_dir'] / 'teacher'}")


@app.command("eval")
def evaluate_student(
    student: Annotated[str, typer.Argument(help="The folder of a saved student, or a checkpoint.")],
    data: Annotated[str, typer.Option(help="A folder of images, 'photos', or a source as JSON.")],
    reference: Annotated[str | None, typer.Option(help="A teacher to score as well.")] = None,
    metric: MetricNames = [],  # noqa: B006 - typer copies it
    metric_option: MetricOptions = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Score a student, and its teacher if given, on images."""
    with working():
        from gansdk.evaluation.evaluate import evaluate
        from gansdk.evaluation.metrics import check_metrics
        from gansdk.generators.joint import the_only
        from gansdk.pipeline.opening import open_generator, open_source
        from gansdk.registry.parts import open_metrics

        metrics = open_metrics(parts_of(metric, metric_option))
        generator = the_only(open_generator(student))
        source = open_source(data, generator, split="all")
        check_metrics(metrics, generator.contract, source)
        scores = evaluate(
            generator.module,
            teacher=None if reference is None else the_only(open_generator(reference)).module,
            source=source,
            contract=generator.contract,
            metrics=metrics,
        )
    if as_json:
        return print_json({"quality": [asdict(item) for item in scores.qualities], "per_image": scores.per_image})
    print_quality(Console(), scores.qualities)


@app.command()
def export(
    student: Annotated[str, typer.Argument(help="The folder of a saved student, or a checkpoint.")],
    format: Annotated[str, typer.Argument(help="'onnx' or 'pt2'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file; default: STUDENT.FORMAT next to the student.")
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Write the file with a warning even if its images differ.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export a student for other runtimes, and compare it with the original on three batches of different sizes.

    The batches are held-out images saved in the student's folder, or noise if there are none.
    """
    with working():
        from gansdk.generators.joint import the_only
        from gansdk.pipeline.opening import open_generator
        from gansdk.saving.export import check_format
        from gansdk.saving.export import export as write
        from gansdk.saving.reading import inputs_of

        check_format(format)
        generator = the_only(open_generator(student))
        path = out or _beside(Path(student)).with_suffix(f".{format}")
        record = write(
            generator.module, generator.contract, format, path, inputs=inputs_of(generator), check=not unchecked
        )
    if as_json:
        return print_json({"path": str(path), **record})
    on = "images" if isinstance(record["inputs"], list) else record["inputs"]
    say(Console(), f"{path}: largest error {record['max_error']:.1e} on {on}")


@app.command()
def plugins(
    name: Annotated[str | None, typer.Argument(help="A part, to show its options, defaults, paper and needs.")] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="Show which parts work together if there are images.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Import every part; exit with 5 if one fails.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the installed adapters, pruners, distillers, sources and metrics, or describe one of them.

    With --compat or --check, NAME limits the list to the rows that contain it.
    """
    from gansdk.registry.description import descriptions
    from gansdk.registry.discovery import registry

    if compat and check:
        raise typer.BadParameter("--compat and --check are two different lists; pass only one of them.")
    with working():
        parts = registry()
        listing = parts.listing()
        if name is not None:
            listing = tuple(row for row in listing if name in (row.name, f"{row.origin}:{row.name}"))
            if not listing:
                raise typer.BadParameter(f"No part is called {quoted(name)}. `gansdk plugins` lists them.")
        details = [] if name is None or compat or check else descriptions(parts, name)
        rows = _combinations() if compat else [_listed(parts, row, check=check) for row in listing]
    if details:
        return _describe(details, as_json=as_json)
    if compat and name is not None:
        bare = listing[0].name
        rows = [row for row in rows if bare in [row[kind] for kind in COMBINED]]
        if not rows:
            raise typer.BadParameter(
                f"{quoted(bare)} is not an adapter, pruner or distiller; --compat lists only these."
            )
    if as_json:
        print(
            visible_json(json.dumps(rows, indent=2, ensure_ascii=False))
        )  # not by print_json, which costs an import of torch
    elif compat:
        print_rows([{column: row[column] for column in (*COMBINED, "verdict")} for row in rows])
        for advice in dict.fromkeys(row["advice"] for row in rows if row["advice"]):
            say(Console(), advice)
    else:
        print_rows(rows)
    if check and any(row.get("failure") for row in rows):
        raise typer.Exit(PLUGIN_CHECK_FAILED)


COMBINED = ("adapter", "pruner", "distiller")


def _describe(parts: Sequence[Description], *, as_json: bool) -> None:
    """Parts of one name."""
    if as_json:
        return print_json([asdict(one) for one in parts])
    console = Console()
    for one in parts:
        say(console, f"{one.kind} {one.name} ({one.origin} {one.version}): {one.summary}")
        for label, values in (("needs", one.needs), ("provides", one.provides)):
            if values:
                say(console, f"{label}: {', '.join(values)}")
        if one.source:
            say(console, f"source: {one.source}")
        options = new_table("option", "type", "default")
        for option in one.options:
            add_row(options, option.name, option.type, option.default or "(required)")
        console.print(options)
        for line in one.about.splitlines():
            say(console, line)


def _beside(folder: Path) -> Path:
    """The folder by its own name, which "." and ".." have not."""
    return folder if folder.name.strip(".") else folder.resolve()


# Plugins.


def _listed(parts: Registry, row: Row, *, check: bool) -> dict[str, Any]:
    """One line of the list; with `check`, "failure" says why the part cannot be imported, or is empty."""
    return {**asdict(row), **({"failure": _failure(parts, row)} if check else {})}


def _failure(parts: Registry, row: Row) -> str:
    if row.status == "blocked":
        return ""
    if row.kind == "plugin":
        return row.status
    try:
        parts.load(row.kind, f"{row.origin}:{row.name}")  # type: ignore[arg-type] # the kinds of parts
    except PluginLoadError as error:
        return str(error)
    return ""


def _combinations() -> list[dict[str, Any]]:
    from gansdk.registry.compatibility import matrix

    return [
        {**asdict(item), "missing": list(item.missing), "works": not item.missing, "verdict": item.verdict}
        for item in matrix()
    ]
