"""What goes wrong between processes that train together, played by those that torchrun started on this file.

    torchrun --nproc-per-node 2 tests/spread_faults.py FOLDER [patience]

Each prints one JSON line, by rank in no order.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import train_workspace
from torch.distributed.fsdp import FSDPModule

import commands
from cache.read import LatentCache, open_cache
from pipelines import Recipe, RecipeError
from train import checkpoint, folder, network, stages
from train.data import stage_pools
from train.distributed import World, barrier, joined, local, whole
from train.memory import job_of, memory
from train.optim import Weights
from train.probe import probe

SUM_S = 15.0  # that a sum may take, where patience is tried
ADAPTED = {"lora": {"rank": 3, "alpha": 6.0, "targets": ["qkv", "linear1"]}, "seed": 5}


def patience(world: World, _: Path) -> Any:
    """The first one works alone for longer than a sum may take."""
    if world.first:
        time.sleep(1.3 * SUM_S)
    barrier(world)
    return "together"


def broken(world: World, place: Path) -> Any:
    """All look for the newest checkpoint at once; behind many broken ones lies a whole one."""
    barrier(world)
    found = checkpoint.latest(str(place))
    return found.step if found else None


def apart(world: World, place: Path) -> Any:
    """Machines without a common disk."""
    run = folder.RunFolder(str(place / f"machine-{world.rank}"))
    try:
        with commands.hold(run.path, "train"):
            barrier(world)
            if not world.first:
                (Path(run.path) / folder.LOCK).unlink()
            run.look(world.first)
            barrier(world)
    except RecipeError as error:
        barrier(world)
        return str(error)
    return "shared"


def held(world: World, place: Path) -> Any:
    """Bytes of gradients when the probe computes its second micro-batch, and when steps of two rounds do; and the plan's."""
    recipe = train_workspace.recipe(place, {"shard": "full", "micro_batches": 4})
    if world.first:
        train_workspace.fill(recipe)
    barrier(world)
    cache, chosen = open_cache(recipe), recipe.stages["s"]
    feeds = stage_pools(cache, chosen, stages.cost_of(recipe))
    found = {"plan": memory(job_of(sized(recipe, cache), "none", "float32", shards=2, held=True), 1, 16, 8).gradients}
    for reduce in ("step", "micro_batch"):
        model, spread = network.of_stage(recipe, "s", world, cache.settings, str(place))
        weights = Weights(model, chosen.model_copy(update={"reduce": reduce}), spread)
        seen: list[int] = []
        model.register_forward_pre_hook(lambda *_, model=model, seen=seen: seen.append(gradient_bytes(model)))
        probe(weights, cache, feeds, world)
        found[reduce] = seen[-1]
    return found


def adapted(world: World, place: Path) -> Any:
    """A network with adapters, cut up: every number summed, so that it can be compared with one that is whole."""
    recipe = train_workspace.recipe(place, ADAPTED | {"shard": "full"})
    settings = open_cache(recipe).settings
    model, spread = network.of_stage(recipe, "s", world, settings, str(place / "runs" / "s"))
    assert spread
    return {name: float(whole(one.detach()).double().sum()) for name, one in model.named_parameters()}


def sized(recipe: Recipe, cache: LatentCache) -> dict[str, Any]:
    widths = stages.widths_of(cache.settings)
    return stages.size_of(recipe) | {
        "text_width": widths.text, "pooled_width": widths.pooled, "in_channels": widths.channels,
        "out_channels": widths.channels,
    }  # fmt: skip


def gradient_bytes(model: Any) -> int:
    """Of all gradients that this process holds: its parts, and whole ones that wait to be summed."""
    groups = [one._get_fsdp_state()._fsdp_param_group for one in model.modules() if isinstance(one, FSDPModule)]
    total = 0
    for one in (one for group in groups for one in group.fsdp_params):
        gathered = getattr(one, "_unsharded_param", None)
        later = None if gathered is None else gathered.grad
        for held in (one.unsharded_accumulated_grad, one.sharded_param.grad, later):
            total += 0 if held is None else local(held).nbytes
    return total


if __name__ == "__main__":
    cases = (broken, apart, held, adapted)
    if sys.argv[2:] == ["patience"]:
        cases = (patience,)
        dist.distributed_c10d.default_pg_timeout = timedelta(seconds=SUM_S)
    folder.SEEN_S = 1.0
    with joined("cpu") as world:
        told = {"rank": world.rank} | {case.__name__: case(world, Path(sys.argv[1])) for case in cases}
        sys.stdout.write(json.dumps(told) + "\n")  # in one piece: both write to one pipe
        barrier(world)
