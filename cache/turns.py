"""Samples read turn by turn, ahead of their use: a turn is a batch of an epoch, or the micro-batches of a training step.

Threads load them, in their order whatever the number of threads. Before that their shards are fetched, or, where they are
files, the system is told which bytes come next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cache.ahead import MOST, Ahead, Together
from cache.shelf import Window

if TYPE_CHECKING:
    from cache.read import LatentCache

Some = TypeVar("Some", bound=Together)
Loaded = TypeVar("Loaded")
Turn = Callable[[int], Sequence[Some]]
Coming = Generator[tuple[Sequence[Some], Sequence[Window]]]
Waiting = deque[tuple[list[Future[Loaded]], Sequence[Window]]]


class Reach(NamedTuple):
    """How many turns ahead: loaded; fetched from a store; planned, for the system to be told of them, at most."""

    load: int
    fetch: int
    tell: int = MOST


def read_ahead(cache: LatentCache, load: Callable[[Some], Loaded], turn: Turn[Some], turns: range, workers: int,
               reach: Reach) -> Generator[list[Loaded]]:  # fmt: skip
    """For each of the turns what `load` makes of its samples, in order; without workers, from files, when it is asked for.

    A failure to load is raised in its turn. Close the generator to stop the threads.
    """
    with ExitStack() as left:
        coming = left.enter_context(closing(_coming(cache, turn, turns, reach)))
        if not workers and not cache.remote:
            for some, _ in coming:
                yield [load(one) for one in some]
            return
        pool = left.enter_context(ThreadPoolExecutor(max(1, workers), thread_name_prefix="cache"))
        waiting: Waiting[Loaded] = deque()
        left.callback(_stop, waiting)
        for some, windows in coming:
            waiting.append(([pool.submit(load, one) for one in some], windows))
            if len(waiting) == reach.load:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)


def _taken(waiting: Waiting[Loaded]) -> list[Loaded]:
    found = [one.result() for one in waiting[0][0]]
    for window in waiting.popleft()[1]:
        window.close()
    return found


def _stop(waiting: Waiting[Any]) -> None:
    for futures, windows in waiting:
        for one in (*futures, *windows):
            one.cancel() if isinstance(one, Future) else one.close()


def _coming(cache: LatentCache, turn: Turn[Some], turns: range, reach: Reach) -> Coming[Some]:
    """The samples of each turn, and what keeps their shards on the shelf."""
    return _fetched(cache, turn, turns, reach.fetch) if cache.remote else _told(cache, turn, turns, reach.tell)


def _fetched(cache: LatentCache, turn: Turn[Some], turns: range, most: int) -> Coming[Some]:
    held: deque[tuple[Sequence[Some], Sequence[Window]]] = deque()
    try:
        for at in turns:
            more = [turn(i) for i in range(at + len(held), min(at + most, turns.stop))]
            new = [[cache.fetch(one.bucket, one.shards, one.rows) for one in some] for some in more]
            held.extend(zip(more, new))
            for window in chain.from_iterable(new):
                window.rest()  # behind what each of them needs
            yield held.popleft()
    finally:
        for window in chain.from_iterable(windows for _, windows in held):
            window.close()


def _told(cache: LatentCache, turn: Turn[Some], turns: range, most: int) -> Coming[Some]:
    held: deque[Sequence[Some]] = deque()

    def planned(i: int) -> Sequence[Some]:
        held.append(turn(turns[i]))
        return held[-1]

    with closing(Ahead(cache, planned, len(turns), most)) as ahead:
        for i in range(len(turns)):
            ahead.reached(i)
            yield held.popleft(), ()
