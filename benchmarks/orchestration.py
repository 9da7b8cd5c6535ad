"""What surrounds the work: `curate` on a corpus of ten minutes of work and more, on Ray and in one process.

    python -m benchmarks.orchestration [FOLDER] [--work-s 600] [--ways ray local] [--long-minutes 60] [--json FILE]

FOLDER (generated footage when not given) is repeated under other content ids until measuring it takes about --work-s
seconds of CPU, all ten signals on. Reported per way: the stages; kernel seconds / (wall x cores), where kernel is the
clock inside decoding and measuring, summed over workers, and the wall that of the measuring step, start of Ray
included; the same by CPU seconds, which other work on the machine does not stretch but squeezes; the CPU of a second run
that finds nothing to do, against the kernel's CPU of the first. Then a long film, scanned in parts side by side: frames
decoded / frames of the source, with every signal on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.loops import loop
from curate.signals import SIGNALS

EVERY = "curate.signals={" + ", ".join(f"{name}: {{}}" for name in SIGNALS) + "}"
QUICK = "curate.signals={sharpness: {}, exposure: {}, borders: {}, motion: {}}"


def repeated(source: Path, target: Path, times: int) -> None:
    """Copies of every MP4 and MOV file, each with a `free` box of its own at the end: other bytes, the same film."""
    films = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".mp4", ".mov"))
    target.mkdir(parents=True)
    for k in range(times):
        for number, film in enumerate(films):
            name = f"{k}-{number}".encode()
            (target / f"{k:03d}-{number:03d}{film.suffix}").write_bytes(
                film.read_bytes() + (8 + len(name)).to_bytes(4, "big") + b"free" + name
            )


def curate(footage: Path, workspace: Path, way: str, *options: str) -> dict[str, Any]:
    """Run the command: its events `stages` and `curated`, wall seconds, and CPU seconds of it and its children."""
    command = [sys.executable, "-m", "curate", "--footage", str(footage), "--workspace", str(workspace), "--json"]
    command += ["--set", "curate.max_loss=1.0", *options, *(["--local"] if way == "local" else [])]
    wall, cpu = time.perf_counter(), _cpu()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    events = {event["what"]: event for line in done.stdout.splitlines() if (event := json.loads(line))}
    return {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu, **events}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def corpus(source: Path, scratch: Path, work_s: float, times: int | None) -> Path:
    """Enough copies: one is measured first to see what it costs, unless it is said how many."""
    if times is None:
        repeated(source, scratch / "once", 1)
        once = curate(scratch / "once", scratch / "probe", "local", "--set", EVERY)
        times = max(1, -int(-work_s // once["stages"]["cpu_s"]))
        shutil.rmtree(scratch / "probe")
    repeated(source, scratch / "corpus", times)
    return scratch / "corpus"


def orchestration(footage: Path, scratch: Path, way: str) -> dict[str, Any]:
    full = curate(footage, scratch / way, way, "--set", EVERY)
    again = curate(footage, scratch / way, way, "--set", EVERY)
    assert again["curated"]["made"] == [] and again["curated"]["videos"] == 0, again["curated"]
    stages = full["stages"]
    return {"way": way, "load": os.getloadavg()[0], "videos": full["curated"]["videos"], "command_s": full["wall_s"],
            "no_op_s": again["wall_s"], "no_op_cpu_s": again["cpu_s"],
            "no_op_share": again["cpu_s"] / stages["cpu_s"], **stages}  # fmt: skip


def amplification(source: Path, scratch: Path, minutes: float) -> dict[str, Any]:
    """A film of that length in one unit, on two workers: each scans a part."""
    (scratch / "long").mkdir()
    frames = loop(source, scratch / "long" / "film.mp4", 60 * minutes)
    told = curate(scratch / "long", scratch / "long-work", "local", "--workers", "2", "--set", QUICK)
    stages = told["stages"]
    assert stages["frames"] == frames, (stages["frames"], frames)
    shutil.rmtree(scratch / "long-work")
    shutil.rmtree(scratch / "long")
    return {"minutes": minutes, "frames": frames, "frames_decoded": stages["frames_decoded"],
            "amplification": stages["amplification"]}  # fmt: skip


def show(ways: list[dict[str, Any]], films: list[dict[str, Any]]) -> None:
    for row in ways:
        print(f"\n{row['way']}: {row['videos']} videos, {row['cores']} cores, load {row['load']:.1f}")
        print(
            f"{'stage':<18}{'jobs':>6}{'clips/s':>9}{'video s/s':>10}{'kernel s':>10}{'CPU s':>9}{'waited s':>10}{'queue':>7}"
        )
        for name, one in row["stages"].items():
            rates = [f"{one[key]:.3g}" if one[key] is not None else "" for key in ("clips_per_s", "video_s_per_s")]
            print(f"{name:<18}{one['jobs']:>6}{rates[0]:>9}{rates[1]:>10}{one['kernel_s']:>10.1f}{one['cpu_s']:>9.1f}"
                  f"{one['waited_s']:>10.1f}{one['most_waiting']:>7}")  # fmt: skip
        print(f"kernel {row['kernel_s']:.0f} s ({row['cpu_s']:.0f} s of CPU) in {row['wall_s']:.0f} s: "
              f"kernel seconds / (wall x cores) {row['kernel_share']:.3f}, of CPU {row['cpu_share']:.3f}")  # fmt: skip
        print(f"whole command {row['command_s']:.0f} s; frames decoded / source {row['amplification']:.3f}; "
              f"through Ray's object store {row['stored_bytes'] / 1e6:.1f} MB")  # fmt: skip
        print(f"second run, nothing to do: {row['no_op_s']:.1f} s, {row['no_op_cpu_s']:.1f} s of CPU: "
              f"{row['no_op_share']:.2%} of the first run's kernel CPU")  # fmt: skip
    for row in films:
        print(f"\nfilm of {row['minutes']:g} minutes, {row['frames']} frames, in parts: {row['frames_decoded']} decoded, "
              f"{row['amplification']:.3f} x")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--work-s", type=float, default=600.0)
    parser.add_argument("--times", type=int, help="copies of the footage, instead of --work-s")
    parser.add_argument("--ways", nargs="*", choices=("ray", "local"), default=["ray", "local"])
    parser.add_argument("--long-minutes", type=float, nargs="*", default=[60.0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="dailies-orchestration-") as folder:
        scratch, source = Path(folder), given.folder or _generated(Path(folder, "generated"))
        footage = corpus(source, scratch, given.work_s, given.times) if given.ways else source
        ways = [orchestration(footage, scratch, way) for way in given.ways]
        films = [amplification(_small_film(scratch), scratch, minutes) for minutes in given.long_minutes]
    show(ways, films)
    if given.json:
        given.json.write_text(json.dumps({"ways": ways, "films": films}, indent=1))


def _generated(folder: Path) -> Path:
    from examples.footage import generate

    generate(folder, 0)
    return folder


def _small_film(scratch: Path) -> Path:
    """30 s of 160 x 96 px, 4 frames/s, with a cut every 3 s: how often a frame is decoded does not depend on its size."""
    import numpy as np

    from media.write import write_mp4

    path = scratch / "small.mp4"
    if not path.exists():
        draw = np.random.default_rng(0)
        shots = [np.kron(draw.integers(0, 256, (12, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(10)]
        write_mp4(str(path), np.stack([shots[k // 12][:, k % 12 : k % 12 + 160] for k in range(120)]), 4.0)
    return path


if __name__ == "__main__":
    main()
