"""What a workspace lacks as jobs, and which of them may begin: bookkeeping only, the same for this process and for Ray.

A unit is scanned first; then every table that is made from its proxies is a job of its own. Later stages go before
earlier ones, and scanning holds while too many jobs wait behind it: what is under way stays bounded.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pipelines
from curate.tables import Tables
from curate.unit import SCAN, Done, Job
from curate.units import File
from media import storage

FROM_PASS = ("clips", "proxies", "hashes")  # tables that only a decode can fill; scores of pass signals come beside
MOST_THREADS = 16  # that one unit may use
CPU, GPU = "cpu", "gpu"


class Lost(RuntimeError):
    """A job ended its worker as often as was allowed; everything else is done."""


class Room(NamedTuple):
    """What an executor has: slots in all (a decoding thread takes one), and those of its largest machine."""

    slots: int
    widest: int


# ---------------------------------------------------------------------------------------------------------------- jobs


def tables_per_unit(tables: Tables) -> list[str]:
    """Every table that has one part per unit, in the order in which they are made."""
    return ["clips", "proxies", "hashes", *(f"scores.{name}" for name in tables.signals), "videos", "embeddings"]


def missing(tables: Tables, units: list[int]) -> dict[int, list[str]]:
    """unit -> tables whose part is not there; units that lack nothing are left out."""
    lacking: dict[int, list[str]] = {}
    for name in tables_per_unit(tables):
        there = {storage.name(path) for path in tables.parts(name)}
        for unit in units:
            if storage.name(tables.part(name, unit)) not in there:
                lacking.setdefault(unit, []).append(name)
    return lacking


def needs_pass(name: str) -> bool:
    if name.startswith("scores."):
        from curate.signals import SIGNALS

        return SIGNALS[name.removeprefix("scores.")].source == "pass"
    return name in FROM_PASS or name == "videos"


def uses_gpu(name: str, recipe: pipelines.Recipe) -> bool:
    """Whether a table is made by a network that runs on a GPU where there is one. OCR and YOLOX detectors run on CPUs."""
    settings = recipe.curate
    return (name == "embeddings" and settings.embed.model != "descriptor") or (
        name == "scores.quality"
        and settings.signals.quality is not None
        and settings.signals.quality.weights is not None
    )


def jobs(tables: Tables, by_unit: dict[int, list[File]], room: Room) -> list[Job]:
    """A job for each unit that must be scanned, the largest first, and for each table to be made from proxies."""
    lacking = missing(tables, list(by_unit))
    scans = {unit: [name for name in names if needs_pass(name)] for unit, names in lacking.items()}
    scans = {unit: names for unit, names in scans.items() if names}
    plain = pipelines.resolved(tables.recipe)
    made: list[Job] = []
    if scans:
        threads = min(MOST_THREADS, room.widest, max(room.slots // len(scans), 1 if room.slots > 1 else 2))
        for unit in sorted(scans, key=lambda one: -sum(file.bytes for file in by_unit[one])):
            made.append(Job(SCAN, unit, plain, [tuple(file) for file in by_unit[unit]], scans[unit], threads))
    for unit, names in lacking.items():
        made += [Job(name, unit, plain, [], [name], 1) for name in names if not needs_pass(name)]
    return made


# ------------------------------------------------------------------------------------------------------------ schedule


class Queue:
    """Jobs of one pool that may begin, and the slots that all of its jobs that are not done would take together."""

    def __init__(self) -> None:
        self.later: deque[Job] = deque()  # of stages after scanning
        self.scans: deque[Job] = deque()
        self.left = 0


class Schedule:
    """Which job may begin where. `begin` hands one out, `end` or `fail` takes it back; `finished` when all are done.

    gpu: workers for networks; with none of them networks run on CPUs. A pool's scans all use as many threads.
    """

    def __init__(self, todo: Iterable[Job], recipe: pipelines.Recipe, gpu: int = 0,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        settings = recipe.curate.workers
        self.recipe, self.gpu, self.clock, self.attempts = recipe, gpu, clock, settings.attempts
        self.most_waiting = max(1, settings.waiting * gpu)
        every = list(todo)
        self.behind: dict[int, list[Job]] = {
            job.unit: [] for job in every if job.stage == SCAN
        }  # unit -> after its scan
        self.queues = {CPU: Queue(), GPU: Queue()}
        self.running: dict[tuple[str, int], Job] = {}
        self.begun: Counter[tuple[str, int]] = Counter()
        self.since: dict[tuple[str, int], float] = {}
        self.waits: dict[str, list[float]] = {}  # seconds, of each time that a job of the stage was begun
        self.here: Counter[str] = Counter()  # jobs of a stage that wait, now
        self.most: Counter[str] = Counter()  # and at most
        self.pools = {job.stage: GPU if gpu and uses_gpu(job.stage, recipe) else CPU for job in every}
        self.why: dict[tuple[str, int], str] = {}  # of jobs that were given up
        self.deaths = 0  # of workers, in all
        for job in every:
            self.queues[self.pools[job.stage]].left += job.threads
            if job.stage != SCAN and job.unit in self.behind:
                self.behind[job.unit].append(job)
            else:
                self._offer(job)

    def begin(self, pool: str, room: int) -> Job | None:
        """The next job of a pool that takes at most `room` slots, or None."""
        queue = self.queues[pool]
        held = pool == CPU and len(self.queues[GPU].later) >= self.most_waiting
        for jobs in (queue.later, queue.scans if not held else ()):
            if jobs and jobs[0].threads <= room:
                return self._begun(jobs.popleft())
        return None

    def end(self, done: Done) -> None:
        job = self.running.pop((done.stage, done.unit))
        self.queues[self.pools[job.stage]].left -= job.threads
        for one in self._freed(job):
            self._offer(one)

    def fail(self, job: Job, why: str) -> bool:
        """The worker of a job died. It is begun again unless it was begun too often: then what waits for it is dropped too."""
        del self.running[job.key]
        self.deaths += 1
        again = self.begun[job.key] < self.attempts
        if again:
            self._offer(job)
            return True
        self.why[job.key] = why
        for one in (job, *self._freed(job)):
            self.queues[self.pools[one.stage]].left -= one.threads
        return False

    @property
    def finished(self) -> bool:
        return not (self.running or any(queue.later or queue.scans for queue in self.queues.values()))

    @property
    def waiting(self) -> int:
        """Jobs after scanning that may begin and have not."""
        return sum(len(queue.later) for queue in self.queues.values())

    def left(self, pool: str) -> int:
        """Slots that all jobs of a pool that are not done would take together."""
        return self.queues[pool].left

    def check(self) -> None:
        """Raises Lost when a job was given up."""
        if self.why:
            (stage, unit), why = next(iter(self.why.items()))
            more = f", and {len(self.why) - 1} more jobs" if len(self.why) > 1 else ""
            raise Lost(f"{stage} of unit {unit} lost its worker {self.attempts} times ({why}){more}; all else is done")

    def retries(self, stage: str) -> int:
        return sum(times - 1 for (name, _), times in self.begun.items() if name == stage)

    def _offer(self, job: Job) -> None:
        queue = self.queues[self.pools[job.stage]]
        (queue.scans if job.stage == SCAN else queue.later).append(job)
        self.since[job.key] = self.clock()
        self.here[job.stage] += 1
        self.most[job.stage] = max(self.most[job.stage], self.here[job.stage])

    def _begun(self, job: Job) -> Job:
        self.running[job.key] = job
        self.begun[job.key] += 1
        self.here[job.stage] -= 1
        self.waits.setdefault(job.stage, []).append(self.clock() - self.since[job.key])
        return job

    def _freed(self, job: Job) -> list[Job]:
        """What waited for a job."""
        return self.behind.pop(job.unit, []) if job.stage == SCAN else []
