"""Saves a checkpoint over and over, each time in a child that kills itself (SIGKILL) one step later than the time before.

    python tests/kill_saves.py FOLDER [SECONDS...]

A step is whatever the interpreter reports of files and folders (sys.addaudithook). The last child gets to its end. With
SECONDS the children are killed from outside after so long, wherever they are, bytes half written included. One JSON line per
child: what is found afterwards, and after the run has gone on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from train import checkpoint
from train.distributed import World
from train.saving import Saver

BEFORE, NEXT = 5, 10
WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")


def tensors(step: int, numbers: int) -> checkpoint.Tensors:
    """Every number of every group says which step it is from."""
    return {"model": {f"layer.{k}": torch.full((numbers,), float(step)) for k in range(3)},
            "average": {"w": torch.full((numbers,), float(step))}, "optimiser": {"step/w": torch.tensor(float(step))}}  # fmt: skip


def save(folder: Path, step: int, numbers: int) -> None:
    with Saver(str(folder), World(0, 1, torch.device("cpu")), keep_last=1, milestones=()) as saver:
        saver.save(step, tensors(step, numbers), {"said": step})


def die_at(moment: int, folder: Path) -> None:
    """Kill this process at its so-many-th step on a file under the folder."""
    seen = [0]

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event in WATCHED and given and str(given[0]).startswith(str(folder)):
            seen[0] += 1
            if seen[0] > moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def found(folder: Path) -> dict[str, Any]:
    newest = checkpoint.latest(str(folder))
    if newest is None:
        return {"step": None}
    values = {float(one.max()) for held in checkpoint.load(newest).values() for one in held.values()}
    values |= {float(one.min()) for held in checkpoint.load(newest).values() for one in held.values()}
    return {"step": newest.step, "said": newest.state["said"], "values": sorted(values)}


def child(folder: Path, numbers: int, moment: int | None) -> int:
    number = os.fork()
    if number:
        return number
    if moment is not None:
        die_at(moment, folder)
    save(folder, NEXT, numbers)
    os._exit(0)


def attempt(folder: Path, numbers: int, moment: int | None, seconds: float | None) -> bool:
    """Whether the child was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    save(folder, BEFORE, numbers)
    number = child(folder, numbers, moment)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(number, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(number, 0)[1])
    left = sorted(one.name for one in (folder / "checkpoints").iterdir())
    told = found(folder)
    save(folder, NEXT, numbers)
    print(json.dumps({"killed": killed, "left": left, "found": told, "after": found(folder)}), flush=True)
    return killed


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked child may not use the threads of its parent
    place = Path(sys.argv[1]) / "run"
    for given in sys.argv[2:]:
        attempt(place, 3_000_000, None, float(given))
    moment = 0
    while not sys.argv[2:] and attempt(place, 5, moment, None):
        moment += 1
