"""Micro-batches read ahead by threads, in the plan's order whatever their number (cache.turns)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from cache import turns
from cache.read import LatentCache
from train.plan import MicroBatch

# Steps whose samples are read and drawn; whose shards are fetched; whose bytes the system is told of.
REACH = turns.Reach(load=4, fetch=32, tell=32)

Loaded = TypeVar("Loaded")


def read_ahead(
    load: Callable[[MicroBatch], Loaded], steps: Callable[[int], Sequence[MicroBatch]], start: int, stop: int, workers: int,
    cache: LatentCache,
) -> Generator[list[Loaded]]:  # fmt: skip
    """For each step from start to stop, what `load` makes of its micro-batches, in order.

    A failure to load is raised when its step's turn comes. Close the iterator to stop the threads.
    """
    return turns.read_ahead(cache, load, steps, range(start, stop), workers, REACH)
