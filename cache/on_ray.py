"""Shards made by Ray tasks, one per GPU, or per `--processes` on CPUs. Only the recipe's settings travel to them; they
read the footage and write their shards where the recipe says, which all machines of the cluster must reach."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import ray

import commands
from cache.crew import Crew

POLL_S = 0.5


@ray.remote(max_retries=3)
def _assist(settings: dict[str, Any], options: dict[str, Any], rank: int, size: int) -> None:
    from cache.update import Options, assist
    from pipelines import check

    assist(check(settings), Options(**options), Crew(rank, size))


class RayCrew(Crew):
    """The process that plans; it takes no shard itself."""

    def __init__(self, settings: dict[str, Any], options: dict[str, Any], processes: int | None,
                 stopping: Callable[[], bool]):  # fmt: skip
        super().__init__()
        with commands.keep_handlers():
            _connect()
        gpus = int(ray.cluster_resources().get("GPU", 0)) if options.get("device") != "cpu" else 0
        self._workers = processes or gpus or 1
        self._needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self._settings, self._options, self._stopping = settings, options, stopping
        self._tasks: list[Any] = []

    @property
    def alone(self) -> bool:
        return False

    def takes(self, position: int) -> bool:
        return False

    def planned(self) -> None:
        task = _assist.options(**self._needs)
        self._tasks = [task.remote(self._settings, self._options, rank, self._workers) for rank in range(self._workers)]

    def finished(self) -> None:
        """Raises what a task raised. Tasks that are told to stop leave no half of a shard behind."""
        left = self._tasks
        while left:
            done, left = ray.wait(left, timeout=POLL_S)
            ray.get(done)
            if self._stopping():
                for task in left:
                    ray.cancel(task, force=True)
                return

    def close(self) -> None:
        ray.shutdown()


def _connect() -> None:
    """Join the job's cluster (RAY_ADDRESS), or start a private one for this run."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private cluster has no use for a token in the home folder
    private = {"include_dashboard": False, "object_store_memory": 256_000_000}
    ray.init(address="local", _temp_dir=tempfile.mkdtemp(prefix="dailies-ray-"), **private, **quiet)
