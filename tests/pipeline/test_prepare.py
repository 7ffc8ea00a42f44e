"""Everything that a call names is opened, then everything is checked."""

import pytest

import gansdk
from gansdk.errors import PluginNotFound


class Stopped(Exception):
    """Ends a call where a test has seen enough."""


@pytest.mark.parametrize(
    "change",
    [{"pruner": "one-stp"}, {"metrics": "fidd"}, {"distiller": "pixels"}, {"pruner": "none", "distiller": None}],
)
def test_names_that_do_not_exist_are_refused_before_the_model_is_read(change, monkeypatch):
    def reads(*_):
        raise AssertionError("the model was read")

    monkeypatch.setattr("gansdk.pipeline.prepare.open_generator", reads)
    with pytest.raises(PluginNotFound):
        gansdk.compress("demo", budget="2x", data="photos", device="cpu", **change)


def test_all_is_open_before_the_first_check(monkeypatch):
    def stop(opened):
        assert opened.data is not opened.eval_data
        assert opened.generator.module is not None
        assert len(opened.methods) == 2
        raise Stopped

    monkeypatch.setattr("gansdk.pipeline.prepare.CHECKS", (stop,))
    with pytest.raises(Stopped):
        gansdk.ladder("demo", budgets=["2x", "4x"], data="photos", eval_data="photos", device="cpu")
