"""Tars as memory maps, a bounded number of them open, and the look at a sample that is due when it is first read.

Looked at means: it lies inside its tar, the tar's header gives it the name that the index does, and its bytes have the
checksum that was taken when they were written. A tar that is mapped again is looked at again.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from threading import Lock

import numpy as np
import xxhash

from cache import ranges
from cache.fingerprint import CacheError
from cache.rows import REPAIR, Column, Names, Tar
from cache.shelf import Fetch, Removed, Shelf, Wanted, map_file
from media import storage

OPEN_MAPS = 256  # file descriptors are the limit
BLOCK_BYTES, NAME_BYTES = 512, 100  # of a tar's header, the name comes first


class Mapped:
    """bytes (N,) uint8; buffer: the same for torch; looked[row - first]: 1 where the sample was looked at."""

    __slots__ = ("buffer", "bytes", "fetch", "first", "looked", "map", "told")

    def __init__(self, mapped: mmap.mmap, tar: Tar, fetch: Fetch | None):
        self.map, self.fetch, self.first = mapped, fetch, tar.first
        self.buffer = memoryview(mapped)
        self.bytes = np.frombuffer(mapped, np.uint8)
        self.looked = bytearray(tar.stop - tar.first)
        self.told = False

    def will_need(self) -> None:
        """Have the system read all of it into memory, in its own time; once for each time it is mapped."""
        if not self.told:
            self.map.madvise(mmap.MADV_WILLNEED)
            self.told = True


class Maps:
    """The tars of one cache. shelf: where those of a store are fetched to."""

    def __init__(self, shelf: Shelf, limit_bytes: int):
        self._shelf, self._limit = shelf, limit_bytes
        self._open: OrderedDict[str, Mapped] = OrderedDict()
        self._lock = Lock()

    def tar(self, column: Column, shard: int) -> Mapped:
        """Raises CacheError for a tar that is missing or empty."""
        tar = column.tars[shard]
        with self._lock:
            found = self._open.get(tar.path)
            if found is not None and not (found.fetch and found.fetch.removed and not found.fetch.here):
                self._open.move_to_end(tar.path)
                return found
            self._open.pop(tar.path, None)
        found = self._mapped(column, tar)
        with self._lock:
            found = self._open.setdefault(tar.path, found)
            while len(self._open) > 1 and self._too_much():
                self._open.popitem(last=False)  # unmapped when the last tensor of it is gone
        return found

    def drop(self, column: Column, shard: int) -> None:
        """Map it anew, and fetch it anew, when it is next read."""
        path = column.tars[shard].path
        with self._lock:
            self._open.pop(path, None)
        self._shelf.forget(path)

    def wanted(self, column: Column, shard: int) -> Wanted:
        tar = column.tars[shard]
        return Wanted(tar.path, tar.bytes, column.version(tar))

    def held_bytes(self) -> int:
        return sum(len(one.map) for one in self._open.values())

    def _too_much(self) -> bool:
        """A fetched shard takes room on the disk as long as it is mapped, though the shelf may have let it go."""
        fetched = any(one.fetch is not None for one in self._open.values())
        return len(self._open) > OPEN_MAPS or (fetched and self.held_bytes() > self._limit)

    def _mapped(self, column: Column, tar: Tar) -> Mapped:
        fetch = None
        try:
            if storage.is_remote(tar.path):
                fetch = self._shelf.file(Wanted(tar.path, tar.bytes, column.version(tar)))
                fetch.wait(0, 1)
                mapped = fetch.mapped()
            else:
                mapped = map_file(tar.path)
        except FileNotFoundError:
            mapped = None
        except ranges.Short:
            mapped = None
        if mapped is None:
            raise CacheError(f"{tar.path}: a shard of the index is missing or empty; {REPAIR}")
        return Mapped(mapped, tar, fetch)


def arrived(mapped: Mapped, column: Column, row: int, start: int, stop: int) -> None:
    """Wait for bytes [start, stop) of a tar that is being fetched. Raises CacheError naming the sample."""
    assert mapped.fetch is not None
    try:
        mapped.fetch.wait(max(0, start - BLOCK_BYTES), stop)
    except ranges.Short as error:
        raise CacheError(f"{column.name(row)}: its tar ends before it ({error}); {REPAIR}") from None
    except Removed:
        raise
    except OSError as error:
        raise CacheError(f"{column.name(row)}: could not be fetched ({error}); is the store there?") from error


def look(mapped: Mapped, column: Column, row: int, start: int, stop: int, sums: bool) -> None:
    """What is due when a sample is first read; see above. sums: checksums too. Raises CacheError naming the sample."""
    if stop > len(mapped.map):
        raise CacheError(f"{column.name(row)}: {_path(column, row)} ends before it ({len(mapped.map)} bytes); {REPAIR}")
    at = max(0, start - BLOCK_BYTES)
    there = mapped.map[at : at + NAME_BYTES].rstrip(b"\0") if start >= BLOCK_BYTES else b""
    if not _is_named(there, column.names, row, sums):
        raise CacheError(
            f"{column.name(row)}: {_path(column, row)} holds another member there; the index is of another cache; {REPAIR}"
        )
    if sums and xxhash.xxh3_64_intdigest(mapped.buffer[start:stop]) != int(column.sums[row]):
        raise CacheError(
            f"{column.name(row)}: its bytes in {_path(column, row)} are not those that were written; {REPAIR}"
        )


def _is_named(there: bytes, names: Names, row: int, sums: bool) -> bool:
    """Whether the tar's header gives a sample the name that the index does. Of the samples of a clip, the checksum tells
    which one it is: then the column of a million keys need not be read."""
    clip = names.clips[row].as_py()
    return (sums and there == f"{clip}.safetensors".encode()) or (
        there == f"{names.keys[row].as_py()}.safetensors".encode()
    )


def _path(column: Column, row: int) -> str:
    return column.tars[int(column.shards[row])].path
