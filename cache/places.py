"""Where the samples of a batch lie, in tars that are open and fetched; each looked at when it is first read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from cache.fingerprint import CacheError
from cache.maps import BLOCK_BYTES, Maps, Opened, arrived, ends_before, look
from cache.rows import Column
from cache.shelf import Removed

TRIES = 5

Inspect = Callable[
    [int, memoryview], int
]  # (row, its bytes) -> its number from 1 on; raises CacheError for what they hold
Made = TypeVar("Made")


class Places(NamedTuple):
    """Sample i is row rows[i] of an index, of clip clips[i], and bytes [starts[i], stops[i]) of tar(i), which is
    opened[shards[i]]; numbers[i]: what it was remembered by when it was looked at, 0: never; due: those to look at. Lists
    of numbers: an object for each sample would take longer than to read it."""

    rows: list[int]
    clips: Sequence[str]
    shards: list[int]
    opened: dict[int, Opened]
    starts: list[int]
    stops: list[int]
    numbers: list[int]
    due: list[int]

    def tar(self, i: int) -> Opened:
        return self.opened[self.shards[i]]

    def looked(self, i: int, number: int = 1) -> None:
        tar = self.tar(i)
        self.numbers[i] = tar.looked[self.rows[i] - tar.first] = number

    def maps(self) -> list[memoryview | None]:
        """Of each sample's tar the map, where it is worth having."""
        found = {shard: tar.mapped() for shard, tar in self.opened.items()}
        return [found[shard] for shard in self.shards]

    def in_memory(self) -> list[memoryview] | None:
        """The map of each sample's tar; None if one of them has none worth having."""
        found = self.maps()
        return None if None in found else found  # type: ignore[return-value] (none is None)


class Looker(NamedTuple):
    """Reads samples of a column and looks at those that are due. sums: checksums too; always: every time."""

    maps: Maps
    column: Column
    sums: bool
    always: bool
    inspect: Inspect

    def places(self, rows: Sequence[int] | np.ndarray, clips: Sequence[str]) -> Places:
        """rows: some of the index. Raises CacheError for a tar that is missing."""
        column, at = self.column, np.asarray(rows, np.int64)
        shards, starts, sizes = column.shards[at].tolist(), column.offsets[at], column.sizes[at]
        opened = {shard: self.maps.tar(column, shard) for shard in set(shards)}
        mine = at.tolist()
        numbers = [(tar := opened[shard]).looked[row - tar.first] for row, shard in zip(mine, shards)]
        due: list[int] = []
        if self.always or 0 in numbers:
            due = [i for i, number in enumerate(numbers) if self.always or not number]
        found = Places(mine, clips, shards, opened, starts.tolist(), (starts + sizes).tolist(), numbers, due)
        for tar in opened.values():
            if tar.fetch is not None and not tar.fetch.here:
                _ask(found)
                break
        return found

    def views(self, at: Places) -> Iterator[memoryview]:
        """Bytes of samples in the map."""
        due = set(at.due)
        for i, (row, start, stop) in enumerate(zip(at.rows, at.starts, at.stops)):
            tar = at.tar(i)
            arrived(tar, self.column, row, start, stop)
            if stop > tar.size:
                raise ends_before(self.column, row, tar.size)
            data = tar.map[start:stop]
            if i in due:
                self.look(at, i, bytes(tar.map[max(0, start - BLOCK_BYTES) : start]), data)
            yield data

    @property
    def trusts(self) -> bool:
        """A right checksum says that the numbers are finite too."""
        return self.sums and self.column.finite

    def head(self, at: Places, i: int, size: int) -> memoryview:
        """The tar's header before sample i and its first `size` bytes or all it has, not looked at."""
        start, stop = at.starts[i], min(at.stops[i], at.starts[i] + size)
        tar, before = at.tar(i), min(BLOCK_BYTES, start)
        arrived(tar, self.column, at.rows[i], start, stop)
        found = memoryview(bytearray(before + stop - start))
        if not tar.read((found,), start - before, len(found)):
            raise ends_before(self.column, at.rows[i], tar.size)
        return found

    def read(self, at: Places, i: int, into: memoryview | None = None) -> memoryview:
        """Bytes of sample i, read and looked at. into: room for them and for the tar's header before them."""
        row, tar, start, stop = at.rows[i], at.tar(i), at.starts[i], at.stops[i]
        before = min(BLOCK_BYTES, start)
        block = into if into is not None and before == BLOCK_BYTES else memoryview(bytearray(before + stop - start))
        arrived(tar, self.column, row, start, stop)
        if not tar.read([block], start - before, before + stop - start):
            raise ends_before(self.column, row, tar.size)
        data = block[before:]
        self.look(at, i, bytes(block[:before]), data)
        return data

    def look(self, at: Places, i: int, head: bytes, data: memoryview) -> None:
        """All that is due for a sample at once, while its bytes are in the processor's cache. Raises CacheError."""
        row, tar = at.rows[i], at.tar(i)
        try:
            look(self.column, row, at.clips[i], head, data, self.sums)
            number = self.inspect(row, data)
        except CacheError:
            if tar.fetch is not None:
                self.maps.drop(self.column, int(self.column.shards[row]))
            raise
        at.looked(i, number)


def patiently(bucket: str, make: Callable[[], Made]) -> Made:
    """What `make` makes of samples on a shelf, which may have to make room meanwhile. Raises CacheError."""
    for _ in range(TRIES):
        try:
            return make()
        except Removed:  # it is fetched again
            continue
    raise CacheError(f"{bucket}: the shelf is too small for a batch, give it more with shelf_bytes")


def _ask(at: Places) -> None:
    """Ask for all of a batch at once, before the first of it is waited for."""
    for shard, start, stop in zip(at.shards, at.starts, at.stops):
        fetch = at.opened[shard].fetch
        if fetch is not None and not fetch.here:
            fetch.want(start, stop)
