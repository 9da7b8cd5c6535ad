"""People: how many are seen at once, how many faces, and how much of the frame the largest one covers.

Without weights by what OpenCV ships: Haar cascades for faces from the front (Viola and Jones, 2001), HOG for upright
bodies (Dalal and Triggs, 2005), kept strict: a face needs three cascades, and company in another frame unless it is very
sure; bottles and door frames have the outline of a body, so bodies count where there is a face too. With `weights` an ONNX
detector of the YOLOX kind, whose class 0 is a person.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.pictures import decode_jpegs
from curate.signals.crops import Box, overlap
from curate.signals.detector import detect
from curate.signals.kinds import Scores, Signal

FRAMES = 4
LOOK_PX = 512
COLUMNS = {"people": pa.float64(), "faces": pa.float64(), "largest_person": pa.float64()}
FACE_SURE, FACE_CERTAIN = 55.1, 56.0  # sums of a cascade's stages; rendered scenes without a face reach 55.8
FACE_PX = 120  # side at which a face is looked at again
BODY_SURE, BODY_CERTAIN = 0.9, 2.2  # distances from the plane of the classifier: where there is a face too, alone
STAYS_PX = 0.25  # of the frame: how far a person may have gone between two proxies
PERSON = 0  # class of a person in COCO


class Sight(NamedTuple):
    """kind: "face" | "body"; box: shares of the frame; certain: enough by itself; backed: by an eye in the face, or needs none."""

    kind: str
    box: Box
    certain: bool
    backed: bool = True


def from_proxies(proxies: pa.Table, settings: Any) -> pa.Table:
    rows = []
    for jpegs in proxies["jpegs"].to_pylist():
        frames = decode_jpegs(jpegs[:: max(1, len(jpegs) // FRAMES)][:FRAMES])
        rows.append(detected(frames, settings.weights) if settings.weights else measure(frames))
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    return pa.table({"clip_id": proxies["clip_id"]} | columns)


def measure(frames: Sequence[np.ndarray]) -> Scores:
    """RGB uint8 (H, W, 3) of one clip -> scores; all None without frames. people, faces: most seen in one frame."""
    if not frames:
        return dict.fromkeys(COLUMNS)
    seen = [_sights(frame) for frame in frames[::2]]
    if not any(seen):
        return summary([[]])  # who is in no second frame does not stay in the picture
    between = [_sights(frame) for frame in frames[1::2]]
    seen = [sights for pair in zip_longest(seen, between) for sights in pair if sights is not None]
    kept = [[one for one in sights if one.certain or _again(one, k, seen)] for k, sights in enumerate(seen)]
    if not any(one.kind == "face" for sights in kept for one in sights):
        kept = [[one for one in sights if one.certain] for sights in kept]
    return summary(kept)


def _sights(rgb: np.ndarray) -> list[Sight]:
    gray = _gray(rgb)
    return [*faces(gray), *bodies(gray)]


def summary(seen: Sequence[Sequence[Sight]]) -> Scores:
    people = [persons(sights) for sights in seen]
    return {
        "people": float(max(len(one) for one in people)),
        "faces": float(max(sum(sight.kind == "face" for sight in sights) for sights in seen)),
        "largest_person": max((_area(box) for one in people for box in one), default=0.0),
    }


def persons(sights: Sequence[Sight]) -> list[Box]:
    """One box per person: bodies, and of the faces that belong to none of them the body that goes with it."""
    bodies_seen = [sight.box for sight in sights if sight.kind == "body"]
    lone = [sight.box for sight in sights if sight.kind == "face" and not any(_in(sight.box, b) for b in bodies_seen)]
    return bodies_seen + [_body_below(box) for box in lone]


def _area(box: Box) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _in(inner: Box, outer: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def _body_below(face: Box) -> Box:
    """A person is about three faces wide and seven high; what is outside the frame is not seen."""
    wide, tall = face[2] - face[0], face[3] - face[1]
    return (
        max(0.0, face[0] - wide),
        max(0.0, face[1] - 0.3 * tall),
        min(1.0, face[2] + wide),
        min(1.0, face[3] + 6 * tall),
    )


def _again(sight: Sight, place: int, seen: Sequence[Sequence[Sight]]) -> bool:
    """Whether the like of it, of a similar size and not far, is seen in another frame."""

    def like(other: Sight) -> bool:
        near = abs(sight.box[0] - other.box[0]) < STAYS_PX and abs(sight.box[1] - other.box[1]) < STAYS_PX
        ratio = _area(sight.box) / max(1e-9, _area(other.box))
        return other.kind == sight.kind and near and 0.5 < ratio < 2 and (sight.backed or other.backed)

    return any(like(other) for k, sights in enumerate(seen) if k != place for other in sights)


# ------------------------------------------------------------------------------------------------------- built-in detectors


def _gray(rgb: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = LOOK_PX / max(gray.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = (max(16, round(gray.shape[1] * scale)), max(16, round(gray.shape[0] * scale)))
    return cv2.equalizeHist(cv2.resize(gray, size, interpolation=method))


def faces(gray: np.ndarray) -> list[Sight]:
    """uint8 (h, w) -> faces from the front that three cascades agree on."""
    boxes, _, weights = _cascade("frontalface_alt2").detectMultiScale3(
        gray, 1.1, 4, minSize=(24, 24), outputRejectLevels=True
    )
    found: list[Sight] = []
    for (x, y, side, _), weight in zip(boxes, np.ravel(weights)):
        if weight >= FACE_SURE and _confirmed(gray, x, y, side):
            box = _shares(x, y, side, side, gray)
            found.append(Sight("face", box, float(weight) >= FACE_CERTAIN, _has_eye(gray[y : y + side, x : x + side])))
    return found


def _confirmed(gray: np.ndarray, x: int, y: int, side: int) -> bool:
    rim = side // 4
    crop = _enlarged(gray[max(0, y - rim) : y + side + rim, max(0, x - rim) : x + side + rim], side)
    least, most = (FACE_PX * 2 // 3,) * 2, (FACE_PX * 3 // 2,) * 2
    return all(
        len(_cascade(name).detectMultiScale(crop, 1.05, 2, minSize=least, maxSize=most))
        for name in ("frontalface_default", "frontalface_alt")
    )


def _has_eye(face: np.ndarray) -> bool:
    upper = _enlarged(face[: int(face.shape[0] * 0.65)], face.shape[1])
    return len(_cascade("eye").detectMultiScale(upper, 1.05, 3, minSize=(15, 15), maxSize=(55, 55))) > 0


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(picture, None, fx=FACE_PX / side, fy=FACE_PX / side, interpolation=cv2.INTER_CUBIC)


def bodies(gray: np.ndarray) -> list[Sight]:
    """uint8 (h, w) -> upright bodies, overlapping ones once."""
    if gray.shape[0] < 128 or gray.shape[1] < 64:
        return []
    boxes, weights = _hog().detectMultiScale(gray, winStride=(8, 8), padding=(16, 16), scale=1.08)
    found: list[Sight] = []
    for (x, y, wide, tall), weight in sorted(zip(boxes, np.ravel(weights)), key=lambda one: -float(one[1])):
        sight = Sight("body", _shares(x, y, wide, tall, gray), float(weight) >= BODY_CERTAIN)
        if weight >= BODY_SURE and not any(overlap(sight.box, other.box) > 0.2 for other in found):
            found.append(sight)
    return found


def _shares(x: int, y: int, wide: int, tall: int, gray: np.ndarray) -> Box:
    height, width = gray.shape
    return max(0.0, x / width), max(0.0, y / height), min(1.0, (x + wide) / width), min(1.0, (y + tall) / height)


def _cascade(name: str) -> cv2.CascadeClassifier:
    """One per thread: a cascade keeps the picture it looks at."""
    return _cascade_of(name, threading.get_ident())


@lru_cache(maxsize=32)
def _cascade_of(name: str, thread: int) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / f"haarcascade_{name}.xml"))


@lru_cache(maxsize=1)
def _hog() -> cv2.HOGDescriptor:
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())  # type: ignore[arg-type]
    return hog


# ------------------------------------------------------------------------------------------------------------------ network


def detected(frames: Sequence[np.ndarray], weights: str) -> Scores:
    """people and largest_person from a detector network; faces stay with the cascades."""
    if not frames:
        return dict.fromkeys(COLUMNS)
    found = [[one.box for one in detect(weights, frame) if one.label == PERSON] for frame in frames]
    return measure(frames) | {
        "people": float(max(len(boxes) for boxes in found)),
        "largest_person": max((_area(box) for boxes in found for box in boxes), default=0.0),
    }


SIGNAL = Signal(COLUMNS, 2, "proxies", from_proxies=from_proxies)
