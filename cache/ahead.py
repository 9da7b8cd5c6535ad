"""Reading ahead where the order is known: the system is told which bytes come next, in the order in which they lie.

Samples come shuffled, and a disk that is asked for each when its turn comes waits most of the time. So the coming
batches are taken together, as many as AHEAD_BYTES allow; their samples are sorted by tar and offset, neighbours become
one stretch, and a thread asks the system for them, or reads long ones for nobody, piece by piece: of a longer request
Linux reads only the start. It is a hint: nothing is kept, the order of the batches is not touched, and what is wrong with
a file is told by whoever reads it. Where some samples that are looked for are all in
the page cache, nothing is asked for and no thread is started.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from cache.fingerprint import CacheError
from cache.maps import BLOCK_BYTES, PIECE_BYTES
from cache.rows import Column

if TYPE_CHECKING:
    from cache.read import LatentCache

AHEAD_BYTES = 256_000_000  # asked for and not yet read, at most
MEMORY_SHARE = 8  # and no more than one part in so many of the memory that is available
FIRST_BYTES = 4_000_000  # asked for at first, so that the first batch does not wait for others
STEP_BYTES = 8_000_000  # asked for together later: of 64 MB in the order of the disk a batch waits for most
MOST = 256  # batches that are asked for and not yet read, at most: of tiny samples many go into the bytes
GAP_BYTES = 1 << 17  # to read so little for nothing is cheaper than another request
LONG_BYTES = 1 << 22  # stretches from here on are read rather than asked for, which is faster
PROBES = 8  # samples that are looked for in the page cache before many are asked for

Part = tuple[str, Sequence[int]]  # a bucket, and rows of its index


class Together(Protocol):
    """Samples that are read together: rows of a bucket's index, and the shards they lie in."""

    @property
    def bucket(self) -> str: ...
    @property
    def rows(self) -> Sequence[int]: ...
    @property
    def shards(self) -> Sequence[int]: ...


class Stretch(NamedTuple):
    """Bytes [start, stop) of a shard's tar."""

    shard: int
    start: int
    stop: int


class Ahead:
    """Of batches that are read in order: batch(i) says what the next one holds and is called once for each, well before
    reached(i), which is called before it is read. Close it to stop its thread."""

    def __init__(self, cache: LatentCache, batch: Callable[[int], Sequence[Together]], count: int, most: int = MOST):
        self._cache, self._batch, self._count, self._most = cache, batch, count, most
        self._limit = AHEAD_BYTES
        self._coming: deque[int] = deque()  # bytes of batches that were asked for and not reached
        self._next, self._asked, self._step = 0, 0, FIRST_BYTES
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def reached(self, i: int) -> None:
        for _ in range(2 if i else 1):  # soon far ahead, but the first batch comes before most of what follows it
            few = self._asked <= self._limit // 2 and len(self._coming) <= self._most // 2
            if self._next < self._count and (few or i >= self._next):
                self._more()
        self._asked -= self._coming.popleft()

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _more(self) -> None:
        """The next batches, of each bucket the rows together."""
        rows: dict[str, list[int]] = {}
        taken, last = 0, min(self._count, self._next + self._most - len(self._coming))
        while self._next < last and not (taken and (taken >= self._step or self._asked + taken >= self._limit)):
            parts = self._batch(self._next)
            for one in parts:
                rows.setdefault(one.bucket, []).extend(one.rows)
            self._coming.append(sum(round(len(one.rows) * self._cache.rows(one.bucket).mean_bytes) for one in parts))
            self._next, taken = self._next + 1, taken + self._coming[-1]
        self._asked += taken
        cold = [(bucket, some) for bucket, some in rows.items() if not self._there(bucket, some)]
        self._step = min(STEP_BYTES if cold else 4 * self._step, self._limit // 2)  # to look costs something too
        if cold:
            if self._thread is None:
                self._limit = max(FIRST_BYTES, min(AHEAD_BYTES, available_bytes() // MEMORY_SHARE))
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
            self._thread.submit(self._ask, cold)

    def _columns(self, bucket: str) -> tuple[Column, Column]:
        rows = self._cache.rows(bucket)
        return rows.latents, rows.texts

    def _there(self, bucket: str, rows: Sequence[int]) -> bool:
        """Whether the page cache has some of them, from the first to the last."""
        some = rows[:: max(1, len(rows) // PROBES)]
        try:
            places = (
                (column, row) for column, mine in zip(self._columns(bucket), (some[::2], some[1::2])) for row in mine
            )
            return all(
                self._cache.maps.tar(column, int(column.shards[row])).cached(int(column.offsets[row]))
                for column, row in places
            )
        except CacheError:  # a tar is missing: whoever reads it says so
            return False

    def _ask(self, parts: Sequence[Part]) -> None:
        for bucket, rows in parts:
            for column in self._columns(bucket):
                for one in stretches(column, np.asarray(rows, np.int64)):
                    if self._closed:
                        return
                    try:
                        tar = self._cache.maps.tar(column, one.shard)
                    except CacheError:
                        continue
                    ask = tar.will_need if one.stop - one.start < LONG_BYTES else tar.load
                    for at in range(one.start, one.stop, PIECE_BYTES):
                        if self._closed:
                            return
                        ask(at, min(PIECE_BYTES, one.stop - at))


def stretches(column: Column, rows: np.ndarray) -> list[Stretch]:
    """What must be read for rows (N,) of an index, each with the tar's header before it: by shard and offset, those that
    lie close to each other in one."""
    rows = np.unique(rows)  # by shard; inside of one most often by offset too
    shards, starts = column.shards[rows].astype(np.int64), column.offsets[rows].astype(np.int64)
    order = np.lexsort((starts, shards))
    shards, starts, stops = shards[order], starts[order], (starts + column.sizes[rows])[order]
    far = (shards[1:] != shards[:-1]) | (starts[1:] - BLOCK_BYTES - stops[:-1] > GAP_BYTES)
    firsts = np.flatnonzero(np.concatenate([[True], far]))
    ends = np.maximum.reduceat(stops, firsts)
    begins = np.maximum(starts[firsts] - BLOCK_BYTES, 0)
    return [Stretch(*one) for one in zip(shards[firsts].tolist(), begins.tolist(), ends.tolist())]


def available_bytes() -> int:
    """Memory that can be had without swapping; half of all where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
