"""Advice in messages names installed parts by what they can do."""

from types import ModuleType

import pytest

import gansdk
from gansdk.registry.discovery import registry
from gansdk.registry.suggestions import anchors, distillers_such_as, is_term, pruners_such_as
from gansdk.specs import PrunerSpec


def test_pruners_are_named_by_whether_they_train():
    assert pruners_such_as(lambda pruner: not pruner.trains).startswith(" (such as 'one-step'")
    assert "'once-for-all'" in pruners_such_as(lambda pruner: pruner.trains)


def test_distillers_are_named_by_what_they_bring():
    assert "'pixel'" in distillers_such_as(anchors)
    assert "'gka'" not in distillers_such_as(anchors)
    assert "'data-free'" not in distillers_such_as(is_term)


def test_nothing_is_said_where_no_part_fits():
    assert pruners_such_as(lambda pruner: False) == ""


@pytest.fixture
def broken():
    """Offers a pruner whose factory ends the program."""
    module = ModuleType("broken_plugin")
    module.gansdk_pruners = gansdk.hookimpl(lambda: [PrunerSpec(name="aborts", factory="sys:exit", summary="Broken")])
    registry().register(module)
    yield
    registry().unregister()


@pytest.mark.usefixtures("broken")
def test_a_part_that_fails_is_left_out_of_the_advice():
    assert "'aborts'" not in pruners_such_as(lambda pruner: True)
