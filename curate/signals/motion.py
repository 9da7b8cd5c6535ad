"""Motion: dense optical flow (DIS, Kroeger et al. 2016) on small luma, at most ten pairs of frames a second.

Pairs lie about a tenth of a second apart: far enough for slow motion to stand above the noise of the estimate, near
enough for fast motion to be found. Dense flow smears the motion of a thing over the flat ground around it; so a second,
simpler explanation, the motion of the whole picture, is tried at every pixel and taken wherever it fits as well.
Borders stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.signals.borders import bars
from curate.signals.kinds import Clip, Record, Scores, Seen, Signal, mean

PAIR_S = 0.1
MAX_PAIR_S = 1.0  # frames further apart (slideshows, time lapse) are not compared by flow
DEAD_WIDTHS = 0.0005  # flow below this share of the width (0.12 px) is noise of the estimate and counts as none
MOVING = 0.01  # frame widths per second from which on a pixel moves
STILL = 0.15  # mean grey levels between neighbours below which a frame repeats the one before
GRID_PX = 4  # of the halved picture: step of the points that the whole picture's motion is fitted to
ROBUST_PX = 0.25  # residue at which such a point counts half
SLACK = 1.0  # grey levels by which the simpler explanation may fit worse and still be taken
COLUMNS = ("motion", "motion_px_s", "moving_area", "jitter", "jumps", "still_frames")


class Pair(NamedTuple):
    """speed: mean in frame widths per second; area: share of px that move; dx, dy: mean velocity in the same unit."""

    speed: float
    area: float
    dx: float
    dy: float


class Step(NamedTuple):
    """Between a frame and the one before. jump: mean HSV change in [0, 1]; still: whether it repeats; pair: or None."""

    jump: float
    still: bool
    pair: Pair | None
    pair_since_s: float


class Watch:
    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: tuple[float, np.ndarray] | None = None
        self._reference: tuple[float, np.ndarray] | None = None

    def see(self, seen: Seen) -> Record | None:
        luma, now = seen.small_luma, seen.time_s
        before, self._before = self._before, (now, luma)
        if before is None or before[1].shape != luma.shape:
            self._reference = self._before
            return None
        still = float(cv2.norm(luma, before[1], cv2.NORM_L1)) / luma.size < STILL
        pair, since = self._pair(luma, now)
        return Record(now, before[0], Step(seen.content / 255, still, pair, since))

    def _pair(self, luma: np.ndarray, now: float) -> tuple[Pair | None, float]:
        assert self._reference is not None
        since, reference = self._reference
        if now - since < PAIR_S - 1e-6:
            return None, now
        self._reference = (now, luma)
        if now - since > MAX_PAIR_S or min(luma.shape) < 16:
            return None, now
        flow = self._flow.calc(reference, luma, None)  # type: ignore[call-overload]
        return measure(explained(reference, luma, flow), now - since), since


def explained(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """uint8 (h, w) twice, their dense flow (h, w, 2) -> flow (h/2, w/2, 2) in px of the halved picture.

    It is the whole picture's motion where that fits as well, and none in the borders.
    """
    sides = bars(before) or (0, 0, 0, 0)
    flow, before, after = _halved(flow) / 2, _halved(before), _halved(after)
    whole = whole_motion(flow, before)
    worse = _misfit(before, after, whole) > _misfit(before, after, flow) + SLACK
    best = np.where(worse[..., None], flow, whole)
    left, top, right, bottom = ((px + 1) // 2 for px in sides)
    height, width = before.shape
    inside = np.zeros((height, width, 1), np.float32)
    inside[top : height - bottom, left : width - right] = 1
    return best * inside


def _halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)


def whole_motion(flow: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Flow (h, w, 2) -> the affine flow (h, w, 2) that most of the picture's texture follows, by reweighted squares."""
    height, width = luma.shape
    half = GRID_PX // 2
    y, x = np.mgrid[half:height:GRID_PX, half:width:GRID_PX].astype(np.float32)
    design = np.stack([np.ones_like(x), x / width - 0.5, y / width - 0.5 * height / width], axis=-1).reshape(-1, 3)
    there = flow[half::GRID_PX, half::GRID_PX].reshape(-1, 2)
    texture = cv2.blur(np.abs(cv2.Sobel(luma, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(luma, cv2.CV_32F, 0, 1)), (5, 5))
    base = np.minimum(texture[half::GRID_PX, half::GRID_PX].reshape(-1), 30.0) + 0.1
    fitted = np.array([np.median(there, axis=0), (0, 0), (0, 0)], np.float32)
    for _ in range(6):
        residue = np.linalg.norm(there - design @ fitted, axis=1)
        weight = (base / (1 + (residue / ROBUST_PX) ** 2))[:, None]
        fitted = np.linalg.solve(design.T @ (weight * design) + 1e-3 * np.eye(3), design.T @ (weight * there))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    every = np.stack([np.ones_like(x), x / width - 0.5, y / width - 0.5 * height / width], axis=-1)
    return (every @ fitted.astype(np.float32)).astype(np.float32)


def _misfit(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean absolute difference, over 3 x 3 px, of the first picture and the second one moved back along a flow."""
    height, width = before.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    moved = cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.blur(cv2.absdiff(before, moved), (3, 3)).astype(np.float32)


def measure(flow: np.ndarray, elapsed_s: float) -> Pair:
    """Flow (h, w, 2) in px of the small picture over elapsed_s -> Pair."""
    width = flow.shape[1]
    size = np.hypot(flow[..., 0], flow[..., 1])
    moving = size >= DEAD_WIDTHS * width
    rate = 1 / (width * elapsed_s)
    return Pair(
        float(size[moving].sum() / size.size) * rate,
        float((size * rate >= MOVING).mean()),
        float(flow[..., 0][moving].sum() / size.size) * rate,
        float(flow[..., 1][moving].sum() / size.size) * rate,
    )


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """motion: % of the frame width per second; motion_px_s: px of the upright source per second; an image has none."""
    steps = [record.values for record in records]
    pairs = [s.pair for s in steps if s.pair is not None and s.pair_since_s >= clip.start_s - 1e-6]
    speed = mean([pair.speed for pair in pairs])
    return {
        "motion": None if speed is None else 100 * speed,
        "motion_px_s": None if speed is None else clip.width * speed,
        "moving_area": mean([pair.area for pair in pairs]),
        "jitter": jitter(pairs),
        "jumps": max((step.jump for step in steps), default=None),
        "still_frames": mean([float(step.still) for step in steps]),
    }


def jitter(pairs: Sequence[Pair]) -> float | None:
    """Share of the motion that changes between neighbouring pairs: 0 steady .. 1 reversed every time."""
    if len(pairs) < 2:
        return None
    velocity = np.array([(pair.dx, pair.dy) for pair in pairs])
    changed = np.linalg.norm(np.diff(velocity, axis=0), axis=1).sum()
    total = np.linalg.norm(velocity[1:], axis=1).sum() + np.linalg.norm(velocity[:-1], axis=1).sum()
    return float(changed / total) if total > 1e-9 else 0.0


SIGNAL = Signal({name: pa.float64() for name in COLUMNS}, 1, "pass", Watch, summary)
