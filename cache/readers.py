"""Pixels read ahead in processes of their own: a decoder that crashes or hangs costs one sample, not the run.

A reader is a spawned process at the other end of a pipe. The thread that looks after it starts it again when it dies,
or when it takes longer than `stall_s`; a sample that does this twice is given up with that reason.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from cache.buckets import Bucket
from cache.pixels import Crop, read_pixels

STRIKES = 2
AHEAD_BYTES = 1_000_000_000  # pixels that may wait for the VAE


class Request(NamedTuple):
    """One sample's pixels: see cache.pixels.read_pixels. With `samples` it is so much of its sound instead, at `rate`."""

    path: str
    start_s: float
    crop: Crop
    bucket: Bucket
    samples: int = 0
    rate: int = 0


Result = np.ndarray | str  # uint8 (frames, height, width, 3) or float32 (samples,), or why there is none


def read_ahead(requests: Iterable[Request], workers: int, stall_s: float) -> Generator[Result, None, None]:
    """One result per request, in their order, read by `workers` processes; by none in this process when it is 0."""
    if workers == 0:
        for request in requests:
            yield _read(request)
        return
    crew = _Crew(workers, stall_s)
    try:
        yield from crew.run(list(requests))
    finally:
        crew.stop()


class _Crew:
    """Threads, one per process, that take requests in order and put results where the consumer finds them in order."""

    def __init__(self, workers: int, stall_s: float):
        self._stall_s = stall_s
        self._workers = workers
        self._todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._results: dict[int, Result] = {}
        self._arrived = threading.Condition()
        self._stopping = False

    def run(self, requests: Sequence[Request]) -> Iterator[Result]:
        ahead = max(2 * self._workers, *(AHEAD_BYTES // _bytes(one) for one in requests[:1]), 1)
        ahead = min(ahead, 16 * self._workers)
        threads = [
            threading.Thread(target=self._look_after, args=(requests,), daemon=True) for _ in range(self._workers)
        ]
        for at in range(min(ahead, len(requests))):
            self._todo.put(at)
        for thread in threads:
            thread.start()
        for at in range(len(requests)):
            with self._arrived:
                self._arrived.wait_for(lambda at=at: at in self._results)
                result = self._results.pop(at)
            if at + ahead < len(requests):
                self._todo.put(at + ahead)
            yield result

    def stop(self) -> None:
        self._stopping = True
        for _ in range(self._workers):
            self._todo.put(None)

    def _look_after(self, requests: Sequence[Request]) -> None:
        reader = _Reader()
        while (at := self._todo.get()) is not None and not self._stopping:
            result: Result = ""
            for _ in range(STRIKES):
                result, alive = reader.ask(requests[at], self._stall_s)
                if alive:
                    break
                reader.end()
                reader = _Reader()
            with self._arrived:
                self._results[at] = result
                self._arrived.notify_all()
        reader.end()


class _Reader:
    """One spawned process, started with the first request."""

    def __init__(self):
        self._process: Any = None
        self._pipe: Connection | None = None

    def ask(self, request: Request, stall_s: float) -> tuple[Result, bool]:
        """The result, and whether the process is still of use."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(tuple(request))
            if not self._pipe.poll(stall_s):
                return f"reading it took longer than {stall_s:g} s", False
            found = self._pipe.recv()
            if isinstance(found, str):
                return found, True
            shape, dtype = found
            array = np.empty(shape, dtype)
            self._pipe.recv_bytes_into(array.reshape(-1).view(np.uint8).data)
            return array, True
        except (EOFError, OSError):
            return "the decoder crashed on it", False

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection) -> None:
    """The reader's process: answer until the other end is closed. Signals are for the process that looks after it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            path, start_s, crop, bucket, *sound = pipe.recv()
        except (EOFError, OSError):
            return
        result = _read(Request(path, start_s, Crop(*crop), Bucket(*bucket), *sound))
        if isinstance(result, str):
            pipe.send(result)
        else:
            pipe.send((result.shape, result.dtype.str))
            pipe.send_bytes(np.ascontiguousarray(result).reshape(-1).view(np.uint8).data)


def _read(request: Request) -> Result:
    """Whatever a file does wrong becomes a reason: one bad file costs one sample."""
    try:
        if request.samples:
            from media.sound import read_sound

            return read_sound(request.path, request.start_s, request.samples, request.rate)
        return read_pixels(request.path, request.start_s, request.crop, request.bucket)
    except Exception as error:  # noqa: BLE001 - decoders raise their own types; the reason is kept and counted
        return f"could not be read: {type(error).__name__}: {error}".splitlines()[0]


def _bytes(request: Request) -> int:
    return request.bucket.frames * request.bucket.height * request.bucket.width * 3
