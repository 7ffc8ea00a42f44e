"""What decides a student, defined once: keyword arguments, options of the command line, checks and recipe files.

Torch-free.
"""

from __future__ import annotations

import functools
import inspect
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_type_hints

from gansdk.errors import InvalidOption
from gansdk.text import one_line, quoted
from gansdk.validation.signatures import fitting

if TYPE_CHECKING:
    from gansdk.events import Event
    from gansdk.interfaces import Adapter, Distiller, Pruner
else:
    Adapter = Distiller = Pruner = Event = Any

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")

LARGEST_SEED = 2**64 - 1
"""What torch's generators take."""
MOST_STEPS = 10**9
"""Steps from here on have other uses: probe batches and sample sheets are batches of steps no training reaches."""
MOST_IMAGES = 2**16
"""Images of a step."""


@dataclass(frozen=True, slots=True)
class Says:
    """What is known of a field: a sentence for docstrings and help texts, and its bounds."""

    text: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    """An open lower bound."""
    decides: bool = True
    """Whether another value makes another student. Other fields say what is measured of it."""


MISSING_FIELD = "missing"
"""The key of a recipe's field that could not be written, as {"missing": "pruner was a Mine"}."""
Part = str | Mapping[str, Any]
"""A name, or {"name": ..., option: value}."""
Seed = Annotated[int, Says("random seed; the same seed on the same machine gives the same result", 0, LARGEST_SEED)]
BatchSize = Annotated[int, Says("images per step, over all processes", 1, MOST_IMAGES)]
Patch = Annotated[int | None, Says("side of the training inputs in pixels; default: what suits the network", 1, 2**16)]
LearningRate = Annotated[float | None, Says("peak learning rate; default: the family's own", above=0)]
OutDir = Annotated[str | Path | None, Says("output folder for run, result and report; default: nothing is written")]
Resume = Annotated[
    Literal["auto", "never"],
    Says('"auto" continues a run found in `out_dir`; "never" moves it aside, to run.old-1, and starts anew'),
]
Device = Annotated[Literal["auto", "cpu"], Says('"auto" or "cpu"')]
Observers = Annotated[Sequence[Callable[[Event], None]], Says("called with every event of the run")]


