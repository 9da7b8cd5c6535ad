"""Several processes that train together: started by torchrun, nccl between GPUs and gloo between CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

CHUNK = 1 << 24  # numbers per all-reduce: small enough to overlap, large enough to fill the wire


class World(NamedTuple):
    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined(device: str | None = None) -> Iterator[World]:
    """This process's place among the others; alone when torchrun did not start it. device: cpu, cuda, None is best."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield World(rank, size, place)
    finally:
        dist.destroy_process_group()


def add_up(world: World, tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over all processes, in place; equal bits everywhere. Tensors of one dtype travel together."""
    if world.size == 1:
        return
    for group in _chunks(tensors):
        flat = torch.cat([one.reshape(-1) for one in group])
        dist.all_reduce(flat)
        for one, summed in zip(group, flat.split([one.numel() for one in group])):
            one.copy_(summed.view_as(one))


def barrier(world: World) -> None:
    if world.size > 1:
        dist.barrier()


def _chunks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, about CHUNK numbers at a time."""
    held: list[Tensor] = []
    for one in tensors:
        if held and (one.dtype != held[0].dtype or sum(t.numel() for t in held) + one.numel() > CHUNK):
            yield held
            held = []
        held.append(one)
    if held:
        yield held
