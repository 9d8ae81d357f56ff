"""Ranks that start again beside what an earlier start has left in the store."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from w2vbert_asr.errors import ResourceError
from w2vbert_asr.training.distributed import store_of_this_start


def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


def start(port: int, size: int, late: int | None = None) -> list[str]:
    """What each rank finds at `address` once rank 0 has written it, in one start of `size` ranks; one may be late."""

    def on_rank(rank: int) -> str:
        time.sleep(0.3 if rank == late else 0.0)
        shared = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20))
        store = store_of_this_start(shared, rank, size, 20.0)
        assert isinstance(store, PrefixStore)
        if rank == 0:
            assert not store.check(["address"])  # nothing of an earlier start
            time.sleep(0.1)
            store.set("address", f"{time.monotonic()}")
        return store.get("address").decode()

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(on_rank, range(size)))


@pytest.mark.parametrize("late", [None, 0, 1])
def test_every_start_has_a_part_of_the_store_of_its_own(late: int | None) -> None:
    held = server()
    found = [start(held.port, 3, late) for _ in range(4)]
    assert all(len(set(own)) == 1 for own in found)
    assert len({own[0] for own in found}) == 4


def test_a_rank_that_never_starts_is_waited_for_no_longer_than_said() -> None:
    held = server()
    start(held.port, 2)  # its question is still there
    with pytest.raises(ResourceError, match=r"not all of 2 ranks started within 0\.5 s"):
        store_of_this_start(held, 0, 2, 0.5)
