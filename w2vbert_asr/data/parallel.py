"""One function over many items in several processes, with a progress bar, in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from tqdm import tqdm

from w2vbert_asr.errors import ResourceError

A = TypeVar("A")
B = TypeVar("B")


def num_processes(num_jobs: int) -> int:
    """`num_jobs`, or for 0 one process for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return num_jobs or cores


def piles(items: Sequence[A], seconds: Callable[[A], float], full: float) -> Iterator[tuple[A, ...]]:
    """Items, in their order, in piles that are done as soon as their seconds reach `full`."""
    pile: list[A] = []
    filled = 0.0
    for item in items:
        pile.append(item)
        filled += seconds(item)
        if filled >= full:
            yield tuple(pile)
            pile, filled = [], 0.0
    if pile:
        yield tuple(pile)


def map_parallel(
    function: Callable[[A], B], items: Sequence[A], num_jobs: int, title: str, crashed: Callable[[A], B] | None = None
) -> Iterator[B]:
    """`function` of each item, in order. Memory holds a few chunks at a time, whatever the number of items.

    An exception ends the map; `function` returns what belongs in a report. `crashed` gives the result of an item whose
    process died (a decoder that a damaged file kills); without it such a death is an error.
    """
    chunk = max(1, min(64, len(items) // (4 * num_processes(num_jobs))))
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    with tqdm(total=len(items), desc=title, unit="", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        if num_processes(num_jobs) == 1:
            results: Iterator[list[B]] = (_apply(function, piece) for piece in chunks)
        else:
            results = _in_processes(function, chunks, num_processes(num_jobs), crashed)
        for result in results:
            yield from result
            bar.update(len(result))


def begin_worker() -> None:
    """What a worker process does first: Ctrl-C is for the command, which ends its workers; and it ends with it.

    A worker that waits for work would outlive a command that was killed for ever: it holds the other end of its own
    queue. A thread that waits for the command's end sees to that, in the middle of an item, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def end_with_parent() -> None:
    """Leave at once when the command has been killed: a later run writes files of the same names."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _apply(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    return [function(item) for item in items]


def _in_processes(
    function: Callable[[A], B], chunks: Sequence[Sequence[A]], num_jobs: int, crashed: Callable[[A], B] | None
) -> Iterator[list[B]]:
    pending: deque[tuple[Sequence[A], Future[list[B]]]] = deque()
    todo = deque(chunks)
    pool = _pool(num_jobs)
    try:
        while todo or pending:
            try:
                while todo and len(pending) < 4 * num_jobs:
                    pending.append((todo[0], pool.submit(_apply, function, todo[0])))
                    todo.popleft()
                result = pending[0][1].result()
                pending.popleft()
            except BrokenProcessPool as error:
                if crashed is None:
                    advice = "use fewer --num-jobs if memory is short"
                    raise ResourceError(f"a worker process died ({error}); {advice}") from error
                # The death took the whole pool with it: the oldest chunk goes again item by item, the rest as it was.
                pool.shutdown(cancel_futures=True)
                todo.extendleft(chunk for chunk, _ in reversed(pending))
                pending.clear()
                result = list(_one_by_one(function, todo.popleft(), crashed))
                pool = _pool(num_jobs)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(function: Callable[[A], B], items: Sequence[A], crashed: Callable[[A], B]) -> Iterator[B]:
    pool = _pool(1)
    try:
        for item in items:
            try:
                yield pool.submit(function, item).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(1)
                yield crashed(item)
    finally:
        pool.shutdown()


def _pool(num_jobs: int) -> ProcessPoolExecutor:
    # A fork copies locks that other threads may hold; a fresh server process has none.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(
        num_jobs,
        mp_context=multiprocessing.get_context(method),
        initializer=begin_worker,
    )
