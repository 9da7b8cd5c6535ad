"""What goes wrong between processes that train together, played by those that torchrun started on this file.

    torchrun --nproc-per-node 2 tests/spread_faults.py FOLDER

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

import commands
from pipelines import RecipeError
from train import checkpoint, folder
from train.distributed import World, barrier, joined


def patience(world: World, _: Path) -> Any:
    """The first one works alone for longer than a sum may take."""
    if world.first:
        time.sleep(4.0)
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


if __name__ == "__main__":
    dist.distributed_c10d.default_pg_timeout = timedelta(seconds=2.0)
    folder.SEEN_S = 1.0
    with joined("cpu") as world:
        cases = (broken, apart, patience)
        told = {"rank": world.rank} | {case.__name__: case(world, Path(sys.argv[1])) for case in cases}
        sys.stdout.write(json.dumps(told) + "\n")  # in one piece: both write to one pipe
        barrier(world)
