"""Jobs in pools of Ray actors, one per CPU and one per share of a GPU: a shell around the function that runs in this process.

Only paths, times and counts travel; parts are written by the actor that made them. An actor that dies costs one job, which
is begun again.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

import commands
from curate import unit
from curate.stages import CPU, GPU, MOST_THREADS, Lost, Room, Schedule
from curate.tally import Told
from pipelines import Recipe

LOOK_S = 10.0  # how often the cluster is asked for its size; after so long without an actor the wait is explained
MOST_STILLBORN = 3  # actors in a row that die before they have done anything


@ray.remote(max_restarts=0)
class _Hand:
    """A process that does one job after the other; networks stay loaded, and its decoder stays up."""

    def __init__(self, board: Any) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.board, self.decoder = board, unit.Decoder()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def work(self, job: unit.Job) -> unit.Done:
        done = 0

        def beat(what: str, count: int) -> None:
            nonlocal done
            if what == "video":
                done += count
                self.board.reached.remote(job.key, done)
            else:
                self.board.add.remote(job.key, what, count)

        return unit.run(job, beat, self.decoder)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Board(Told):
    """An actor of its own: hands write on it, the crew reads it."""


class Cluster:
    """The job's cluster, or a private one. Use as a context; says on standard error which."""

    def __init__(self, recipe: Recipe):
        self.workers, self.stored_bytes = recipe.curate.workers, 0

    def __enter__(self) -> Cluster:
        self.folder = tempfile.TemporaryDirectory(prefix="dailies-ray-", ignore_cleanup_errors=True)
        with commands.keep_handlers():
            print(_connect(self.folder.name), file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self.folder.cleanup()

    def room(self) -> Room:
        """CPUs in all and of the largest machine."""
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        return Room(max(1, sum(cpus)), max([1, *cpus]))

    def gpu_workers(self) -> int:
        """Processes for networks that the GPUs and the CPUs beside them have room for; one CPU is left to scan."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        places = sum(int(node.get("GPU", 0) / self.workers.gpus + 1e-9) for node in alive)
        beside = self.workers.gpu_cpus
        return min(places, (self.room().slots - 1) // beside) if beside else places

    def run(self, schedule: Schedule, beat: unit.Beat, check: Callable[[], None]) -> Iterator[unit.Done]:
        """Jobs as they finish. check() may raise: the begun ones are finished first. Raises what a job raised."""
        crew = _Crew(self, schedule, beat)
        try:
            while not schedule.finished:
                check()
                crew.hire()
                crew.give_out()
                yield from crew.gather()
        except commands.Interrupted:
            while crew.busy:
                yield from crew.gather()
            raise
        finally:
            crew.dismiss()


@dataclass
class Hired:
    """An actor and what it does. waits: for its machine's name, then for its job's end; heard_s: when it last said anything."""

    actor: Any
    pool: str
    waits: Any
    node: str | None = None
    job: unit.Job | None = None
    heard_s: float = 0.0


class _Crew:
    """The actors of one run: hired as the cluster has room, given jobs that fit on their machine, replaced when they die."""

    def __init__(self, cluster: Cluster, schedule: Schedule, beat: unit.Beat):
        self.cluster, self.schedule, self.beat = cluster, schedule, beat
        self.board = _Board.remote()  # type: ignore[attr-defined]
        self.hands: list[Hired] = []
        self.looked = self.moved = float("-inf")
        self.slots, self.stillborn = 0, 0
        self.needs: dict[str, dict[str, float]] = {
            GPU: {"num_gpus": cluster.workers.gpus, "num_cpus": cluster.workers.gpu_cpus}, CPU: {"num_cpus": 1},
        }  # fmt: skip

    def hire(self) -> None:
        """GPU workers first: a CPU worker must not take the CPU beside the GPU."""
        now = time.monotonic()
        if now - self.looked > LOOK_S:
            self.looked, self.slots = now, self.cluster.room().slots
            self._weigh()
        gpu = min(self.schedule.gpu, self.schedule.left(GPU))
        beside = self.schedule.gpu * self.cluster.workers.gpu_cpus
        cpu = min(max(1, self.slots - beside), self.schedule.left(CPU))
        for pool, wanted in ((GPU, gpu), (CPU, cpu)):
            for _ in range(wanted - sum(hand.pool == pool for hand in self.hands)):
                actor = _Hand.options(**self.needs[pool]).remote(self.board)  # type: ignore[attr-defined]
                self.hands.append(Hired(actor, pool, actor.node.remote()))

    def give_out(self) -> None:
        """A job that uses several CPUs keeps other hands of its machine idle."""
        for hand in self.hands:
            if hand.node is None or hand.job is not None:
                continue
            if job := self.schedule.begin(hand.pool, self._room(hand)):
                hand.job, hand.waits, hand.heard_s = job, hand.actor.work.remote(job), time.monotonic()

    def gather(self) -> Iterator[unit.Done]:
        """What ends within half a second."""
        waits = {hand.waits: hand for hand in self.hands if hand.waits is not None}
        ended, _ = ray.wait(list(waits), timeout=0.5) if waits else ([], [])
        counts, heard = ray.get(self.board.take.remote())
        self._end_the_silent(heard)
        for what, count in counts.items():
            self.beat(what, count)
        for reference in ended:
            yield from self._ended(waits[reference])
        self._say_what_is_waited_for(bool(ended or counts) or self.busy)

    def _end_the_silent(self, heard: set[tuple[str, int]]) -> None:
        """A hand that has not said a word of its job for `hung_s` is killed: its job is then one that lost its worker."""
        now, limit_s = time.monotonic(), self.cluster.workers.hung_s
        for hand in self.hands:
            if hand.job is None or hand.job.key in heard:
                hand.heard_s = now
            elif now - hand.heard_s > limit_s:
                self.beat(f"{hand.job.stage} of unit {hand.job.unit} hung: not a word in {limit_s:g} s", 0)
                hand.heard_s = now
                ray.kill(hand.actor)  # type: ignore[arg-type]

    @property
    def busy(self) -> bool:
        return any(hand.job is not None for hand in self.hands)

    def dismiss(self) -> None:
        busy = [hand.waits for hand in self.hands if hand.job is not None]
        if busy:
            ray.wait(busy, num_returns=len(busy))
        self._weigh()
        for actor in (*(hand.actor for hand in self.hands), self.board):
            ray.kill(actor)  # type: ignore[arg-type]

    def _room(self, hand: Hired) -> int:
        mates = [one for one in self.hands if one.pool == hand.pool and one.node == hand.node]
        busy = [one.job.threads for one in mates if one.job is not None]
        return len(mates) - sum(busy) if busy else MOST_THREADS  # a machine of its own takes any job

    def _ended(self, hand: Hired) -> Iterator[unit.Done]:
        job, reference = hand.job, hand.waits
        hand.job = hand.waits = None
        try:
            answer: Any = ray.get(reference)
        except RayTaskError as error:  # the job itself says no: the same everywhere, so it is not begun again
            raise (error.cause or error) from None
        except RayError as error:
            self._died(hand, job, error)
            return
        self.stillborn = 0
        if job is None:
            hand.node = answer
        else:
            self.schedule.end(answer)
            yield answer

    def _died(self, hand: Hired, job: unit.Job | None, error: RayError) -> None:
        self.hands.remove(hand)
        ray.kill(hand.actor)
        why = str(error).strip().split("\n")[0][:160]
        if job is None:
            self.stillborn += 1
            if self.stillborn >= MOST_STILLBORN:
                raise Lost(f"workers end before they begin: {error}")
            return
        again = self.schedule.fail(job, why)
        remedy = "it is begun again" if again else "it is given up"
        self.beat(f"{job.stage} of unit {job.unit} lost its worker ({why}); {remedy}", 0)

    def _weigh(self) -> None:
        total, free = (
            found().get("object_store_memory", 0.0) for found in (ray.cluster_resources, ray.available_resources)
        )
        self.cluster.stored_bytes = max(self.cluster.stored_bytes, int(total - free))

    def _say_what_is_waited_for(self, moves: bool) -> None:
        now = time.monotonic()
        if moves or self.moved == float("-inf"):
            self.moved = now
        elif now - self.moved > LOOK_S:
            self.moved, held = now, ray.available_resources()
            pool = next((hand.pool for hand in self.hands if hand.node is None), CPU)
            needs = {
                name.removeprefix("num_").removesuffix("s").upper(): count for name, count in self.needs[pool].items()
            }
            wanted = " and ".join(f"{count:g} {name}" for name, count in needs.items() if count)
            free = ", ".join(f"{held.get(name, 0):g} {name}" for name, count in needs.items() if count)
            self.beat(f"waiting for a worker with {wanted} ({free} free)", 0)


def _connect(folder: str) -> str:
    """Join the job's cluster (RAY_ADDRESS), or start a private one that lives in a folder. Returns a line that says which."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return f"on the Ray cluster at {os.environ['RAY_ADDRESS']}"
    # Without a mode, a private cluster writes a token into the home folder and later clusters ask for it.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    private: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 256_000_000}
    ray.init(address="local", _temp_dir=folder, **private, **quiet)
    return "on a private local Ray"
