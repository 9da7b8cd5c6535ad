"""Shards of an object store on a local shelf of bounded size: fetched ahead of their use, oldest out first.

A shard is fetched in parts by several connections at once, and what lies in a part can be read as soon as the part is
here. On a local file system the shelf is empty and hands out the shards where they lie.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from threading import RLock
from types import TracebackType
from typing import NamedTuple

from cache import ranges
from commands import runs
from media import storage

STREAMS = 32  # requests at the same time
PART_BYTES = 4_000_000  # a shard of 32 MB is asked for at once, two of them with all streams
RETRY_S = (0.1, 0.5)  # pauses before a request that failed is tried again

_numbers = count()


class Wanted(NamedTuple):
    """A file's path, how many of its bytes are needed (all of them: None), and what tells it from one of the same name
    that was rewritten."""

    path: str
    bytes: int | None = None
    version: str = ""


class Window:
    """Shards that stay on the shelf until the window is left. first: of some of them bytes [start, stop) that are needed
    first, and so are asked for first; all others are when rest() is called or waited for. Use as a context."""

    def __init__(self, shelf: Shelf, files: Sequence[Wanted], first: Sequence[tuple[str, int, int]] = ()):
        self._shelf, self._files = shelf, tuple(one for one in files if storage.is_remote(one.path))
        self._fetches = shelf.hold(self._files) if self._files else []
        held = {one.wanted.path: one for one in self._fetches}
        for path, start, stop in first:
            if path in held:
                held[path].want(start, stop)

    def rest(self) -> None:
        for fetch in self._fetches:
            fetch.want()

    def wait(self) -> None:
        """Until every shard is here. Raises what the store raised."""
        for fetch in self._fetches:
            fetch.wait()

    def __enter__(self) -> Window:
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        if self._files:
            self._shelf.release(self._files)
        self._files = ()


class Removed(OSError):
    """A file was taken off the shelf before the part that is asked for came."""


class Fetch:
    """One file on its way to the shelf, or there. Parts are numbered; a file that only its store's client can read is
    one part."""

    def __init__(self, shelf: Shelf, wanted: Wanted, local: str):
        self.wanted, self.local = wanted, local
        self._shelf, self._lock = shelf, RLock()
        self._parts: dict[int, Future[None]] = {}
        self._partial = f"{local}.{next(_numbers)}.{os.getpid()}.part"  # nobody else's: it may be mapped
        self._file: int | None = None  # descriptor of the partial file; None when whole or of one part
        self.removed = False
        self.here = os.path.exists(local) and wanted.bytes in (None, os.path.getsize(local))
        url = None if self.here or wanted.bytes is None else shelf.parts_of(wanted.path)
        self._url, self._count = url, -(-wanted.bytes // PART_BYTES) if url and wanted.bytes else 1
        if url:
            self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            os.ftruncate(self._file, wanted.bytes or 0)

    @property
    def bytes(self) -> int:
        """What it takes of the disk, or will."""
        if self.here:
            return os.path.getsize(self.local) if os.path.exists(self.local) else 0
        return len(self._parts) * PART_BYTES if self._url else self.wanted.bytes or 0

    @property
    def idle(self) -> bool:
        return all(part.done() for part in self._parts.values())

    def want(self, start: int = 0, stop: int | None = None) -> list[Future[None]]:
        """Ask for the parts of bytes [start, stop) that nobody asked for yet; all parts of the range."""
        if self.here:
            return []
        last = self._count - 1 if stop is None or not self._url else min((stop - 1) // PART_BYTES, self._count - 1)
        numbers = range(start // PART_BYTES if self._url else 0, last + 1)
        with self._lock:
            for number in numbers:
                if number not in self._parts or _failed(self._parts[number]):
                    self._parts[number] = self._shelf.submit(self, number)
            return [self._parts[number] for number in numbers]

    def wait(self, start: int = 0, stop: int | None = None) -> None:
        """Until bytes [start, stop) are here. Raises what the store raised, ranges.Short for a file that ends before."""
        for part in self.want(start, stop):
            part.result()
        self.finish()

    def opened(self) -> int:
        """A descriptor of the file, the caller's own. What is not here yet reads as zeros until wait() says otherwise."""
        self.wait(0, 1)
        if self._url is None:
            self.wait()
        with self._lock:
            if self.removed:
                raise Removed(self.local)
            return os.open(self.local, os.O_RDONLY | os.O_CLOEXEC) if self._file is None else os.dup(self._file)

    def get(self, number: int) -> None:
        """Fetch a part; called by the shelf's threads."""
        for wait_s in (*RETRY_S, None):
            try:
                return self._get(number)
            except OSError as error:  # to fsspec's web client a server that is busy looks like one without the file
                sure = isinstance(error, Removed | ranges.Short) or (self._url and isinstance(error, FileNotFoundError))
                if sure or wait_s is None:
                    raise
                time.sleep(wait_s)

    def _get(self, number: int) -> None:
        if self._url is None:
            ranges.fetch_whole(self.wanted.path, self._partial)
            os.replace(self._partial, self.local)
            self.here = True
            return
        start = number * PART_BYTES
        stop = min(start + PART_BYTES, self.wanted.bytes or 0)
        with self._lock:
            if self._file is None:
                raise Removed(self.local)
            file = os.dup(self._file)  # remove() may close ours meanwhile, and its number become another file's
        try:
            ranges.read_part(self._url, start, stop, lambda at, data: os.pwrite(file, data, at))
        finally:
            os.close(file)

    def finish(self) -> None:
        """Give the file its name when every part is here: a later run finds it."""
        with self._lock:
            if self._file is None or len(self._parts) < self._count:
                return
            if all(part.done() and not _failed(part) for part in self._parts.values()):
                os.replace(self._partial, self.local)
                self.here = True
                os.close(self._file)
                self._file = None

    def remove(self) -> None:
        """Off the shelf; who has mapped it may go on reading."""
        with self._lock:
            self.removed = True
            if self._file is not None:
                os.close(self._file)
                self._file = None
            storage.remove(self._partial)
            storage.remove(self.local)


