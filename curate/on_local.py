"""Jobs in threads of this process; the decoding of each thread is a child process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import commands
from curate import unit
from curate.stages import CPU, GPU, Room, Schedule
from pipelines import Recipe


class Here:
    """This process as an executor. Use as a context."""

    stored_bytes = 0  # nothing travels

    def __init__(self, recipe: Recipe, workers: int):
        self.recipe, self.workers = recipe, workers
        self.own = threading.local()
        self.decoders: list[unit.Decoder] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self.decoders:
            decoder.close()

    def room(self) -> Room:
        return Room(self.workers, self.workers)

    def gpu_workers(self) -> int:
        """How many networks may run at once on the GPUs of this machine."""
        from curate.embed_clip import gpus

        return int(gpus() / self.recipe.curate.workers.gpus)

    def run(self, schedule: Schedule, beat: unit.Beat, check: Callable[[], None]) -> Iterator[unit.Done]:
        """Jobs as they finish. check() may raise: then no new one is begun, those at hand are finished first."""
        free = {CPU: self.workers, GPU: schedule.gpu}
        running: dict[Future[unit.Done], tuple[unit.Job, str]] = {}
        interrupted: commands.Interrupted | None = None
        with ThreadPoolExecutor(sum(free.values())) as pool:
            while running if interrupted else not schedule.finished:
                try:
                    check()
                except commands.Interrupted as wish:
                    interrupted = wish
                for kind in free if not interrupted else ():
                    while job := schedule.begin(kind, free[kind]):
                        free[kind] -= job.threads
                        running[pool.submit(self._work, job, beat)] = job, kind
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    job, kind = running.pop(future)
                    free[kind] += job.threads
                    schedule.end(future.result())
                    yield future.result()
        if interrupted:
            raise interrupted

    def _work(self, job: unit.Job, beat: unit.Beat) -> unit.Done:
        if not hasattr(self.own, "decoder"):
            self.own.decoder = unit.Decoder()
            self.decoders.append(self.own.decoder)
        return unit.run(job, beat, self.own.decoder)
