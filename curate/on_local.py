"""Units in threads of this process; the decoding of each is a child process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from curate import unit


def run(jobs: list[unit.Job], workers: int, beat: unit.Beat, check: Callable[[], None]) -> Iterator[unit.Done]:
    """Units as they finish. check() may raise: then no new unit is begun, those at hand are finished first."""
    waiting = list(reversed(jobs))
    running: set[Future[unit.Done]] = set()
    with ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            check()
            while waiting and len(running) < workers:
                running.add(pool.submit(unit.run, waiting.pop(), beat))
            finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
