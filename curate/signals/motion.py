"""Motion: dense optical flow (DIS, Kroeger et al. 2016) on small luma, at most five pairs of frames a second.

Pairs lie about a tenth of a second apart: far enough for slow motion to stand above the noise of the estimate, near
enough for fast motion to be found. Dense flow smears the motion of a thing over the flat ground around it; so a second,
simpler explanation, the motion of the whole picture, is tried at every pixel and taken wherever it fits as well.
Borders stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.signals.borders import bars
from curate.signals.flow import FlowPairs
from curate.signals.kinds import Clip, Record, Scores, Seen, Signal, mean

REST_S = 0.1  # five pairs a second say as much of a clip as ten, at half the cost
DEAD_WIDTHS = 0.0005  # flow below this share of the width (0.12 px) is noise of the estimate and counts as none
MOVING = 0.01  # frame widths per second from which on a pixel moves
STILL = 0.15  # mean grey levels between neighbours below which a frame repeats the one before
GRID_PX = 4  # of the halved picture: step of the points that the whole picture's motion is fitted to
ROBUST_PX = 0.25  # residue at which such a point counts half
FITS = 4  # rounds of reweighting, from the median on
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
        self._pairs = FlowPairs(REST_S)
        self._before: tuple[float, np.ndarray] | None = None

    def see(self, seen: Seen) -> Record | None:
        luma, now = seen.small_luma, seen.time_s
        before, self._before = self._before, (now, luma)
        found = self._pairs.see(seen)
        if before is None or before[1].shape != luma.shape:
            return None
        still = float(cv2.norm(luma, before[1], cv2.NORM_L1)) / luma.size < STILL
        pair, since = None, now
        if found is not None:
            pair = measure(explained(found.before, luma, found.flow), found.elapsed_s)
            since = found.since_s
        return Record(now, before[0], Step(seen.content / 255, still, pair, since))


def explained(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """uint8 (h, w) twice, their dense flow (h, w, 2) -> flow (h/2, w/2, 2) in px of the halved picture.

    It is the whole picture's motion where that fits as well, and none in the borders.
    """
    left, top, right, bottom = ((px + 1) // 2 for px in bars(before) or (0, 0, 0, 0))
    flow, before, after = _halved(flow) / 2, _halved(before), _halved(after)
    whole = whole_motion(flow, before)
    worse = cv2.subtract(_misfit(before, after, whole), _misfit(before, after, flow)) > SLACK
    best = np.where(worse[..., None], flow, whole)
    height, width = before.shape
    best[:top], best[height - bottom :], best[:, :left], best[:, width - right :] = 0, 0, 0, 0
    return best


def _halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)


def whole_motion(flow: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Flow (h, w, 2) -> the affine flow (h, w, 2) that most of the picture's texture follows, by reweighted squares."""
    design, there = _design(*luma.shape), flow[GRID_PX // 2 :: GRID_PX, GRID_PX // 2 :: GRID_PX].reshape(-1, 2)
    across, along = cv2.Sobel(luma, cv2.CV_16S, 1, 0), cv2.Sobel(luma, cv2.CV_16S, 0, 1)
    texture = cv2.blur(cv2.add(np.abs(across), np.abs(along)).astype(np.float32), (5, 5))
    base = np.minimum(texture[GRID_PX // 2 :: GRID_PX, GRID_PX // 2 :: GRID_PX].reshape(-1), 30.0) + 0.1
    fitted = np.array([np.median(there, axis=0), (0, 0), (0, 0)], np.float32)
    ridge = 1e-3 * np.eye(3)
    for _ in range(FITS):
        off = there - design @ fitted
        weight = (base / (1 + (off[:, 0] ** 2 + off[:, 1] ** 2) / ROBUST_PX**2))[:, None] * design
        fitted = np.linalg.solve(weight.T @ design + ridge, weight.T @ there).astype(np.float32)
    x, y = _centred(*luma.shape)
    return fitted[0] + fitted[1] * x[None, :, None] + fitted[2] * y[:, None, None]


@lru_cache(maxsize=8)
def _centred(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (w,) and y (h,) of a picture's px, in widths from its middle."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return x / width - 0.5, y / width - 0.5 * height / width


@lru_cache(maxsize=8)
def _design(height: int, width: int) -> np.ndarray:
    """float32 (n, 3): 1, x, y at every GRID_PX-th px."""
    x, y = (one[GRID_PX // 2 :: GRID_PX] for one in _centred(height, width))
    xs, ys = np.meshgrid(x, y)
    return np.stack([np.ones_like(xs), xs, ys], axis=-1).reshape(-1, 3)


@lru_cache(maxsize=8)
def _places(height: int, width: int) -> np.ndarray:
    """float32 (h, w, 2): x, y of every px."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _misfit(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean absolute difference, over 3 x 3 px, of the first picture and the second one moved back along a flow."""
    moved = cv2.remap(after, _places(*before.shape) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return cv2.blur(cv2.absdiff(before, moved), (3, 3))


def measure(flow: np.ndarray, elapsed_s: float) -> Pair:
    """Flow (h, w, 2) in px of the small picture over elapsed_s -> Pair."""
    width = flow.shape[1]
    dx, dy = np.ascontiguousarray(flow[..., 0]), np.ascontiguousarray(flow[..., 1])
    size = cv2.magnitude(dx, dy)
    moving = (size >= DEAD_WIDTHS * width).astype(np.float32)
    rate = 1 / (width * elapsed_s)
    share = rate / size.size
    return Pair(
        float(np.vdot(size, moving)) * share,
        float(cv2.countNonZero((size * rate >= MOVING).view(np.uint8))) / size.size,
        float(np.vdot(dx, moving)) * share,
        float(np.vdot(dy, moving)) * share,
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


SIGNAL = Signal({name: pa.float64() for name in COLUMNS}, 4, "pass", Watch, summary)
