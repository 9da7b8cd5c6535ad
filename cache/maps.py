"""Tars, a bounded number of them open, and the look at a sample that is due when it is first read.

Batches are read to their place; a map is for views of a few samples. To read bytes of a file that the page cache has
costs a third of mapping and copying them, and a file that is cut short is an answer and not a signal.

Looked at means: it lies inside its tar, the tar's header gives it the name that the index does, and its bytes have the
checksum that was taken when they were written. A tar that is opened again is looked at again.
"""

from __future__ import annotations

import math
import mmap
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from threading import Lock, local

import xxhash

from cache import ranges
from cache.fingerprint import CacheError
from cache.rows import HEADER_BYTES, REPAIR, Column, Names, Tar
from cache.shelf import Fetch, Removed, Shelf, Wanted
from media import storage

OPEN_TARS = 256  # file descriptors are the limit
AGAIN = 2  # times that a tar is read before it is mapped: a map costs more than it saves until it was read five times
PIECE_BYTES = 1 << 19
HINTS = hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT")  # Linux; elsewhere nothing is read ahead
BLOCK_BYTES, NAME_BYTES = HEADER_BYTES, 100  # of a tar's header, the name comes first

_mine = local()  # of each thread that reads ahead


class Opened:
    """A tar. looked[row - first]: 0 where nobody has looked at the sample yet, else a number that whoever looked at it
    remembers it by. Closed when nobody holds it any more."""

    __slots__ = ("__weakref__", "_map", "_whole", "fetch", "file", "first", "looked", "size", "taken", "used")

    def __init__(self, file: int, tar: Tar, fetch: Fetch | None):
        self.file, self.fetch, self.first = file, fetch, tar.first
        self.size = os.fstat(file).st_size
        self._whole = self.size >= tar.bytes
        self.looked = array("H", bytes(2 * (tar.stop - tar.first)))
        self.used, self.taken = 0, 0
        self._map: memoryview | None = None

    def __del__(self) -> None:
        os.close(self.file)

    @property
    def map(self) -> memoryview:
        """Copy-on-write: torch wants a writable buffer, the file is never written. What is not here yet shows as zeros."""
        if self._map is None:
            self._map = memoryview(mmap.mmap(self.file, 0, access=mmap.ACCESS_COPY))
        return self._map

    def mapped(self) -> memoryview | None:
        """The map of a tar that was read often enough, for copies at once: who touches a map behind the end of its file
        is killed, so the file's size is asked for each time. None: read, also one that never had all that the index says."""
        if self.fetch is not None or self.taken <= AGAIN * self.size or not self._whole:
            return None
        return self.map if os.lseek(self.file, 0, os.SEEK_END) >= self.size else None  # a third of what fstat takes

    def read(self, buffers: Sequence[memoryview], at: int, size: int) -> bool:
        """Fill buffers of `size` bytes, one after the other, with what lies at `at`. Whether the file has as much."""
        self.taken += size
        missing = size - os.preadv(self.file, buffers, at)
        return not missing or self._read_on(buffers, at, missing)

    def read_summed(
        self, buffers: Sequence[memoryview], at: int, digest: xxhash.xxh3_64, before: memoryview | None = None
    ) -> bool:
        """The same, and their bytes into the digest. before: filled first, not for the digest. Large ones go piece by
        piece, while they are in the processor's cache; small ones with one system call."""
        size, first = sum(map(len, buffers)), () if before is None else (before,)
        if size <= 2 * PIECE_BYTES:
            if not self.read((*first, *buffers), at, size + sum(map(len, first))):
                return False
            for one in buffers:
                digest.update(one)
            return True
        for whole in (*first, *buffers):
            for start in range(0, len(whole), PIECE_BYTES):
                piece = whole[start : start + PIECE_BYTES]
                if not self.read((piece,), at, len(piece)):
                    return False
                if whole is not before:
                    digest.update(piece)
                at += len(piece)
        return True

    def _read_on(self, buffers: Sequence[memoryview], at: int, missing: int) -> bool:
        """A read may end early: at the end of the file, or because the system reads no more at once."""
        start = sum(map(len, buffers)) - missing
        for one in buffers:
            while start < len(one) and (got := os.preadv(self.file, [one[start:]], at + start)):
                start += got
            if start < len(one):
                return False
            start, at = start - len(one), at + len(one)
        return True

    def will_need(self, at: int, size: int) -> None:
        """Have the system read bytes into the page cache, in its own time."""
        if HINTS:
            os.posix_fadvise(self.file, at, size, os.POSIX_FADV_WILLNEED)

    def load(self, at: int, size: int) -> None:
        """Have at most PIECE_BYTES in the page cache: they are read and thrown away. Of a long stretch Linux then makes
        large pieces and not single pages: 1.2 to 1.5 GB/s at 200 to 260 us of CPU a MB, and not 0.95 at 400. A short one
        would have it read megabytes more than was asked for."""
        if not hasattr(_mine, "scratch"):
            _mine.scratch = memoryview(bytearray(PIECE_BYTES))
        with suppress(OSError):  # whoever needs them says what is wrong
            os.preadv(self.file, [_mine.scratch[:size]], at)

    def cached(self, at: int) -> bool:
        """Whether the page cache has the byte at `at`: to read it would not wait. True where the system takes no hints."""
        if not HINTS:
            return True
        try:
            return os.preadv(self.file, [bytearray(1)], at, os.RWF_NOWAIT) == 1
        except OSError:  # it would, or the file system does not say
            return False


