"""Options of commands, made of the fields of calls (`gansdk.recipe`). Torch-free."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from gansdk.recipe import Says, read_recipe, says_of
from gansdk.text import quoted
from gansdk.validation.json_fields import read_json

NAMES = {"budgets": "budget", "metrics": "metric", "out_dir": "out", "sizes": "size"}
"""Fields whose options are called otherwise."""
SHORT = {"budgets": "-b", "out_dir": "-o"}
LEFT_OUT = frozenset({"observers"})
"""Fields that only Python has."""
ONE_PART, SEVERAL_PARTS = ("adapter", "pruner"), ("distiller", "metrics")
OUT = Path("gansdk-out")
TEXTS = {
    "model": "A checkpoint, the folder of a saved student, 'demo', or a JSON object with one per route.",
    "budgets": 'What the student may cost: "4x", "macs<=2.6G", "params<=25%,size<=5MB". Several students, from large '
    'to small: repeat it, or "2x,4x,8x".',
    "distiller": "What trains the student; repeatable. 'auto' follows family and teacher, 'none' prunes only.",
    "data": "Training images: a folder, 'photos' (embedded photographs), or a source as JSON.",
    "eval_data": "Images to score on, likewise; default: the held-out part of --data.",
    "metrics": "Further metrics: kid, fid, miou or a plugin's; repeatable.",
    "discriminator": "Checkpoint of the teacher's discriminator, 'fresh' for a new one, or a JSON object with one per "
    "route.",
    "transform": "An architecture of the family for the student to start from, such as 'mobile'.",
    "out_dir": "Output folder for run, result and report.",
    "resume": "Continue a run found in --out, or move it aside.",
    "device": "'auto' or 'cpu'.",
    "recipe": "TOML file with the fields of a recipe; other options take precedence over it.",
    "sizes": "What differs from the architecture's usual sizes; repeatable.",
}
"""Help texts where the command line is used differently from Python."""


def with_fields(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an argument or option for each of the fields, in front of its own keyword parameters.

    The command is called with what was given on the command line, by field; defaults are the fields' own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        extra = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = [
            one for name, says in says_of(kind).items() if name not in LEFT_OUT for one in _options(kind, name, says)
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def run(context: typer.Context, **values: Any) -> None:
            passed = {one.name: values.pop(one.name) for one in extra}
            explicit = {name: value for name, value in values.items() if _is_given(context, name)}
            base = read_recipe(explicit.pop("recipe")) if "recipe" in explicit else {}
            command({**base, **_as_fields(kind, explicit, base)}, **passed)

        keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*parameters, *extra)]
        vars(run)["__signature__"] = inspect.Signature([context, *keyword])
        run.__annotations__ = {one.name: one.annotation for one in (context, *keyword)}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _defaults(kind: type) -> dict[str, Any]:
    return {one.name: one.default for one in fields(kind)}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _options(kind: type, name: str, says: Says) -> list[inspect.Parameter]:
    """The option of a field, or the argument of the first one; a part has a second one for its options."""
    default = _defaults(kind)[name]
    is_required = default is MISSING
    flag, flags = f"--{NAMES.get(name, name).replace('_', '-')}", [SHORT[name]] if name in SHORT else []
    help_text = TEXTS.get(name) or says.text[0].upper() + says.text[1:] + "."

    def parameter(hint: Any, default: Any, extra: Any, field: str = name) -> inspect.Parameter:
        default = inspect.Parameter.empty if default is MISSING else default
        return inspect.Parameter(
            field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, extra]
        )

    def option(hint: Any, default: Any, *more: str, **extra: Any) -> inspect.Parameter:
        return parameter(hint, default, typer.Option(flag, *flags, *more, help=help_text, **extra))

    if name == fields(kind)[0].name:
        argument = typer.Argument(help=help_text, metavar=name.upper())
        parameters = [parameter(str if is_required else str | None, default, argument)]
    elif name in SEVERAL_PARTS or name == "budgets":
        parameters = [option(list[str], [default] if default else [])]
    elif name == "sizes":
        parameters = [option(list[str], [], metavar="KEY=VALUE")]
    elif name == "out_dir":
        parameters = [option(Path, OUT)]
    elif name == "resume":
        parameters = [parameter(bool, True, typer.Option("--resume/--no-resume", help=help_text))]
    elif name == "recipe":
        parameters = [option(Path | None, None, metavar="FILE.toml")]
    elif isinstance(default, bool):
        parameters = [parameter(bool, default, typer.Option(flag, help=help_text))]
    else:
        hint = get_type_hints(kind)[name]
        plain = next((number for number in (int, float) if number in (hint, *get_args(hint))), str)
        bounds = {} if plain is str else {"min": says.least}
        parameters = [option(plain | None if default is None else plain, default, **bounds)]
    if name in (*ONE_PART, *SEVERAL_PARTS):
        spelled = "NAME.KEY=VALUE" if name in SEVERAL_PARTS else "KEY=VALUE"
        more = typer.Option(
            f"{flag}-option", metavar=spelled, help=f"Option of the {NAMES.get(name, name)}; repeatable."
        )
        parameters.append(parameter(list[str], [], more, f"{name}_option"))
    return parameters


def _as_fields(kind: type, values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as the fields of a call; options of parts are for those of `base` too."""
    arguments = {name: value for name, value in values.items() if not name.endswith("_option")}
    defaults = _defaults(kind)
    for name in ONE_PART:
        if name in values or f"{name}_option" in values:
            part = values.get(name, base.get(name, defaults.get(name)))
            arguments[name] = part_of(_part(part), values.get(f"{name}_option", ()))
    for name in SEVERAL_PARTS:
        if name in values or f"{name}_option" in values:
            parts = values.get(name, base.get(name, defaults[name])) or []
            parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
            options = values.get(f"{name}_option", ())
            arguments[name] = "none" if parts == ["none"] and not options else parts_of(map(_part, parts), options)
    if "sizes" in arguments:
        arguments["sizes"] = options_of(arguments["sizes"])
    if "resume" in arguments:
        arguments["resume"] = "auto" if arguments["resume"] else "never"
    return arguments


