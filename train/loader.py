"""Micro-batches read ahead by threads, in the plan's order whatever their number; shards are fetched before that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

from cache.read import LatentCache
from train.plan import MicroBatch

AHEAD_STEPS = 4  # steps whose samples are read and drawn ahead
FETCH_STEPS = 32  # steps whose shards are fetched ahead

Loaded = TypeVar("Loaded")
Steps = Callable[[int], Sequence[MicroBatch]]


def read_ahead(
    load: Callable[[MicroBatch], Loaded], steps: Steps, start: int, stop: int, workers: int, cache: LatentCache
) -> Generator[list[Loaded]]:
    """For each step from start to stop, what `load` makes of its micro-batches, in order.

    A failure to load is raised when its step's turn comes. Close the iterator to stop the threads.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool, ExitStack() as windows:
        held: deque[list[Any]] = deque()
        reading: deque[list[Future[Loaded]]] = deque()
        windows.callback(_release, held)
        try:
            for step in range(start, stop):
                while len(held) < min(FETCH_STEPS, stop - step):
                    held.append([cache.fetch(one.bucket, one.shards) for one in steps(step + len(held))])
                while len(reading) < min(AHEAD_STEPS, stop - step):
                    reading.append([pool.submit(load, one) for one in steps(step + len(reading))])
                yield [one.result() for one in reading.popleft()]
                for window in held.popleft():
                    window.close()
        finally:
            for futures in reading:
                for one in futures:
                    one.cancel()


def _release(held: deque[list[Any]]) -> None:
    for window in (window for step in held for window in step):
        window.close()
