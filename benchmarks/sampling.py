"""`python -m benchmarks.sampling`: what drawing samples while a stage trains adds to the peak memory of the trainer.

On the cache of a workspace (that of `make demo` if not said otherwise) the stage is trained for a few steps by the
command itself, in processes of their own: without samples, and with samples after every second step. The figure is the
largest resident set that the kernel saw of each process, the larger of the rounds. Runs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.resume import beside

EVERY = 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workspace", default="work/demo")
    options.add_argument("--stages", nargs="+", default=["256px"])
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--set", nargs="*", default=[], help="more keys for both runs")
    options.add_argument("--json", type=Path, help="file to write the figures to")
    chosen = options.parse_args()
    print(f"{'stage':20}{'without MB':>12}{'with MB':>12}{'ratio':>8}")
    rows = [row(stage, chosen) for stage in chosen.stages]
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


def row(stage: str, chosen: argparse.Namespace) -> dict[str, Any]:
    peaks = {
        every: max(peak(stage, every, chosen) for _ in range(chosen.rounds)) for every in ("null", str(EVERY))
    }  # fmt: skip
    ratio = peaks[str(EVERY)] / peaks["null"]
    print(f"{stage:20}{peaks['null'] / 1e6:>12.0f}{peaks[str(EVERY)] / 1e6:>12.0f}{ratio:>8.3f}", flush=True)
    return {"stage": stage, "without_bytes": peaks["null"], "with_bytes": peaks[str(EVERY)], "ratio": ratio}


def peak(stage: str, every: str, chosen: argparse.Namespace) -> int:
    """Bytes of the largest resident set of a run of the stage."""
    keys = {"steps": chosen.steps, "sample_every": every, "validate_every": EVERY, "start": "scratch"}
    sets = [*(f"stages.{stage}.{key}={value}" for key, value in keys.items()), *chosen.set]
    with tempfile.TemporaryDirectory(prefix="dailies-sampling-") as folder:
        workspace = beside(Path(chosen.workspace), Path(folder, "workspace"))
        command = [
            sys.executable,
            "-m",
            "train.run",
            "--stage",
            stage,
            "--workspace",
            str(workspace),
            "--device",
            "cpu",
        ]
        process = subprocess.Popen(
            command + [part for one in sets for part in ("--set", one)], stdout=subprocess.DEVNULL
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        drawn = list(workspace.glob("runs/*/samples/*"))
    if status or bool(drawn) == (every == "null"):
        sys.exit(f"the run ended with {os.waitstatus_to_exitcode(status)} and {len(drawn)} samples")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