class Maps:
    """The tars of one cache. shelf: where those of a store are fetched to."""

    def __init__(self, shelf: Shelf, limit_bytes: int):
        self._shelf, self._limit = shelf, limit_bytes
        self._open: dict[str, Opened] = {}
        self._lock = Lock()
        self._clock = count()

    def tar(self, column: Column, shard: int) -> Opened:
        """Raises CacheError for a tar that is missing or empty."""
        path = column.tars[shard].path
        found = self._open.get(path)
        if found is None or (found.fetch is not None and found.fetch.removed and not found.fetch.here):
            found = self._opened(column, shard)
            with self._lock:
                self._open[path] = found
                while len(self._open) > 1 and self._too_much():
                    oldest = min(self._open, key=lambda one: self._open[one].used if one != path else math.inf)
                    del self._open[oldest]  # closed when the last batch or tensor of it is gone
        found.used = next(self._clock)
        return found

    def drop(self, column: Column, shard: int) -> None:
        """Open it anew, and fetch it anew, when it is next read."""
        path = column.tars[shard].path
        with self._lock:
            self._open.pop(path, None)
        self._shelf.forget(path)

    def wanted(self, column: Column, shard: int) -> Wanted:
        tar = column.tars[shard]
        return Wanted(tar.path, tar.bytes, column.version(tar))

    def held_bytes(self) -> int:
        return sum(one.size for one in self._open.values())

    def _too_much(self) -> bool:
        """A fetched shard takes room on the disk as long as it is mapped, though the shelf may have let it go."""
        fetched = any(one.fetch is not None for one in self._open.values())
        return len(self._open) > OPEN_TARS or (fetched and self.held_bytes() > self._limit)

    def _opened(self, column: Column, shard: int) -> Opened:
        tar = column.tars[shard]
        try:
            fetch = self._shelf.file(self.wanted(column, shard)) if storage.is_remote(tar.path) else None
            found = Opened(fetch.opened() if fetch else os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC), tar, fetch)
        except (FileNotFoundError, ranges.Short):
            found = None
        if found is None or not found.size:
            raise CacheError(f"{tar.path}: a shard of the index is missing or empty; {REPAIR}")
        return found


def arrived(opened: Opened, column: Column, row: int, start: int, stop: int) -> None:
    """Wait for bytes [start, stop) of a tar that is being fetched. Raises CacheError naming the sample."""
    if opened.fetch is None or opened.fetch.here:
        return
    try:
        opened.fetch.wait(max(0, start - BLOCK_BYTES), stop)
    except ranges.Short as error:
        raise CacheError(f"{column.name(row)}: its tar ends before it ({error}); {REPAIR}") from None
    except Removed:
        raise
    except OSError as error:
        raise CacheError(f"{column.name(row)}: could not be fetched ({error}); is the store there?") from error


def look(column: Column, row: int, clip: str, head: bytes, data: memoryview, sums: bool) -> None:
    """What is due when a sample is first read; see above. head: the tar's header before it; data: its bytes; sums:
    checksums too. Raises CacheError naming the sample."""
    if not (sums and head.startswith(member_name(clip))) and not _is_named(head, column.names, row):
        raise CacheError(
            f"{column.name(row)}: {_path(column, row)} holds another member there; the index is of another cache; {REPAIR}"
        )
    if sums and xxhash.xxh3_64_intdigest(data) != int(column.sums[row]):
        raise CacheError(
            f"{column.name(row)}: its bytes in {_path(column, row)} are not those that were written; {REPAIR}"
        )


def ends_before(column: Column, row: int, size: int) -> CacheError:
    return CacheError(f"{column.name(row)}: {_path(column, row)} ends before it ({size} bytes); {REPAIR}")


def member_name(key: str) -> bytes:
    """How a tar's header starts, to the end of the name."""
    return f"{key}.safetensors\0".encode()


def _is_named(head: bytes, names: Names, row: int) -> bool:
    """Whether the tar's header gives a sample the name that the index does. Most are the clip's id, and of the samples of
    a clip the checksum tells which one it is: for them the column of a million keys need not be read."""
    return head.startswith(member_name(names.keys[row].as_py())[:NAME_BYTES])


def _path(column: Column, row: int) -> str:
    return column.tars[int(column.shards[row])].path