@dataclass(frozen=True)
class Settings:
    """What decides a student besides its budget."""

    model: Annotated[
        Any,
        Says(
            "a module of a known family, a checkpoint, a saved student's folder, or `gansdk.wrap(...)`; of several "
            "routes that are trained together (A2B and B2A) a folder with a folder for each, or a mapping"
        ),
    ] = None
    _: KW_ONLY
    adapter: Annotated[Part | Adapter, Says('the generator\'s family; "auto" recognizes it')] = "auto"
    pruner: Annotated[Part | Pruner, Says("what chooses the channels that stay")] = "one-step"
    distiller: Annotated[
        Part | Distiller | Sequence[Any] | None,
        Says(
            'what trains the student: one or several; "auto" follows the family (`Adapter.teaching`) and what is '
            'measured of the teacher; "none" or None prunes only, without data or steps'
        ),
    ] = "auto"
    data: Annotated[
        Any,
        Says(
            'training images: a folder, "photos" (embedded photographs), {"name": ..., option: value}, or a DataSource'
        ),
    ] = None
    eval_data: Annotated[Any, Says("images to score on; default: the held-out part of `data`", decides=False)] = None
    metrics: Annotated[Any, Says("further metrics: FID, KID, mIoU, or a plugin's", decides=False)] = ()
    steps: Annotated[
        int | None,
        Says("training steps of the student; default: 2000; 0 skips distillation", 0, MOST_STEPS),
    ] = None
    batch_size: BatchSize = 8
    patch: Patch = None
    learning_rate: LearningRate = None
    task_weight: Annotated[
        float | None,
        Says(
            "weight of the family's own loss (distance to the truth, adversarial losses); 0 imitates only the teacher; "
            'default: 1, or what distiller="auto" chooses',
            least=0,
        ),
    ] = None
    seed: Seed = 0
    discriminator: Annotated[
        str | Path | Mapping[str, str | Path] | None,
        Says(
            'checkpoint of the discriminator that the generator was trained against, or {route: file}; "fresh" starts '
            "a new one; default: the generator's own where it brings one"
        ),
    ] = None
    transform: Annotated[
        str | None,
        Says(
            'an architecture of the family for the student to start from, such as "mobile"; budgets stay relative to '
            "`model`"
        ),
    ] = None
    quality: Annotated[
        str | None,
        Says(
            'quality floor: bounds and checks, "finite,psnr-y>=29.5,worst-psnr-y>=25"; if missed, '
            "the student is still saved and QualityFloorMissed is raised",
            decides=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Take "none" for None, which files and command lines cannot say."""
        one = self.distiller
        if isinstance(one, (list, tuple)) and len(one) == 1:
            one = one[0]
        if isinstance(one, str) and one == "none":
            object.__setattr__(self, "distiller", None)


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """Everything that decides the students of a run, as it was requested.

    What never changes a result (output folder, device, observers) is not part of it.
    """

    budgets: Annotated[
        Sequence[Any], Says('what each student may cost, from the largest to the smallest: "10x", "macs<=2.6G"')
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Call(Settings):
    """A call of `gansdk.compress` or `gansdk.ladder`: the settings, and what never changes a result."""

    recipe: Annotated[
        Recipe | Mapping[str, Any] | str | Path | None,
        Says("a `gansdk.Recipe`, or the TOML file of one; other arguments take precedence over it"),
    ] = None
    out_dir: OutDir = None
    resume: Resume = "auto"
    device: Device = "auto"
    dry_run: Annotated[bool, Says("stop once the plan is found and carved; nothing is trained or written")] = False
    observers: Observers = ()


@dataclass(frozen=True, kw_only=True)
class Compression(Call):
    """A call of `gansdk.compress`."""

    budget: Annotated[
        Any, Says('what the student may cost: "10x", "macs<=2.6G", "params<=25%,size<=5MB", or a `gansdk.Budget`')
    ] = None


@dataclass(frozen=True, kw_only=True)
class Rungs(Call):
    """A call of `gansdk.ladder`."""

    budgets: Annotated[
        str | Sequence[Any], Says('what the students may cost, from the largest to the smallest: ["2x", "4x", "8x"]')
    ] = ()


@dataclass(frozen=True)
class TeacherTraining:
    """A call of `gansdk.train_teacher`."""

    adapter: Annotated[Part | Adapter, Says('the family, such as "pix2pix", "cyclegan" or "gaugan"')]
    data: Annotated[Any, Says("training images, as for `gansdk.compress`")]
    _: KW_ONLY
    architecture: Annotated[str, Says('one of the family\'s, such as "inception"; default: its usual one')] = ""
    sizes: Annotated[
        Mapping[str, Any] | None,
        Says('what differs from the usual sizes of the architecture: {"width": 32, "channels_in": 12}'),
    ] = None
    model: Annotated[
        Any,
        Says(
            "a generator of the family to start from; of several routes (A2B and B2A) a folder with a folder for each, "
            "or a mapping; default: fresh weights"
        ),
    ] = None
    steps: Annotated[
        int, Says("optimizer steps, over which the papers' schedules (in epochs) are spread", 1, MOST_STEPS)
    ] = 10_000
    batch_size: BatchSize = 1
    eval_data: Annotated[Any, Says("images to score on; default: the held-out part of `data`")] = None
    patch: Patch = None
    seed: Seed = 0
    out_dir: OutDir = None
    resume: Resume = "auto"
    device: Device = "auto"
    learning_rate: LearningRate = None
    observers: Observers = ()


def read_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """The fields that a recipe sets, by their names; those at their defaults are left out.

    Raises:
        InvalidOption: it is no recipe, or has a field that there is not.
    """
    if isinstance(recipe, Recipe):
        return changed(recipe)
    found: Mapping[Any, Any]
    if isinstance(recipe, Mapping):
        found, whose = recipe, "The recipe"
    elif isinstance(recipe, (str, Path)):
        whose = f"The recipe {quoted(str(recipe))}"
        try:
            found = tomllib.loads(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(str(error))
            raise InvalidOption(
                f"{whose} cannot be read: {reason}. Write a TOML file with fields of gansdk.Recipe."
            ) from error
    else:
        raise InvalidOption(f"recipe={quoted(recipe)} is neither a gansdk.Recipe, nor a mapping, nor a path.")
    known = {one.name for one in fields(Recipe)}
    if strange := [name for name in found if not isinstance(name, str) or name not in known]:
        raise InvalidOption(f"{whose} has the field {quoted(strange[0])}. Known fields are {', '.join(sorted(known))}.")
    return dict(found)


def recipe_of(settings: Settings, budgets: Sequence[Any]) -> Recipe:
    """What a call requested, without what never changes a result; `budgets` are those of its students."""
    return Recipe(**{one.name: getattr(settings, one.name) for one in fields(Settings)}, budgets=budgets)


def deciding(settings: Settings) -> dict[str, Any]:
    """The fields that decide a student, as they were requested: a run is continued only with the same ones."""
    says = says_of(Settings)
    return {one.name: getattr(settings, one.name) for one in fields(Settings) if says[one.name].decides}


def changed(settings: Settings) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {
        one.name: value
        for one in fields(settings)
        if (value := getattr(settings, one.name)) is not one.default and not _equal(value, one.default)
    }


def _equal(value: Any, default: Any) -> bool:
    plain = (str, int, float, bool, tuple)
    return isinstance(value, plain) and type(value) is type(default) and bool(value == default)


def takes(kind: Callable[P, C]) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Give a function of one call object the object's fields as its keyword arguments.

    Type checkers and editors see the fields; `{arguments}` in the docstring becomes what they say of themselves. Values
    are held against the fields' types and bounds, and a recipe that is given fills in what is not.
    """
    assert isinstance(kind, type)
    hints = get_type_hints(kind)

    def decorate(function: Callable[[C], R]) -> Callable[P, R]:
        result = get_type_hints(function)["return"]
        parameters = inspect.signature(kind).parameters.values()
        signature = inspect.Signature(
            [one.replace(annotation=hints[one.name]) for one in parameters], return_annotation=result
        )

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            given = dict(signature.bind(*args, **kwargs).arguments)
            if given.get("recipe") is not None:
                given = {**_as_fields_of(kind, read_recipe(given["recipe"]), given), **given}
            _refuse_missing(given)
            values = fitting(kind, given)
            check_bounds(kind, values)
            return function(kind(**values))

        del called.__wrapped__  # it has another signature
        vars(called)["__signature__"] = signature
        called.__annotations__ = {
            **{one.name: one.annotation for one in signature.parameters.values()},
            "return": result,
        }
        called.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("{arguments}", arguments_of(kind))
        return called

    return decorate


def is_missing(value: object) -> bool:
    """Whether a field of a recipe only says what it was."""
    return isinstance(value, Mapping) and set(value) == {MISSING_FIELD}


def _refuse_missing(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if is_missing(value):
            raise InvalidOption(f"The recipe has no {name}: {quoted(value[MISSING_FIELD])}. Pass {name}=... beside it.")


def _as_fields_of(kind: type, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields as those of a call, which has one budget or several."""
    found = dict(recipe)
    if "budgets" in found and kind is Compression:
        budgets = found.pop("budgets")
        budgets = list(budgets) if isinstance(budgets, (list, tuple)) else [budgets]
        if "budget" in given:
            return found
        if len(budgets) != 1:
            raise InvalidOption(f"The recipe has {len(budgets)} budgets. Pass it to gansdk.ladder, or give budget=...")
        found["budget"] = budgets[0]
    return found


@functools.cache
def says_of(kind: type) -> dict[str, Says]:
    """Field -> what it says of itself, in the order of the fields."""
    hints = get_type_hints(kind, include_extras=True)
    found = {
        one.name: [extra for extra in getattr(hints[one.name], "__metadata__", ()) if isinstance(extra, Says)]
        for one in fields(kind)
    }
    return {name: says[0] for name, says in found.items() if says}


def arguments_of(kind: type) -> str:
    """The section of a docstring."""
    return "\n".join(["Args:", *(f"    {name}: {says.text}." for name, says in says_of(kind).items())])


def check_bounds(kind: type, values: Mapping[str, Any]) -> None:
    """Raise InvalidOption for a number out of its field's bounds; None stands for the default."""
    hints = get_type_hints(kind)
    for name, says in says_of(kind).items():
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        number = "an integer" if int in (hints[name], *get_args(hints[name])) else "a number"
        most = sys.float_info.max if says.most is None else says.most
        if says.above is not None and not says.above < value <= most:
            raise InvalidOption(f"{name}={quoted(value)} must be {number} > {says.above:g}.")
        if says.least is not None and not says.least <= value <= most:
            limit = f">= {says.least}" if says.most is None else f"from {says.least} to {says.most}"
            raise InvalidOption(f"{name}={quoted(value)} must be {number} {limit}.")
