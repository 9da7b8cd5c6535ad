"""One file scanned once, without weights: `python -m benchmarks.curate_once FILE split|measure [THREADS [SETTINGS]]` prints the
seconds of its cuts.

This is what benchmarks/curate_speed.py runs as our command, so it loads nothing else. SETTINGS: their JSON, as a scanning process of
a run is given it; a recipe's when left out.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2

from compat import keep_freed_memory
from curate.beside import Beside
from curate.scan import Source, scan_video, told

BESIDE = Beside()
atexit.register(BESIDE.close)


def as_scanning() -> None:
    """What a process that scans does when it begins (curate/isolate.py)."""
    cv2.setNumThreads(1)
    keep_freed_memory(for_all_threads=False)
    gc.freeze()


def settings_for(everything: bool) -> Any:
    from recipe_clips import Curate, Shots, Start

    start = Start() if everything else Start(window_s=0.0)  # splitting alone needs no sharpest frame
    return Curate(shots=Shots(mode="cheap"), start=start)


def measured(path: Path, threads: int = 2, everything: bool = True, settings: Any = None) -> dict[str, Any]:
    """Scan one file with every pass signal, proxies and hashes, or for its clips alone; returns its row.

    `starts_s`: times of the first frames after hard cuts.
    """
    settings = settings or settings_for(everything)
    want = frozenset(["clips", "proxies", "hashes", *_passes()] if everything else ["clips"])
    starts: set[float] = set()

    def sink(table: str, rows: list[dict[str, Any]]) -> None:
        if table == "clips":
            starts.update(row["shot_start_s"] for row in rows if row["start_kind"] == "cut" and not row["span"])

    row = scan_video(
        Source("0" * 16, str(path), path.stat().st_size, ""),
        settings,
        want,
        sink,
        lambda _: None,
        threads,
        None,
        BESIDE,
    )
    return row | {"starts_s": sorted(starts)}


def _passes() -> list[str]:
    from curate.signals import SIGNALS  # which splitting does without

    return [f"scores.{name}" for name, signal in SIGNALS.items() if signal.source == "pass"]


if __name__ == "__main__":
    as_scanning()
    path, what, threads, *given = [*sys.argv[1:], *("2" if len(sys.argv) < 4 else "")]
    print(json.dumps(measured(Path(path), int(threads), what == "measure", told(given[0]) if given else None)["starts_s"]),
          flush=True)  # fmt: skip
    BESIDE.close()
    os._exit(0)  # a scanning process is ended, too: to take Python apart would take as long as to load NumPy
