"""Units as Ray tasks: a shell around the same function that runs in this process. Only times and paths travel."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from curate import unit

WAIT_NOTE_S = 10.0  # after so long without a free worker, say which resource is waited for


@ray.remote(num_cpus=1, max_retries=3)
def _run(job: unit.Job, board: Any) -> unit.Done:
    def beat(what: str, count: int) -> None:
        board.add.remote(what, count)

    return unit.run(job, beat)


@ray.remote(num_cpus=0)
class _Board:
    """Counts what the workers report, for the progress line."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, what: str, count: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + count

    def take(self) -> dict[str, int]:
        counts, self.counts = self.counts, {}
        return counts


def connect() -> str:
    """Join the job's cluster (RAY_ADDRESS), or start a private one for this run. Returns a line that says which."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return f"on the Ray cluster at {os.environ['RAY_ADDRESS']}"
    # Without a mode, a private cluster writes a token into the home folder and later clusters ask for it.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256_000_000,
        _temp_dir=tempfile.mkdtemp(prefix="dailies-ray-"),
    )
    return "on a private local Ray"


def disconnect() -> None:
    ray.shutdown()


def workers() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def run(jobs: list[unit.Job], beat: unit.Beat, check: Callable[[], None]) -> Iterator[unit.Done]:
    """Units as they finish, at most two per worker under way. check() may raise: the begun ones are finished first."""
    board = _Board.remote()  # type: ignore[attr-defined]
    waiting, running = list(reversed(jobs)), {}
    limit, idle_since = 2 * workers(), time.monotonic()
    most = max([1, *(int(node["Resources"].get("CPU", 1)) for node in ray.nodes())])  # of one machine
    try:
        while waiting or running:
            check()
            while waiting and len(running) < limit:
                job = waiting.pop()
                running[_run.options(num_cpus=min(job.threads, most)).remote(job, board)] = job
            finished, _ = ray.wait(list(running), timeout=0.5)
            counts = ray.get(board.take.remote())
            for what, count in counts.items():
                beat(what, count)
            if finished or counts:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > WAIT_NOTE_S:
                free = ray.available_resources().get("CPU", 0)
                beat(f"waiting for a worker with 1 CPU ({free:g} free)", 0)
            for reference in finished:
                running.pop(reference)
                yield ray.get(reference)
    finally:
        if running:
            ray.wait(list(running), num_returns=len(running))
        ray.kill(board)  # type: ignore[arg-type]
