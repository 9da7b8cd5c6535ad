"""What a workspace lacks as jobs, and which of them may begin: bookkeeping only, the same for this process and for Ray.

A unit is scanned first; then every table that is made from its proxies is a job of its own. Later stages go before
earlier ones, and scanning holds while too many jobs wait behind it: what is under way stays bounded.
"""

from __future__ import annotations

import time
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


class Schedule:
    """Which job may begin where. `begin` hands one out, `end` or `fail` takes it back; `finished` when all are done.

    gpu: workers for networks; with none of them networks run on CPUs. waiting: jobs per GPU worker that may wait before
    scanning holds. attempts: how often a job may be begun.
    """

    def __init__(self, todo: Iterable[Job], recipe: pipelines.Recipe, gpu: int = 0,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        settings = recipe.curate.workers
        self.recipe, self.gpu, self.clock, self.attempts = recipe, gpu, clock, settings.attempts
        self.most_waiting = max(1, settings.waiting * gpu)
        every = list(todo)
        self.scans = {job.unit for job in every if job.stage == SCAN}  # units that are not scanned yet
        self.later = [job for job in every if job.stage != SCAN and job.unit in self.scans]
        self.ready: dict[str, list[Job]] = {CPU: [], GPU: []}
        self.running: dict[tuple[str, int], Job] = {}
        self.begun: dict[tuple[str, int], int] = {}
        self.since: dict[tuple[str, int], float] = {}
        self.waits: dict[str, list[float]] = {}
        self.most: dict[str, int] = {}
        self.pools: dict[str, str] = {}  # where a stage's jobs go
        self.why: dict[tuple[str, int], str] = {}
        self.deaths = 0  # of workers, in all
        for job in every:
            if job.stage == SCAN or job.unit not in self.scans:
                self._offer(job)

    def begin(self, pool: str, room: int) -> Job | None:
        """The next job of a pool that takes at most `room` slots, or None."""
        held = pool == CPU and len(self.ready[GPU]) >= self.most_waiting
        fits = [job for job in self.ready[pool] if job.threads <= room and not (held and job.stage == SCAN)]
        job = next((one for one in fits if one.stage != SCAN), fits[0] if fits else None)
        if job is None:
            return None
        self.ready[pool].remove(job)
        self.running[job.key] = job
        self.begun[job.key] = self.begun.get(job.key, 0) + 1
        self.waits.setdefault(job.stage, []).append(self.clock() - self.since[job.key])
        return job

    def end(self, done: Done) -> None:
        job = self.running.pop((done.stage, done.unit))
        if job.stage == SCAN:
            self.scans.discard(job.unit)
            for one in [one for one in self.later if one.unit == job.unit]:
                self.later.remove(one)
                self._offer(one)

    def fail(self, job: Job, why: str) -> bool:
        """The worker of a job died. It is begun again unless it was begun too often: then what waits for it is dropped too."""
        del self.running[job.key]
        self.deaths += 1
        again = self.begun[job.key] < self.attempts
        if again:
            self._offer(job)
        else:
            self.why[job.key] = why
            if job.stage == SCAN:
                self.later = [one for one in self.later if one.unit != job.unit]
        return again

    @property
    def finished(self) -> bool:
        return not (self.running or any(self.ready.values()))

    def left(self, pool: str) -> int:
        """Slots that all jobs of a pool that are not done would take together."""
        every = [*self.running.values(), *self.later, *self.ready[CPU], *self.ready[GPU]]
        return sum(job.threads for job in every if self._pool(job) == pool)

    @property
    def waiting(self) -> int:
        """Jobs after scanning that may begin and have not."""
        return sum(job.stage != SCAN for pool in self.ready.values() for job in pool)

    def check(self) -> None:
        """Raises Lost when a job was given up."""
        if self.why:
            (stage, unit), why = next(iter(self.why.items()))
            more = f", and {len(self.why) - 1} more jobs" if len(self.why) > 1 else ""
            raise Lost(f"{stage} of unit {unit} lost its worker {self.attempts} times ({why}){more}; all else is done")

    def retries(self, stage: str) -> int:
        return sum(times - 1 for (name, _), times in self.begun.items() if name == stage)

    def _offer(self, job: Job) -> None:
        pool = self.pools[job.stage] = self._pool(job)
        self.ready[pool].append(job)
        self.since[job.key] = self.clock()
        here = sum(one.stage == job.stage for one in self.ready[pool])
        self.most[job.stage] = max(self.most.get(job.stage, 0), here)

    def _pool(self, job: Job) -> str:
        return GPU if self.gpu and uses_gpu(job.stage, self.recipe) else CPU
