import json

import pytest

from gansdk.contracts import Contract, Pairing
from gansdk.errors import DataError
from gansdk_adapters.sources import photos
from gansdk_adapters.sources.photos import Photographs

CONTRACT = Contract(
    channels_in=3, channels_out=3, size=(16, 16), scale=4, input_range=(0.0, 1.0), output_range=(0.0, 1.0)
)


def test_four_photographs_train_and_two_are_held_out_whole():
    source = Photographs(contract=CONTRACT, patch=8)
    assert source.pairing is Pairing.PAIRED
    assert [batch.names[0] for batch in source.images("eval")] == ["chelsea", "flower"]
    batch = source.train_batch(24, seed=0, step=0)
    assert batch.inputs["main"].shape == (24, 3, 8, 8)
    assert batch.targets["main"].shape == (24, 3, 32, 32)
    assert set(batch.names) == {"astronaut", "china", "coffee", "rocket"}


def test_whole_photographs_are_cropped_to_multiples():
    chelsea, flower = Photographs(contract=CONTRACT).images("search")
    assert chelsea.targets["main"].shape == (1, 3, 300, 448)
    assert flower.inputs["main"].shape == (1, 3, 106, 160)


@pytest.mark.parametrize(("holdout", "names"), [(0, []), (0.1, ["flower"]), (1 / 3, ["chelsea", "flower"])])
def test_the_share_held_out_is_rounded_up(holdout, names):
    facts = Photographs(contract=CONTRACT, holdout=holdout).describe()
    assert facts["held_out"] == names
    assert facts["train"] == 6 - len(names)


def test_the_makers_and_licences_are_named():
    facts = Photographs(contract=CONTRACT).describe()
    assert json.loads(json.dumps(facts)) == facts
    assert "danielbuechele" in facts["attribution"]["china"]
    assert "CC BY 2.0" in facts["attribution"]["flower"]
    assert len(facts["attribution"]) == 6


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(photos.PHOTOGRAPHS, "chelsea", ("no_such_package", "chelsea.png", ""))
    with pytest.raises(DataError, match="pip install"):
        Photographs(contract=CONTRACT)
