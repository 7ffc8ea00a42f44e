"""Which parts work together: what pruner and distillers need against what adapter and data provide. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import product

from gansdk.errors import IncompatibleParts
from gansdk.registry.discovery import Registry, registry
from gansdk.specs import AdapterSpec, DistillerSpec, PrunerSpec

IMAGES = "images"
"""The capability every source of images provides."""

WRAPPED_PROVIDES = frozenset({"channel-groups", "taps"})
"""What `gansdk.wrap` gives any module."""

WRAPPED = AdapterSpec(
    name="wrapped",
    factory="gansdk.generators.wrapping:WrappedAdapter",
    summary="Any module, with a contract of your own",
    provides=WRAPPED_PROVIDES,
)

PAIRINGS = frozenset({"paired", "unpaired"})
"""What data may provide besides images; adapters name those that they are usually trained on."""

CAPABILITIES = {
    "taps": "named feature maps",
    "channel-groups": "channels that can be removed",
    "rebuild": "wider or deeper networks",
    "discriminator": "a discriminator of the family",
    "degrade": "inputs computed from outputs",
    "paired": "inputs with their targets",
    "unpaired": "inputs and targets that are not paired",
    IMAGES: "images to train on",
}
"""What each word means; plugins may use words of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One line of `gansdk plugins --compat`."""

    adapter: str
    pruner: str
    distiller: str
    missing: tuple[str, ...]
    """Capabilities nobody provides when images are given; empty if the three work together."""
    advice: str = ""
    """What the parts say of doing without what is missing; empty if they say nothing."""

    @property
    def verdict(self) -> str:
        """What `gansdk plugins --compat` prints: that it runs, or why it cannot."""
        return f"needs {in_words(self.missing)}" if self.missing else "runs"


def in_words(capabilities: Iterable[str]) -> str:
    """Capabilities with their meanings: "degrade (inputs computed from outputs); ..."."""
    return "; ".join(
        f"{word} ({CAPABILITIES.get(word, 'a capability that the plugin defines')})" for word in capabilities
    )


def missing(
    adapter: AdapterSpec,
    pruner: PrunerSpec | None,
    distillers: Sequence[DistillerSpec],
    data_provides: AbstractSet[str] = frozenset(),
) -> tuple[str, ...]:
    """Capabilities that are needed and that neither adapter nor data provide, sorted.

    `data_provides` is empty where no data was given.
    """
    needed: set[str] = set(pruner.needs) if pruner else set()
    for distiller in distillers:
        needed |= _needs(distiller)
    return tuple(sorted(needed - adapter.provides - data_provides))


def _needs(distiller: DistillerSpec) -> AbstractSet[str]:
    return distiller.needs | ({IMAGES} if distiller.data else set())


def check(
    adapter: AdapterSpec,
    pruner: PrunerSpec | None,
    distillers: Sequence[DistillerSpec],
    data_provides: AbstractSet[str] = frozenset(),
) -> None:
    """Refuse parts that cannot work together before any work is done.

    Raises:
        IncompatibleParts: something needed is missing.
    """
    if absent := missing(adapter, pruner, distillers, data_provides):
        parts = [f"pruner {pruner.name!r}"] if pruner and pruner.needs & {*absent} else []
        parts += [f"distiller {distiller.name!r}" for distiller in distillers if _needs(distiller) & {*absent}]
        advice = _advice((pruner, *distillers), absent)
        advice.append("Choose other parts, or see `gansdk plugins --compat` for what fits.")
        has = ", ".join(sorted(adapter.provides | data_provides)) or "nothing"
        raise IncompatibleParts(
            f"Adapter {adapter.name!r} cannot be used with {' and '.join(parts)}: missing {in_words(absent)}. Adapter "
            f"and data provide {has}. {' '.join(advice)}",
            missing=absent,
        )


def _advice(parts: Iterable[PrunerSpec | DistillerSpec | None], absent: Sequence[str]) -> list[str]:
    """What the parts that need something absent say of it."""
    return [part.advice for part in parts if part and part.advice and part.needs & {*absent}]


def matrix(known: Registry | None = None) -> tuple[Combination, ...]:
    """Every adapter (and a wrapped module) x pruner x distiller, given all the data any source provides."""
    known = known or registry()
    sources = known.specs("source").values()
    provided = frozenset({IMAGES}).union(*(source.provides for source in sources))
    adapters = {**known.specs("adapter"), WRAPPED.name: WRAPPED}
    combinations = []
    for (adapter_name, adapter), (pruner_name, pruner), (distiller_name, distiller) in product(
        adapters.items(), known.specs("pruner").items(), known.specs("distiller").items()
    ):
        absent = missing(adapter, pruner, [distiller], provided)
        combinations.append(
            Combination(
                adapter=adapter_name,
                pruner=pruner_name,
                distiller=distiller_name,
                missing=absent,
                advice=" ".join(_advice((pruner, distiller), absent)),
            )
        )
    return tuple(combinations)
