"""The hooks of a plugin. Each docstring holds one complete `plugin.py`; a test runs them. Torch-free.

A plugin is a module named by an entry point of the group `gansdk`:

    [project.entry-points.gansdk]
    acme = "acme_gan.plugin"

Keep that module tiny: it returns specs, and the classes they name are imported on first use. A hook may
take fewer arguments than its specification, none of them with a default value.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from gansdk.events import Event
from gansdk.specs import AdapterSpec, DistillerSpec, MetricSpec, PrunerSpec, SourceSpec

PROJECT = "gansdk"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gansdk_adapters() -> Iterable[AdapterSpec]:
    """Offer families of generators.

    Example::

        import gansdk
        from gansdk.specs import AdapterSpec

        @gansdk.hookimpl
        def gansdk_adapters():
            yield AdapterSpec(
                name="acme-colour",
                factory="acme_gan.colour:Colourisation",
                summary="Grey photographs to colour",
                provides=frozenset({"taps", "channel-groups", "rebuild"}),
                before=("sr",),
            )
    """
    return ()


@hookspec
def gansdk_pruners() -> Iterable[PrunerSpec]:
    """Offer ways to choose channels.

    Example::

        import gansdk
        from gansdk.specs import PrunerSpec

        @gansdk.hookimpl
        def gansdk_pruners():
            yield PrunerSpec(
                name="slim",
                factory="acme_gan.slim:Slim",
                summary="Smallest norm scales first",
                source="Network slimming, ICCV 2017",
                needs=frozenset({"channel-groups"}),
            )
    """
    return ()


@hookspec
def gansdk_distillers() -> Iterable[DistillerSpec]:
    """Offer terms of the loss, or a regime.

    Example::

        import gansdk
        from gansdk.specs import DistillerSpec

        @gansdk.hookimpl
        def gansdk_distillers():
            yield DistillerSpec(
                name="gram",
                factory="acme_gan.gram:gram",
                summary="Gram matrices of feature maps",
                needs=frozenset({"taps"}),
            )
            yield DistillerSpec(
                name="dream",
                factory="acme_gan.dream:dream",
                summary="Images from a generator trained on the fly",
                kind="regime",
                data=False,
            )
    """
    return ()


@hookspec
def gansdk_sources() -> Iterable[SourceSpec]:
    """Offer places where images come from.

    Example::

        import gansdk
        from gansdk.specs import SourceSpec

        @gansdk.hookimpl
        def gansdk_sources():
            yield SourceSpec(
                name="acme-archive",
                factory="acme_gan.archive:Archive",
                summary="Pairs from the archive",
                provides=frozenset({"images", "paired"}),
                install="acme-gan[archive]",
            )
    """
    return ()


@hookspec
def gansdk_metrics() -> Iterable[MetricSpec]:
    """Offer measures of image quality for search and reports.

    Example::

        import gansdk
        from gansdk.specs import MetricSpec

        @gansdk.hookimpl
        def gansdk_metrics():
            yield MetricSpec(
                name="acme-sharpness",
                factory="acme_gan.sharpness:sharpness",
                summary="Energy of the Laplacian",
                lower_is_better=False,
            )
    """
    return ()


@hookspec
def gansdk_event(event: Event) -> None:
    """Watch a run. What is returned is ignored; an observer that raises is reported and not asked again.

    Example::

        import logging

        import gansdk
        from gansdk.events import StepDone

        @gansdk.hookimpl
        def gansdk_event(event):
            if isinstance(event, StepDone):
                logging.getLogger("acme_gan").info("%s %d/%d", event.stage, event.step, event.steps)
    """
