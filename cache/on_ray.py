"""Shards made by Ray tasks, one per GPU, or per `--processes` on CPUs. Only the recipe's settings travel to them; they
read the footage and write their shards where the recipe says, which all machines of the cluster must reach."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

import commands
from cache.crew import Crew, T

POLL_S = 0.5
LOOK_S = 10.0  # how often it is told what is there, and who is waited for


@ray.remote(num_cpus=0)
class _Roll:
    """Who has begun."""

    def __init__(self) -> None:
        self.ranks: set[int] = set()

    def here(self, rank: int) -> None:
        self.ranks.add(rank)

    def count(self) -> int:
        return len(self.ranks)


@ray.remote(max_retries=3)
def _assist(settings: dict[str, Any], options: dict[str, Any], rank: int, size: int, roll: Any) -> None:
    from cache.update import Options, assist
    from pipelines import check

    roll.here.remote(rank)
    assist(check(settings), Options(**options), Crew(rank, size, _beside(size)))


@ray.remote(max_retries=3)
def _write_texts(settings: dict[str, Any], device: str | None, buckets: list[str]) -> Any:
    from cache.make_texts import texts_of
    from pipelines import check

    return texts_of(check(settings), buckets, device, lambda line: print(line, file=sys.stderr, flush=True))


def _beside(size: int) -> int:
    """How many of so many encoders run on this machine: one per GPU, or evenly where there are none."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    here = next(one for one in alive if one["NodeID"] == ray.get_runtime_context().get_node_id())
    gpus = int(here["Resources"].get("GPU", 0)) if ray.get_runtime_context().get_accelerator_ids().get("GPU") else 0
    return min(size, gpus or -(-size // len(alive)))


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
        self._roll = _Roll.remote()  # type: ignore[attr-defined]
        self._tasks = [task.remote(self._settings, self._options, rank, self._workers, self._roll)
                       for rank in range(self._workers)]  # fmt: skip

    def finished(self, look: Callable[[], None] = lambda: None) -> None:
        """Raises what a task raised. Tasks that are told to stop leave no half of a shard behind."""
        left, looked = self._tasks, time.monotonic()
        while left:
            done, left = ray.wait(left, timeout=POLL_S)
            try:
                ray.get(done)
            except RayTaskError as error:  # its own words, not the traceback of the process that it was raised in
                raise (error.cause or error) from None
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                look()
                self._say_who_is_waited_for()
            if self._stopping():
                for task in left:
                    ray.cancel(task, force=True)
                return

    def texts(self, here: Callable[[], T], buckets: Sequence[str]) -> T:
        """By a task with a GPU, where there are any: the machine that plans may have none, and a language model on CPUs
        takes days. A run that is stopped leaves what is not made to the next."""
        if "num_gpus" not in self._needs or self._stopping():
            return here()
        task: Any = _write_texts.options(**self._needs).remote(self._settings, self._options["device"], list(buckets))
        self._tasks = [task]
        self.finished()
        return here() if self._stopping() else ray.get(task)  # here() makes nothing then, and counts it

    def _say_who_is_waited_for(self) -> None:
        begun: Any = ray.get(self._roll.count.remote())
        kind, count = next(iter(self._needs.items()))
        if begun < self._workers:
            what = kind.removeprefix("num_").removesuffix("s").upper()
            free = ray.available_resources().get(what, 0)
            told = f"waiting for {self._workers - begun} of {self._workers} encoders, each with {count} {what} ({free:g} free)"
            print(told, file=sys.stderr, flush=True)

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
