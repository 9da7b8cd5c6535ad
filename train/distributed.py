"""Several processes that train together: started by torchrun, nccl between GPUs and gloo between CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from model.devices import best_device

PATIENCE = timedelta(days=7)  # while one process draws samples, merges a checkpoint or sends it to a store
CHUNK = 1 << 24  # numbers per all-reduce: small enough to overlap, large enough to fill the wire


class World(NamedTuple):
    """aside, waiting: gloo groups of the same processes, for what talks beside the training (checkpoints) and for those who
    wait while one of them is at work; None when alone."""

    rank: int
    size: int
    device: torch.device
    aside: Any = None
    waiting: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined(device: str | None = None) -> Iterator[World]:
    """This process's place among the others; alone when torchrun did not start it. device: cpu, cuda, None is best.

    A process that leaves with an error takes no leave of the others: they may be in the middle of a sum that it will never
    join, and nccl would wait for them until its time is up, the error unsaid. torchrun ends them when it has ended.
    Raises NoDevice.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = best_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    groups = [dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2)]
    yield World(rank, size, place, *groups)
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
    """Wait until all are here, however long one of them works alone: nccl gives up after ten minutes."""
    if world.size > 1:
        dist.barrier(world.waiting)


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


# ---------------------------------------------------------------------------------------- weights in parts (FSDP2)


def parts_of(shard: str | int, size: int) -> int:
    """Over how many of `size` processes a stage spreads each weight. shard: `none`, `full` or their number.

    Raises ValueError naming the numbers that divide the processes.
    """
    parts = {"none": 1, "full": size}.get(shard, shard) if isinstance(shard, str) else shard
    if not isinstance(parts, int) or size % parts:
        fitting = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
        raise ValueError(f"shard: {shard} does not divide {size} processes; one of {fitting} does")
    return parts


def spread(model: nn.Module, blocks: Sequence[nn.Module], shard: str | int, dtype: torch.dtype, world: World) -> bool:
    """Leave each process its part of the weights, in at least float32; they are gathered block by block in `dtype`.

    With fewer parts than processes, groups of processes hold the same part and their gradients are summed as well.
    Returns False, and only moves the model to its device, where one process holds all. A model on the meta device has
    room for its part afterwards, and no numbers in it yet.
    """
    wide = torch.promote_types(dtype, torch.float32)
    model.to(wide)
    parts = parts_of(shard, world.size)
    meta = any(one.is_meta for one in model.parameters())
    if parts == 1:
        _ = model.to_empty(device=world.device) if meta else model.to(world.device)
        return False
    # Inputs keep their types: times and rotations are float32 whatever the blocks compute in.
    policy = MixedPrecisionPolicy(None if dtype == wide else dtype, reduce_dtype=wide, cast_forward_inputs=False)
    # Without resharding the root, a validation would go on with the gathered weights of before an exchange.
    settings: dict[str, Any] = {"mesh": _mesh(parts, world), "mp_policy": policy, "reshard_after_forward": True}
    for block in blocks:  # one after the other: a GPU never holds more than a block it has not yet cut up
        fully_shard(block, **settings)
    fully_shard(model, **settings)
    if meta:
        model.to_empty(device=world.device)
    return True


def local(tensor: Tensor) -> Tensor:
    """This process's part of a spread tensor, sharing its memory; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on each process, cut up as `like` is. Nothing is sent: each keeps its part."""
    if not isinstance(like, DTensor):
        return whole
    place = local(like)
    whole = whole.to(place.device, place.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def put(into: Mapping[str, Tensor], name: str, whole: Tensor) -> None:
    """Write a whole tensor, the same on each process, to that of its name, spread or not."""
    into[name].copy_(spread_like(whole, into[name]))


def whole(tensor: Tensor) -> Tensor:
    """The opposite; every process must ask at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _mesh(parts: int, world: World) -> DeviceMesh:
    kind = world.device.type
    if parts == world.size:
        return init_device_mesh(kind, (parts,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (world.size // parts, parts), mesh_dim_names=("replicate", "shard"))


def defer(model: nn.Module, summed: bool, across: bool) -> None:
    """Whether the next backward pass sums a spread model's gradients within a group (`summed`), and across groups."""
    spread_model = cast(Any, model)
    spread_model.set_requires_gradient_sync(summed)
    spread_model.set_requires_all_reduce(across)
