"""What can happen behind the VAE happens there: one thread packs samples, writes tars and tables, flushes and sends."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

WAITING = 16  # pieces that may wait to be written; then the VAE waits
_END = object()


class _Abandoned(Exception):
    """What is being written is not wanted any more."""


class Behind:
    """Work done in order by one thread, or, when not threaded, at once by this one. Its first error ends it and is raised
    by the next call, or when the block ends.

    A block that ends with an error abandons what is unfinished: no half of a shard is left.
    """

    def __init__(self, threaded: bool = True):
        self._threaded = threaded
        self._todo: queue.Queue[Any] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def feed(self, consume: Callable[[Iterator[Any]], None], items: Iterable[Any] = ()) -> None:
        """Have consume(items) called by the thread, while the items are made by this one."""
        if not self._threaded:
            consume(iter(items))
            return
        self._put(consume)
        for item in items:
            self._put(item)
        self._put(_END)

    def __enter__(self) -> Behind:
        if self._threaded:
            self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._threaded:
            self._todo.put(None)
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _put(self, one: Any) -> None:
        if self._error is not None:
            raise self._error
        self._todo.put(one)

    def _run(self) -> None:
        try:
            while (consume := self._todo.get()) is not None:
                items = self._items()
                consume(items)
                deque(items, maxlen=0)  # what it did not take
        except _Abandoned:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the work came from
            self._error = error
            while self._todo.get() is not None:
                pass  # so that nobody waits for room

    def _items(self) -> Iterator[Any]:
        while (one := self._todo.get()) is not _END:
            if one is None:
                raise _Abandoned
            yield one
