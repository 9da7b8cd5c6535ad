"""The processes that encode together. The first one plans and keeps the tables and the text; each makes the shards that
fall to it, so that a shard's bytes don't depend on how many there are.

`torchrun --nproc-per-node 8 -m cache.encode_latents` starts equals; with `--ray` the first one only plans (on_ray.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # how long processes that have no shard left wait for the others


class Crew:
    """One of `size` processes; alone by default. beside: how many of them run on this machine."""

    def __init__(self, rank: int = 0, size: int = 1, beside: int = 1):
        self.rank, self.size, self.beside = rank, size, beside

    @property
    def alone(self) -> bool:
        """Whether every shard is made by this process."""
        return self.size == 1

    def takes(self, position: int) -> bool:
        """Whether the shard at this position of the plan falls to this process."""
        return position % self.size == self.rank

    def planned(self) -> None:
        """The plan is written: the others may begin."""

    def finished(self, look: Callable[[], None] = lambda: None) -> None:
        """Wait until everybody's shards are there. look: called now and then by one who only waits."""

    def texts(self, here: Callable[[], T], buckets: Sequence[str]) -> T:
        """What here() gives, which makes the buckets' text states in this process; or the same from one better placed."""
        return here()

    def devices(self, chosen: torch.device) -> list[torch.device]:
        """On which an encoder of texts may work when all shards are there; chosen is this process's own."""
        return [chosen]


class Torchrun(Crew):
    """Processes that torchrun started; they meet twice, over gloo."""

    def planned(self) -> None:
        self._meet()

    def finished(self, look: Callable[[], None] = lambda: None) -> None:
        self._meet()

    def devices(self, chosen: torch.device) -> list[torch.device]:
        """The GPUs of the others of this machine, too, who are done."""
        import torch

        return [chosen] if chosen.type == "cpu" else [torch.device(chosen.type, k) for k in range(self.beside)]

    def _meet(self) -> None:
        import torch.distributed as dist

        dist.barrier()


@contextmanager
def joined() -> Iterator[Crew]:
    """This process's place among those that torchrun started; alone when it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Crew()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Torchrun(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    finally:
        dist.destroy_process_group()