# Parts and their options.


def _part(part: object) -> str | Mapping[str, Any]:
    """A part of a recipe, which may hold anything."""
    if isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("name"), str)):
        return part
    raise typer.BadParameter(f"{quoted(part)} is not a part, so it has no options. Name a part.")


def part_of(part: str | Mapping[str, Any], options: Sequence[str]) -> str | dict[str, Any]:
    """A part as the library takes it: its name, or a mapping with its options.

    Options beside the adapter "auto" are for the family that is recognized.
    """
    if not options:
        return part if isinstance(part, str) else dict(part)
    spelled = {"name": part} if isinstance(part, str) else dict(part)
    return {**spelled, **options_of(options, taken=("name",))}


def parts_of(parts: Iterable[str | Mapping[str, Any]], options: Sequence[str]) -> list[Any]:
    """Each part with those options that begin with its name."""
    parts = list(parts)
    named = {part if isinstance(part, str) else str(part.get("name")): part for part in parts}
    of = {name: list[str]() for name in named}
    if len(of) < len(parts):
        raise typer.BadParameter(f"One of {', '.join(map(quoted, of))} is given twice. Give it once.")
    for text in options:
        name, dot, rest = text.partition(".")
        if not dot or name not in of:
            raise typer.BadParameter(
                f"{quoted(text)} is not of the form NAME.KEY=VALUE with NAME one of {', '.join(of) or 'none'}."
            )
        of[name].append(rest)
    return [part_of(named[name], texts) for name, texts in of.items()]


def options_of(texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Any]:
    """All of `KEY=VALUE`, each key once and none of those that are taken."""
    values: dict[str, Any] = {}
    for text in texts:
        key, value = _option(text)
        if key in values or key in taken:
            raise typer.BadParameter(f"{quoted(text)} gives {quoted(key)} a second value. Give it once.")
        values[key] = value
    return values


def _option(text: str) -> tuple[str, Any]:
    """Read `keep=0.5` as ("keep", 0.5): the value is JSON, or else the text itself."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"{quoted(text)} is not of the form KEY=VALUE.")
    try:
        return key.replace("-", "_"), read_json(value)
    except ValueError:
        return key.replace("-", "_"), value
