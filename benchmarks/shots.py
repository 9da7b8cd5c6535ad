"""How well shots are found: precision, recall and F1 per file and pooled, on labelled real and on generated footage.

    python -m benchmarks.shots                     generated footage (made in a temporary folder)
    python -m benchmarks.shots FOLDER [FOLDER...]  a folder with labels.json (real), truth.json or splices.json
    python -m benchmarks.shots --splice FOLDER     films spliced from the single-shot files of a labelled folder

A hard cut is right within one frame of a labelled one, matched one to one in time order. A cut inside a labelled
gradual range widened by 3 frames is matched to the range. A range is found when a predicted
transition overlaps it with IoU >= 0.5. Files with no labelled transition are negatives. `--json FILE` writes the
figures. The seed that spliced films were tuned on is 1001; the default of `--seed` is another.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.splices import make
from curate.cuts import Boundary
from curate.shots import DETECTOR_PX, ShotFinder
from media.decode import Video

WIDER = 3


class Truth(NamedTuple):
    """cuts: first frames of new shots; gradual: (first, last) mixed frame."""

    cuts: list[int]
    gradual: list[tuple[int, int]]


class Score(NamedTuple):
    right: int = 0
    false: int = 0
    missed: int = 0
    gradual_right: int = 0
    gradual_false: int = 0
    gradual_missed: int = 0

    def plus(self, other: Score) -> Score:
        return Score(*(a + b for a, b in zip(self, other, strict=True)))


def truths(folder: Path) -> dict[str, Truth]:
    """Labels of a folder: of real (labels.json), spliced (splices.json) or generated footage (truth.json)."""
    if (folder / "labels.json").is_file():
        labels = json.loads((folder / "labels.json").read_text())
        found = {file: Truth([], []) for file in labels["single_shot"]}
        for file, shots in labels["shots"].items():
            found[file] = Truth(shots["cuts"], [tuple(one["range"]) for one in shots.get("gradual", [])])
        return found
    if (folder / "splices.json").is_file():
        files = json.loads((folder / "splices.json").read_text())["files"]
        return {file: _generated({"cuts": [{"frame": cut} for cut in one["cuts"]]} | {"gradual": one["gradual"]})
                for file, one in files.items()}  # fmt: skip
    files = json.loads((folder / "truth.json").read_text())["files"]
    return {file: _generated(one) for file, one in files.items() if one["media"] == "video" and one["expect"] == "ok"}


def _generated(file: dict[str, Any]) -> Truth:
    cuts = [cut["frame"] for cut in file["cuts"]]
    return Truth(cuts, [(one["first_frame"], one["last_frame"]) for one in file["gradual"]])


def detect(path: Path, detectors: Sequence[str] = ("content", "adaptive"), mode: str = "cheap") -> list[Boundary]:
    """Boundaries of a video, in frames counted from 0 as they are decoded."""
    found: list[Boundary] = []
    with Video(str(path), 2) as video:
        finder = ShotFinder(detectors, video.time_base, mode)
        for frame in video:
            finder.push(frame, frame.bgr(DETECTOR_PX))
            found += finder.settle()
        return found + finder.settle(ended=True)


def score(found: Sequence[Boundary], truth: Truth) -> Score:
    """Count what is right, false and missed in one file."""
    left, right, false = list(truth.cuts), 0, 0
    for one in found:
        near = [cut for cut in left if abs(cut - one.first) <= 1]
        if one.kind in ("fade", "dissolve"):
            continue
        if near:
            left.remove(near[0])
            right += 1
        elif not any(first - WIDER <= one.first <= last + WIDER for first, last in truth.gradual):
            false += 1
    soft = [(one.last, one.first - 1) for one in found if one.kind in ("fade", "dissolve")]
    hit = sum(any(iou(one, label) >= 0.5 for one in soft) for label in truth.gradual)
    wrong = sum(
        not any(one[0] <= label[1] + WIDER and label[0] - WIDER <= one[1] for label in truth.gradual) for one in soft
    )
    return Score(right, false, len(left), hit, wrong, len(truth.gradual) - hit)


def iou(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Of two ranges of frames, both ends included."""
    both = min(one[1], other[1]) - max(one[0], other[0]) + 1
    either = max(one[1], other[1]) - min(one[0], other[0]) + 1
    return max(0, both) / either


def rates(right: int, false: int, missed: int) -> tuple[float, float, float]:
    """Precision, recall, F1; 1 where there was nothing to find and nothing was found."""
    precision = right / (right + false) if right + false else 1.0
    recall = right / (right + missed) if right + missed else 1.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def run(folder: Path, detectors: Sequence[str], mode: str) -> dict[str, Any]:
    """Print a line per file that is not perfect and the pooled figures; return them."""
    total = Score()
    for file, truth in sorted(truths(folder).items()):
        one = score(detect(folder / file, detectors, mode), truth)
        total = total.plus(one)
        print(f"  {file:44} cuts {one.right}/{len(truth.cuts)} false {one.false}   gradual {one.gradual_right}/"
              f"{len(truth.gradual)} false {one.gradual_false}")  # fmt: skip
    precision, recall, f1 = rates(*total[:3])
    print(f"{folder}: hard cuts P {precision:.3f} R {recall:.3f} F1 {f1:.3f} ({sum(total[:3:2])} cuts); gradual "
          f"{total.gradual_right}/{sum(total[3::2])}, false {total.gradual_false}")  # fmt: skip
    return {"folder": folder.name, "mode": mode, "precision": precision, "recall": recall, "f1": f1} | total._asdict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--splice", type=Path, help="folder with labels.json")
    parser.add_argument("--films", type=int, default=16, help="spliced films, of 20 transitions each")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--detectors", default="content,adaptive")
    parser.add_argument("--mode", choices=("cheap", "auto", "full"), default="cheap")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folders = list(given.folders)
    if given.splice:
        folders.append(Path(tempfile.mkdtemp(prefix="dailies-splices-")))
        make(given.splice, folders[-1], given.films, given.seed)
    figures = [run(folder, given.detectors.split(","), given.mode) for folder in folders or [_generate()]]
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def _generate() -> Path:
    from examples.footage import generate

    folder = Path(tempfile.mkdtemp(prefix="dailies-shots-"))
    generate(folder)
    return folder


if __name__ == "__main__":
    main()
