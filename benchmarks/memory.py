"""Peak memory of scanning a 1-minute and a 60-minute video with every pass signal on.

    python -m benchmarks.memory [VIDEO] [--minutes 1 60] [--json FILE]

VIDEO (generated when not given) is looped, packet for packet, to each length. Every length is scanned in a process of
its own; the figure is that process's largest resident set, rows going nowhere. Must hold: the long one at most 1.3
times the short one, and below 3 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.loops import loop


def scan(path: str) -> dict[str, Any]:
    """Scan a video in this process: frames, seconds and the peak resident sets in MB, of it and of the process beside it, of which most
    is shared."""
    from benchmarks.curate_once import BESIDE, as_scanning, measured

    as_scanning()
    started = time.monotonic()
    row = measured(Path(path))
    seconds = time.monotonic() - started
    BESIDE.close()
    ours, other = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "frames": row["frames_decoded"],
        "status": row["status"],
        "seconds": seconds,
        "peak_mb": ours,
        "beside_mb": other,
    }


def peak(source: Path, minutes: float, folder: Path) -> dict[str, Any]:
    """The figures of one length, from a process of its own."""
    target = folder / f"{minutes:g}min.mp4"
    frames = loop(source, target, 60 * minutes)
    child = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--scan", str(target)], capture_output=True,
                           text=True, check=True)  # fmt: skip
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["frames"] == frames, (found, frames)
    target.unlink()
    return {"minutes": minutes} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scan", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.scan:
        print(json.dumps(scan(given.scan)))
        return
    with tempfile.TemporaryDirectory(prefix="dailies-memory-") as folder:
        source = given.video or _generated(Path(folder))
        rows = [peak(source, minutes, Path(folder)) for minutes in given.minutes]
    print(f"{'minutes':>8}{'frames':>9}{'seconds':>9}{'peak MB':>9}{'ratio':>7}{'beside it, MB':>15}")
    for row in rows:
        row["ratio"] = row["peak_mb"] / rows[0]["peak_mb"]
        print(f"{row['minutes']:>8g}{row['frames']:>9}{row['seconds']:>9.1f}{row['peak_mb']:>9.0f}{row['ratio']:>7.2f}"
              f"{row['beside_mb']:>15.0f}")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def _generated(folder: Path) -> Path:
    """A moving picture of 12 s, 640 x 360."""
    import cv2
    import numpy as np

    from media.write import write_mp4

    wide = cv2.resize(np.random.default_rng(0).integers(0, 256, (60, 160, 3), np.uint8), (1280, 480))
    film = np.stack([wide[k // 3 : k // 3 + 360, 2 * k : 2 * k + 640] for k in range(288)])
    write_mp4(str(folder / "film.mp4"), film, 24.0)
    return folder / "film.mp4"


if __name__ == "__main__":
    main()
