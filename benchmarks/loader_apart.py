"""Contestants of benchmarks.loader in processes of their own, as in a training run: nobody profits from memory that
another one has made warm, and what a process held is gone when it ends. They are forked from one that has imported
everything and opened nothing, so that imports are nobody's, and work one at a time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

GRACE_S = 1.0  # in which a process ends by itself

Made = TypeVar("Made")
_forked = multiprocessing.get_context("fork")


class Took(NamedTuple):
    """Of one epoch: seconds to its last batch and to its first; CPU seconds, of processes that ended meanwhile too; the
    most memory that the process has had, with what was imported."""

    all_s: float
    first_s: float
    cpu_s: float
    rss_mb: int


def took(opened: Callable[[], Any]) -> Took:
    """Opening counts."""
    gc.collect()  # worker processes of what was timed before end now, not while this is
    others, busy, started, first = _others_cpu_s(), _own_cpu_s(), time.perf_counter(), None
    for _ in opened():
        first = first or time.perf_counter() - started
    took_s, busy = time.perf_counter() - started, _own_cpu_s() - busy
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Took(took_s, first or 0.0, busy + _others_cpu_s() - others, rss_mb)


def _own_cpu_s() -> float:
    """Of this process, and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _others_cpu_s() -> float:
    """Of those of its group that have not ended, counted by the system in hundredths. To look for them takes 2 ms: before
    and after what is timed."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == os.getpgrp() and path.parent.name != str(os.getpid()):
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Apart:
    """A process that makes something once and then is asked for things of it. Raises RuntimeError for what goes wrong
    in it. Use as a context."""

    def __init__(self, make: Callable[[], Callable[..., Any]]):
        self._ours, theirs = _forked.Pipe()
        self._process = _forked.Process(target=_serve, args=(theirs, self._ours, make))
        self._process.start()
        theirs.close()

    def __call__(self, *asked: Any, **more: Any) -> Any:
        self._ours.send((asked, more))
        try:
            worked, found = self._ours.recv()
        except EOFError:
            raise RuntimeError("its process died") from None
        if not worked:
            raise RuntimeError(found)
        return found

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        """Worker processes that a peer does not end are ended with it."""
        self._ours.close()
        self._process.join(GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # type: ignore[arg-type] (it was started)
        self._process.join()


def apart(make: Callable[[], Made]) -> Made:
    """What make() gives, made in a process of its own."""
    with Apart(lambda: make) as one:
        return one()


def _serve(pipe: Connection, others: Connection, make: Callable[[], Callable[..., Any]]) -> None:
    os.setsid()  # a group of its own, with the processes that it starts
    others.close()
    made: Callable[..., Any] | None = None
    while True:
        try:
            asked, more = pipe.recv()
        except EOFError:
            break
        try:
            made = made or make()
            pipe.send((True, made(*asked, **more)))
        except Exception as error:  # noqa: BLE001 (whatever a peer raises is told to who asked)
            pipe.send((False, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"))
    del made
    gc.collect()  # ends its worker processes
    os._exit(0)  # threads that a peer left behind are not waited for
