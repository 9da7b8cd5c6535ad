"""`python -m benchmarks.resume`: kill a training run again and again; what is lost, and is anything changed?

On the cache of a workspace (that of `make demo` if not said otherwise): one run of N steps undisturbed, one killed with
SIGKILL at random steps and started again. Printed: whether the losses are equal bit for bit, steps done twice, seconds
from the command to its first new step, and what a checkpoint costs. Runs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train import checkpoint, metrics


def main() -> None:
    options = argparse.ArgumentParser(description="What killing a training run costs.")
    options.add_argument("--workspace", default="work/demo")
    options.add_argument("--stage", default="256px")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    options.add_argument("--kills", type=int, default=5)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="dailies-resume-") as folder:
        straight, killed = (beside(Path(chosen.workspace), Path(folder, name)) for name in ("straight", "killed"))
        started = time.monotonic()
        subprocess.run(command(straight, chosen), check=True, stdout=subprocess.DEVNULL, env=environment())
        undisturbed = time.monotonic() - started
        waits, again = disturb(killed, chosen)
        wanted, found = (losses(one, chosen.stage) for one in (straight, killed))
        saved = sum(one.stat().st_size for one in (killed / "runs" / chosen.stage / "checkpoints").rglob("*"))
        print(f"{chosen.steps} steps undisturbed            {undisturbed:8.1f} s")
        print(f"killed {chosen.kills} times, losses equal    {wanted == found!s:>8}")
        print(f"steps done twice              {again:8d}")
        print(f"command to its first new step {sum(waits) / len(waits):8.1f} s (mean)")
        print(f"two checkpoints hold          {saved / 1e6:8.1f} MB")
        sys.exit(wanted != found)


def beside(workspace: Path, place: Path) -> Path:
    """A workspace that shares everything but the runs."""
    place.mkdir()
    for one in workspace.resolve().iterdir():
        if one.name != "runs":
            (place / one.name).symlink_to(one)
    return place


def command(workspace: Path, chosen: argparse.Namespace) -> list[str]:
    stage = f"stages.{chosen.stage}"
    sets = [f"{stage}.steps={chosen.steps}", f"{stage}.checkpoint_every={chosen.every}",
            f"{stage}.validate_every={chosen.steps * 2}", f"{stage}.sample_every=null"]  # fmt: skip
    overrides = [part for one in sets for part in ("--set", one)]
    return [sys.executable, "-m", "train.run", "--stage", chosen.stage, "--workspace", str(workspace),
            "--device", "cpu", *overrides]  # fmt: skip


def environment() -> dict[str, str]:
    """One number of threads for all runs: the order of sums is part of the bits."""
    return os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


def disturb(workspace: Path, chosen: argparse.Namespace) -> tuple[list[float], int]:
    """Train with kills. Returns seconds to the first new step of each start, and how many steps were done twice."""
    generator = random.Random(chosen.seed)
    marks = sorted(generator.sample(range(1, chosen.steps), chosen.kills))
    waits, again = [], 0
    for mark in [*marks, None]:
        before, kept = seen(workspace, chosen.stage), saved_step(workspace, chosen.stage)
        again += len(before) - kept
        started, first = time.monotonic(), None
        process = subprocess.Popen(command(workspace, chosen), stdout=subprocess.DEVNULL, env=environment())
        while process.poll() is None:
            now = seen(workspace, chosen.stage)
            if first is None and now != before and len(now) > kept:
                first = time.monotonic() - started
            if mark is not None and first is not None and now[-1][0] >= mark:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
        waits.append(first or time.monotonic() - started)
        if mark is None and process.returncode:
            sys.exit(f"the run ended with {process.returncode}")
    return waits, again


def saved_step(workspace: Path, stage: str) -> int:
    found = checkpoint.latest(str(workspace / "runs" / stage))
    return 0 if found is None else found.step


def seen(workspace: Path, stage: str) -> list[tuple[int, float]]:
    return losses(workspace, stage) if (workspace / "runs" / stage / "metrics.jsonl").exists() else []


def losses(workspace: Path, stage: str) -> list[tuple[int, float]]:
    records = metrics.read(str(workspace / "runs" / stage / "metrics.jsonl"))
    return [(one["step"], one["loss"]) for one in records if "loss" in one]


if __name__ == "__main__":
    main()
