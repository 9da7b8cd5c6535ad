"""Frames per second from files to latents on disk, against the loop everybody writes first: open a clip, encode, save.

    python -m benchmarks.encode [--device cpu] [--size tiny] [--clips 9] [--rounds 1] [--side-px 256] [--frames 17] [--json FILE]

The loop is decord, a resize, `AutoencoderKLHunyuanVideo.encode` and one safetensors file a clip, with torch's own number
of threads, and once more with one. dailies is the readers, VAE and shard writer of `cache.encode_latents`. The weights
are random: `tiny` (8 to 16 channels) or `full` (HunyuanVideo's own size; in bfloat16 with --device cuda). Pixels are the
same, and the largest difference of the latents is printed. Each side runs in a process of its own, in turns, and its best
round counts; loading is not counted, starting the readers is. `waits`: share of the time between the VAE's first and last
call in which it had nothing to do.
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

SIDES = ("loop", "loop, one thread", "dailies")


def main() -> None:
    asked = _parser().parse_args()
    if asked.side:
        from benchmarks.encode_sides import measure

        print(json.dumps(measure(asked)))
        return
    with tempfile.TemporaryDirectory(prefix="dailies-encode-") as folder:
        found = _compared(Path(folder), asked)
    for side, one in found["sides"].items():
        print(
            f"{side:<18}{one['frames_per_s']:>9.1f} frames/s   waits {one['waits']:>6.1%}   {one['cpu_s']:>6.1f} s of CPU"
        )
    print(f"ratio to the better loop {found['ratio']:.2f}; latents differ by {found['difference']:.1e} at most; "
          f"peak {found['sides']['dailies']['peak_mb']} MB; {found['bucket']}, {asked.clips} clips, {found['device']}")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("clips", 9), ("side-px", 256), ("frames", 17), ("rounds", 1), ("workers", os.cpu_count())):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def _compared(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import encode_sides as sides

    sides.prepare(folder, asked)
    chosen = SIDES if asked.device == "cpu" else (SIDES[0], SIDES[2])
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in chosen}
    for turn in range(asked.rounds):
        for side in chosen if turn % 2 == 0 else chosen[::-1]:
            runs[side].append(_run(folder, side))
    best = {side: max(some, key=lambda one: one["frames_per_s"]) for side, some in runs.items()}
    base = max(one["frames_per_s"] for side, one in best.items() if side != "dailies")
    return {
        "sides": best,
        "rounds": {side: [one["frames_per_s"] for one in some] for side, some in runs.items()},
        "ratio": round(best["dailies"]["frames_per_s"] / base, 2),
        "difference": sides.difference(folder, SIDES[0]),
        "bucket": sides.bucket_of(asked).name,
        "device": sides.device_name(asked.device),
        "load": os.getloadavg(),
    }


def _run(folder: Path, side: str) -> dict[str, Any]:
    """One side in a process of its own: what it does to memory and threads stays there."""
    command = [sys.executable, "-m", "benchmarks.encode", *sys.argv[1:], "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
