"""One file scanned once, without weights: `python -m benchmarks.curate_once FILE split|measure [THREADS]` prints the seconds of its cuts.

This is what benchmarks/curate_speed.py runs as our command, so it loads nothing else.
"""

from __future__ import annotations

import atexit
import json
import sys
from pathlib import Path
from typing import Any

import av
import cv2

from curate.beside import Beside
from curate.scan import Source, scan_video
from recipe_clips import Curate, Shots, Start  # and not `pipelines`: nothing else of a recipe is needed

BESIDE = Beside()
atexit.register(BESIDE.close)


def measured(path: Path, threads: int = 2, everything: bool = True) -> dict[str, Any]:
    """Scan one file with every pass signal, proxies and hashes, or for its clips alone; returns its row.

    `starts`: ticks of the first frames after hard cuts.
    """
    want = frozenset(["clips", "proxies", "hashes", *_passes()] if everything else ["clips"])
    starts: set[int] = set()

    def sink(table: str, rows: list[dict[str, Any]]) -> None:
        if table == "clips":
            starts.update(row["shot_start_tick"] for row in rows if row["start_kind"] == "cut" and not row["span"])

    start = Start() if everything else Start(window_s=0.0)  # splitting alone needs no sharpest frame
    settings = Curate(shots=Shots(mode="cheap"), start=start)
    row = scan_video(
        Source("0" * 16, str(path), path.stat().st_size, ""), settings, want, sink, lambda _: None, threads, None, BESIDE
    )
    return row | {"starts": sorted(starts)}


def _passes() -> list[str]:
    from curate.signals import SIGNALS  # which splitting does without

    return [f"scores.{name}" for name, signal in SIGNALS.items() if signal.source == "pass"]


def starts_s(path: Path, what: str, threads: int) -> list[float]:
    row = measured(path, threads, what == "measure")
    with av.open(str(path)) as container:
        base = float(container.streams.video[0].time_base or 0)
    return [tick * base for tick in row["starts"]]


if __name__ == "__main__":
    cv2.setNumThreads(1)  # as the process that curation scans in has it
    print(json.dumps(starts_s(Path(sys.argv[1]), sys.argv[2], int((sys.argv[3:] or ["2"])[0]))))
