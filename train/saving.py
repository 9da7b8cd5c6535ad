"""Checkpoints saved beside the training: the next steps run while a copy of the weights is written."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from train import checkpoint
from train.distributed import World


class Saver:
    """Saves one checkpoint at a time into a run's folder. Used as a context: at its end the last one is waited for.

    The copy is taken before save() returns, so what is written are the weights of that step, whatever follows; all
    talk with other processes goes through a group of its own. A failure is raised by the next call.
    """

    def __init__(self, folder: str, world: World, keep_last: int, milestones: Collection[int]):
        self.folder, self.world, self.keep_last, self.milestones = folder, world, keep_last, milestones
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def save(self, step: int, tensors: checkpoint.Tensors, state: dict[str, Any]) -> None:
        self.wait()
        copy = {group: {name: one.detach().to("cpu", copy=True) for name, one in held.items()}
                for group, held in tensors.items()}  # fmt: skip
        self._running = self._thread.submit(self._save, step, copy, state)

    def wait(self) -> None:
        """Until the last save is whole. Raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _save(self, step: int, tensors: checkpoint.Tensors, state: dict[str, Any]) -> None:
        checkpoint.save(self.folder, step, tensors, state, self.world)
        if self.world.first:
            checkpoint.prune(self.folder, self.keep_last, self.milestones)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(wait=True)
