from __future__ import annotations

import os
import time

import pytest

from w2vbert_asr.data.parallel import map_parallel, num_processes
from w2vbert_asr.errors import DataError, ResourceError


def square(x: int) -> int:
    time.sleep(0.001 * (x % 3))
    return x * x


def fragile(x: int) -> int:
    if x in (3, 17, 18):
        os._exit(1)  # as a decoder that crashes
    return x


def strict(x: int) -> int:
    if x == 5:
        raise DataError("five")
    return x


def lost(x: int) -> int:
    return -x


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_order_and_completeness(num_jobs: int) -> None:
    assert list(map_parallel(square, range(150), num_jobs, "squares")) == [x * x for x in range(150)]
    assert list(map_parallel(square, [], num_jobs, "none")) == []


def test_a_dead_process_costs_only_its_item() -> None:
    results = list(map_parallel(fragile, range(40), 2, "fragile", lost))
    assert results == [-x if x in (3, 17, 18) else x for x in range(40)]


def test_a_dead_process_is_an_error_where_nothing_stands_in() -> None:
    with pytest.raises(ResourceError, match="worker process died"):
        list(map_parallel(fragile, range(40), 2, "fragile"))


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_exceptions_arrive(num_jobs: int) -> None:
    with pytest.raises(DataError, match="five"):
        list(map_parallel(strict, range(40), num_jobs, "strict"))


def test_zero_means_every_core() -> None:
    assert num_processes(3) == 3
    assert num_processes(0) >= 1
