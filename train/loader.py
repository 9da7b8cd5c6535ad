"""Micro-batches read ahead by threads, in the plan's order whatever their number. Before that their shards are fetched,
or, where they are files, the system is told which bytes come next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, TypeVar

from cache.ahead import Ahead, Part
from cache.read import LatentCache
from train.plan import MicroBatch

AHEAD_STEPS = 4  # steps whose samples are read and drawn ahead
FETCH_STEPS = 32  # steps whose shards are fetched, or whose bytes the system is told of

Loaded = TypeVar("Loaded")
Steps = Callable[[int], Sequence[MicroBatch]]


def read_ahead(
    load: Callable[[MicroBatch], Loaded], steps: Steps, start: int, stop: int, workers: int, cache: LatentCache
) -> Generator[list[Loaded]]:
    """For each step from start to stop, what `load` makes of its micro-batches, in order.

    A failure to load is raised when its step's turn comes. Close the iterator to stop the threads.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool, ExitStack() as left:
        coming = left.enter_context(closing(_coming(cache, steps, start, stop)))
        reading: deque[tuple[list[Future[Loaded]], list[Any]]] = deque()
        left.callback(_stop, reading)
        for micros, windows in coming:
            reading.append(([pool.submit(load, one) for one in micros], windows))
            if len(reading) == AHEAD_STEPS:
                yield _taken(reading)
        while reading:
            yield _taken(reading)


def _taken(reading: deque[tuple[list[Future[Loaded]], list[Any]]]) -> list[Loaded]:
    found = [one.result() for one in reading[0][0]]
    for window in reading.popleft()[1]:
        window.close()
    return found


def _stop(reading: deque[tuple[list[Future[Any]], list[Any]]]) -> None:
    for futures, windows in reading:
        for one in futures:
            one.cancel()
        for window in windows:
            window.close()


def _coming(
    cache: LatentCache, steps: Steps, start: int, stop: int
) -> Generator[tuple[Sequence[MicroBatch], list[Any]]]:
    """The micro-batches of each step, and what keeps their shards on the shelf."""
    return _fetched(cache, steps, start, stop) if cache.remote else _told(cache, steps, start, stop)


def _fetched(
    cache: LatentCache, steps: Steps, start: int, stop: int
) -> Generator[tuple[Sequence[MicroBatch], list[Any]]]:
    held: deque[tuple[Sequence[MicroBatch], list[Any]]] = deque()
    try:
        for step in range(start, stop):
            more = [steps(at) for at in range(step + len(held), min(step + FETCH_STEPS, stop))]
            new = [[cache.fetch(one.bucket, one.shards, one.rows) for one in micros] for micros in more]
            held.extend(zip(more, new))
            for window in (window for windows in new for window in windows):
                window.rest()  # behind what each of them needs
            yield held.popleft()
    finally:
        for window in (window for _, windows in held for window in windows):
            window.close()


def _told(cache: LatentCache, steps: Steps, start: int, stop: int) -> Generator[tuple[Sequence[MicroBatch], list[Any]]]:
    held: deque[Sequence[MicroBatch]] = deque()

    def batch(i: int) -> list[Part]:
        held.append(steps(start + i))
        return [(one.bucket, one.rows) for one in held[-1]]

    with closing(Ahead(cache, batch, stop - start, FETCH_STEPS)) as ahead:
        for i in range(stop - start):
            ahead.reached(i)
            yield held.popleft(), []
