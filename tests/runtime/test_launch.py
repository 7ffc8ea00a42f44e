"""What launchers' environment variables say."""

import pytest

from gansdk.errors import ProcessError
from gansdk.runtime.launch import Launch

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch()),
        ({"LOCAL_RANK": "0"}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Launch()),
        (TORCHRUN, Launch(count=4, rank=3, local_count=2, local_rank=1)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, Launch(count=2, rank=1, local_count=2, local_rank=1)),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            Launch(count=2, rank=1, local_count=1, local_rank=0),
        ),
        ({"PMI_SIZE": "3", "PMI_RANK": "0"}, Launch(count=3, rank=0, local_count=1, local_rank=0)),
    ],
)
def test_the_numbers_of_torchrun_and_mpirun_are_read(environment, launch):
    assert Launch.read(environment) == launch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' must be an integer from 1"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE="),
        ({"WORLD_SIZE": "٤"}, "WORLD_SIZE="),
        ({"RANK": "-1"}, "RANK='-1'"),
        ({"RANK": "4"}, "RANK=4 does not match WORLD_SIZE=4"),
        ({"RANK": ""}, "WORLD_SIZE=4 is set, but RANK is not"),
        ({"WORLD_SIZE": ""}, "RANK=3 is set, but WORLD_SIZE is not"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 does not match LOCAL_WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5 is more than WORLD_SIZE=4"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused_by_name(change, words):
    with pytest.raises(ProcessError) as refused:
        Launch.read({**TORCHRUN, **change})
    assert words in str(refused.value)
    assert len(str(refused.value)) < 6000