class Shelf:
    """folder: where fetched shards lie; limit_bytes: how much of them is kept beside what windows hold."""

    def __init__(self, folder: str, limit_bytes: int):
        self._folder, self._limit = folder, limit_bytes
        self._held: Counter[str] = Counter()
        self._fetches: OrderedDict[str, Fetch] = OrderedDict()
        self._lock = RLock()
        self._pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="shelf")  # threads start with the first fetch

    def hold(self, files: Sequence[Wanted]) -> list[Fetch]:
        """Keep until released; nothing is asked for yet."""
        with self._lock:
            self._held.update(one.path for one in files)
            return [self.file(one) for one in files]

    def release(self, files: Sequence[Wanted]) -> None:
        with self._lock:
            self._held.subtract(one.path for one in files)
            self._held = +self._held
            self._make_room()

    def file(self, wanted: Wanted) -> Fetch:
        """The file, as much of it as is here; nothing is asked for yet."""
        with self._lock:
            found = self._fetches.get(wanted.path)
            if found is None or (found.here and not os.path.exists(found.local)):  # another process has made room
                if not self._fetches:
                    self._tidy()
                self._make_room()
                found = self._fetches[wanted.path] = Fetch(self, wanted, self._place(wanted))
            self._fetches.move_to_end(wanted.path)
            return found

    def forget(self, path: str) -> None:
        """A file that turned out not to hold what it should: the next reader fetches it again."""
        with self._lock:
            if path in self._fetches:
                self._fetches.pop(path).remove()

    def parts_of(self, path: str) -> str | None:
        """URL at which parts of a file can be asked for; None where they can't."""
        url = ranges.address(path)
        return None if url is None or ranges.gives_parts(url) is False else url

    def submit(self, fetch: Fetch, number: int) -> Future[None]:
        """Under no lock of the shelf's: fetches hold their own."""
        future = self._pool.submit(fetch.get, number)
        future.add_done_callback(lambda _: fetch.finish())
        return future

    def _place(self, wanted: Wanted) -> str:
        """A name that is unique to the whole path and version, so that shards of two caches don't meet."""
        digest = hashlib.sha256(f"{wanted.path} {wanted.version}".encode()).hexdigest()[:16]
        return os.path.join(self._folder, f"{digest}-{storage.name(wanted.path)}")

    def _tidy(self) -> None:
        """What earlier runs left: parts of those that are gone, and the oldest files beyond the limit."""
        os.makedirs(self._folder, exist_ok=True)
        there = sorted((one for one in os.scandir(self._folder) if one.is_file()), key=lambda one: one.stat().st_mtime)
        total = sum(one.stat().st_size for one in there)
        for one in there:
            owner = one.name.split(".")[-2] if one.name.endswith(".part") else ""
            if (total > self._limit and not owner) or (owner.isdigit() and not runs(int(owner))):
                total -= one.stat().st_size
                storage.remove(one.path)

    def _make_room(self) -> None:
        """Remove the longest unused files beyond the limit; a mapped file stays readable until it is unmapped."""
        total = sum(fetch.bytes for fetch in self._fetches.values())
        for path, fetch in list(self._fetches.items()):
            if total <= self._limit:
                return
            if not self._held[path] and fetch.idle:
                total -= fetch.bytes
                self._fetches.pop(path).remove()


def _failed(part: Future[None]) -> bool:
    return part.done() and part.exception() is not None
