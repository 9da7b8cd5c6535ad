"""`python -m benchmarks.planner`: the planner's estimate of a training step's memory beside what a process really holds.

For each size and checkpointing mode a process of its own builds the trainer's weights (with AdamW and the average) and
takes two steps of two micro-batches. Measured is the highest resident size after a mark (Linux's VmHWM, reset through
clear_refs) less the resident size at the mark, which is set once libraries are loaded and a small network has trained.
glibc is told to give each tensor pages of its own (MALLOC_MMAP_THRESHOLD_): what is freed leaves the process at once, so
the resident size is that of the living tensors and not of the allocator's past.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch

from model.sizes import SIZES
from pipelines import Stage
from train import stages
from train.batch import Batch
from train.distributed import World
from train.memory import job_of, memory
from train.optim import Weights
from train.plan import MicroBatch
from train.step import train_step

TEXT, TEXT_WIDTH, POOLED = 64, 256, 128
MICRO_BATCHES = 2

# name: size, latent (frames, height, width), samples per micro-batch
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "tiny, 5 pictures of 256px": (SIZES["tiny"], (1, 32, 32), 5),
    "768 wide, 2 + 4 blocks, 17x256x256": (
        SIZES["small"] | {"double_blocks": 2, "single_blocks": 4},
        (5, 32, 32),
        1,
    ),
    "1536 wide, 1 + 2 blocks, 17x256x256": (
        SIZES["1b"] | {"double_blocks": 1, "single_blocks": 2},
        (5, 32, 32),
        1,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--checkpointing", nargs="*", default=["none", "selective", "full"])
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(measured(*given.peak))
        return
    print(f"{'size':38}{'checkpointing':>14}{'estimate MB':>13}{'measured MB':>13}{'ratio':>8}")
    rows = [_row(name, mode) for name in CASES for mode in given.checkpointing]
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"furthest from 1: {worst:.1%}")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"rows": rows, "worst": worst}, file, indent=1)


def _row(name: str, mode: str) -> dict[str, Any]:
    size, (frames, height, width), batch = CASES[name]
    parts = memory(job_of(size_of(size), mode, "float32"), batch, frames * height * width // 4, TEXT)
    found = peak(name, mode)
    ratio = parts.total / found
    print(f"{name:38}{mode:>14}{parts.total / 1e6:>13,.0f}{found / 1e6:>13,.0f}{ratio:>8.3f}", flush=True)
    return {
        "size": name, "checkpointing": mode, "estimate": parts._asdict(), "estimate_bytes": parts.total,
        "measured_bytes": found, "ratio": ratio,
    }  # fmt: skip


def size_of(size: dict[str, Any]) -> dict[str, Any]:
    return size | {"text_width": TEXT_WIDTH, "pooled_width": POOLED}


def peak(name: str, mode: str) -> int:
    """Bytes that the training process of a case held at its worst moment."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.planner", "--peak", name, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()[-1])


def measured(name: str, mode: str) -> int:
    """In a fresh process: train, and tell the highest resident size above that of the mark."""
    size, latent, batch = CASES[name]
    _train(size_of(SIZES["tiny"]), (1, 8, 8), 1, "none")
    before = mark()
    _train(size_of(size), latent, batch, mode)
    return highest() - before


def _train(size: dict[str, Any], latent: tuple[int, int, int], batch: int, mode: str) -> None:
    widths = stages.Widths(size["in_channels"], size["text_width"], size["pooled_width"])
    stage = Stage.model_validate({"feeds": [{"set": "s", "view": "v"}], "tokens": 1, "steps": 2, "lr": 1e-4})
    weights = Weights(stages.build(size, widths, 0, mode), stage)
    micro = [MicroBatch(0, "1x64x64", 0, (0,) * batch, (0,) * batch, ("c",) * batch, (0,) * batch, (0,), 1.0)]
    held = [_batch(widths, latent, batch, seed) for seed in range(MICRO_BATCHES)]
    for step in range(2):
        train_step(weights, micro * MICRO_BATCHES, range(MICRO_BATCHES), held, World(0, 1, torch.device("cpu")), step)


def _batch(widths: stages.Widths, latent: tuple[int, int, int], batch: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    data, noise = (torch.randn(batch, widths.channels, *latent, generator=generator) for _ in range(2))
    return Batch(
        bucket="1x64x64", tokens=1, names=("c",) * batch, data=data, noise=noise,
        t=torch.rand(batch, dtype=torch.float64, generator=generator),
        text=torch.randn(batch, TEXT, widths.text, generator=generator), mask=torch.ones(batch, TEXT, dtype=torch.bool),
        pooled=torch.randn(batch, widths.pooled, generator=generator),
    )  # fmt: skip


def mark() -> int:
    """Forget the highest resident size so far. Returns the resident size in bytes."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status("VmRSS")


def highest() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
