"""How right the camera's class is: `python -m benchmarks.camera [--scenes 10] [--seed 50000] [--footage DIR] [--out FILE]`.

Scenes with depth of each of the 14 classes, rendered with textures and seeds that the signal was not fitted on (camera_scenes.py):
top-1, the share that is confident enough for a caption and how much of that is right, and the confusion matrix. With --footage
also the labelled real files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks.camera_scenes import judged
from benchmarks.signal_clips import real_clip
from curate.signals.camera import CLASSES, classify

SEED = 50_000  # of the first scene that is judged here; used for nothing else
CONFIDENT = 0.6  # from which on curate/caption.py names the class
LABELLED = {
    "static": {"static"}, "pan_right": {"pan right", "tilt right"}, "push_in": {"zoom in"}, "roll": {"handheld"},
    "handheld_shake": {"handheld"},
}  # fmt: skip


class Told(NamedTuple):
    what: str
    truth: str
    told: str
    confidence: float


def scene(job: tuple[int, str]) -> Told:
    seed, move = job
    return Told(f"scene {seed}", move, *classify(judged(seed, move).fits))


def scenes(count: int, seed: int = SEED, workers: int = 2) -> list[Told]:
    """`count` scenes of each class."""
    jobs = [(seed + k, move) for k in range(count) for move in CLASSES]
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return list(pool.map(scene, jobs, chunksize=4))


def real(footage: Path) -> Iterator[tuple[Told, bool]]:
    """Each labelled file, what was told of it, and whether that is one of the classes its label allows."""
    labels = json.loads((footage / "labels.json").read_text(encoding="utf-8"))["camera_motion_labels"]
    for label, words in LABELLED.items():
        for name in labels[label]:
            told = Told(name, label, *classify(real_clip(footage, name).fits))
            yield told, told.told in words


def matrix(rows: Sequence[Told]) -> np.ndarray:
    """int (14, 14): true class x told class."""
    found = np.zeros((len(CLASSES), len(CLASSES)), int)
    for row in rows:
        found[CLASSES.index(row.truth), CLASSES.index(row.told)] += 1
    return found


def summary(rows: Sequence[Told]) -> dict[str, Any]:
    confident = [row for row in rows if row.confidence >= CONFIDENT]
    return {
        "scenes": len(rows),
        "top_1": float(np.mean([row.told == row.truth for row in rows])),
        "confident": len(confident) / len(rows),
        "right_where_confident": float(np.mean([row.told == row.truth for row in confident])),
    }


def show(rows: Sequence[Told]) -> None:
    print(f"{'true / told':14}" + "".join(f"{name.replace(' ', '.')[:9]:>10}" for name in CLASSES))
    for name, counts in zip(CLASSES, matrix(rows), strict=True):
        print(f"{name:14}" + "".join(f"{count or '.':>10}" for count in counts))
    print("  ".join(f"{name} {value:.3f}" for name, value in summary(rows).items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10, help="of each class")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first scene")
    parser.add_argument("--footage", type=Path, help="folder of real files with labels.json")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/camera.json"))
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    rows = scenes(chosen.scenes, chosen.seed)
    show(rows)
    results: dict[str, Any] = {"scenes": summary(rows), "matrix": matrix(rows).tolist(), "classes": CLASSES}
    if chosen.footage:
        files = list(real(chosen.footage))
        for told, right in files:
            print(f"{told.what:45} {told.truth:15} {told.told:12} {told.confidence:.2f} {'' if right else '  <--'}")
        results["real"] = {"files": len(files), "right": sum(right for _, right in files)}
        print(f"real files: {results['real']['right']} of {len(files)}")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
