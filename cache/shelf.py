"""Shards of an object store on a local shelf of bounded size: fetched whole, ahead of their use, oldest out first.

On a local file system the shelf is empty and hands out the shards where they lie.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, get_ident
from types import TracebackType

import fsspec

from media import storage

STREAMS = 4  # shards fetched at the same time
RETRY_S = (0.1, 0.5)  # pauses before a fetch that failed is tried again


class Window:
    """Shards that are being fetched and stay on the shelf until the window is left. Use as a context."""

    def __init__(self, shelf: Shelf, paths: Sequence[str]):
        self._shelf, self._paths = shelf, tuple(paths)
        self._fetches = shelf.hold(self._paths)

    def wait(self) -> None:
        """Until every shard is here. Raises what the store raised."""
        for fetch in self._fetches:
            fetch.result()

    def __enter__(self) -> Window:
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        self._shelf.release(self._paths)
        self._paths = ()


class Shelf:
    """folder: where fetched shards lie; limit_bytes: how much of them is kept beside what windows hold."""

    def __init__(self, folder: str, limit_bytes: int):
        self._folder, self._limit = folder, limit_bytes
        self._held: Counter[str] = Counter()
        self._fetches: OrderedDict[str, Future[str]] = OrderedDict()
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None  # threads start with the first fetch

    def local(self, path: str) -> str:
        """A local path with the whole file's bytes; waits for the fetch."""
        return self._fetch(path).result() if storage.is_remote(path) else path

    def hold(self, paths: Sequence[str]) -> list[Future[str]]:
        """Start fetching and keep until released."""
        remote = [path for path in paths if storage.is_remote(path)]
        with self._lock:
            self._held.update(remote)
        return [self._fetch(path) for path in remote]

    def release(self, paths: Sequence[str]) -> None:
        with self._lock:
            self._held.subtract(path for path in paths if storage.is_remote(path))
            self._held = +self._held
            self._make_room()

    def _fetch(self, path: str) -> Future[str]:
        with self._lock:
            if path in self._fetches:
                self._fetches.move_to_end(path)
                if _usable(self._fetches[path]):
                    return self._fetches[path]
            if self._pool is None:
                self._pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="shelf")
            self._make_room()
            self._fetches[path] = self._pool.submit(self._get, path)
            return self._fetches[path]

    def _get(self, path: str) -> str:
        """Fetch under a name that is unique to the whole path, so that shards of two caches don't meet."""
        local = os.path.join(self._folder, hashlib.sha256(path.encode()).hexdigest()[:16] + "-" + storage.name(path))
        for wait_s in (*RETRY_S, None):
            if os.path.exists(local):
                break
            try:
                _fetched(path, local)
            except OSError:  # a web server that is busy looks like one that has no such file
                if wait_s is None:
                    raise
                time.sleep(wait_s)
        return local

    def _make_room(self) -> None:
        """Remove the longest unused files beyond the limit; a mapped file stays readable until it is unmapped."""
        done = [path for path, fetch in self._fetches.items() if fetch.done() and not fetch.exception()]
        sizes = {path: _size(self._fetches[path].result()) for path in done}
        total = sum(sizes.values())
        for path in done:
            if total <= self._limit:
                return
            if not self._held[path]:
                storage.remove(self._fetches.pop(path).result())
                total -= sizes[path]


def _fetched(path: str, local: str) -> None:
    """One request for the whole file, whether or not the server can give parts; it appears at `local` whole."""
    fs, inner = fsspec.core.url_to_fs(path)
    beside = f"{local}.{os.getpid()}-{get_ident()}.part"
    os.makedirs(os.path.dirname(local), exist_ok=True)
    try:
        fs.get_file(inner, beside)
        os.replace(beside, local)
    finally:
        storage.remove(beside)


def _usable(fetch: Future[str]) -> bool:
    """Under way, or here: another process with the same shelf may have made room."""
    return not fetch.done() or (fetch.exception() is None and os.path.exists(fetch.result()))


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
