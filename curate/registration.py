"""Two clips as pictures: is one a crop, a rescaled or a marked copy of the other?

One crop explains all frames of a copy, so a single window is sought for all pairs of frames together: a zoom, a pan or
another camera on the same place would need a different window for each. Then the pictures are compared block by block
inside that window: a logo or a subtitle changes the same few blocks all the time, another take changes others.

Pictures here are luma, uint8 (N, N), with bars cut off and their aspect given up (`canvas`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from curate.hashes import active_area

SIDE = 64  # px of a canvas
CORE = 0.7  # share of the copy's side that is looked for in the other picture: what any light crop keeps
SCALES = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.11, 1.18, 1.25)  # width or height of the copy in that of the other
PLAIN = 0.985  # correlation of the pictures as they are from which no window is sought
SKEW = 0.16  # a light crop may be all from one side
REFINED = 0.025  # half a step of SCALES
SEARCHED = 3  # pairs of frames that the window is sought with
BLOCK = 8  # px
MIN_CONTRAST = 3.0  # grey levels; a block flatter than this in both pictures says nothing
SAME_BLOCK = 0.6  # correlation from which two blocks show the same
LASTING = 0.6  # share of the frames from which a difference is part of the copy and not of the take
FLAT_ERROR = 7.0  # grey levels of difference (root mean square) that coding alone may make


class Registration(NamedTuple):
    """correlation: mean over the frames, -1..1, of what is not covered; changed: share of telling blocks that differ in
    some frames but not in most; covered: share that differs in most frames (a logo, a subtitle)."""

    correlation: float
    changed: float
    covered: float


def canvas(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> luma uint8 (SIDE, SIDE), bars cut off; softened, as places are known to half a pixel."""
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    inside = luma[active_area(luma)]
    shrinks = min(inside.shape) >= SIDE
    small = cv2.resize(inside, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return cv2.GaussianBlur(small, (0, 0), 1.0)


def register(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Registration:
    """T >= 1 pairs of canvases shown at the same time, T as a sequence of uint8 (SIDE, SIDE) each."""
    chosen = np.unique(np.linspace(0, len(a) - 1, min(SEARCHED, len(a))).astype(int))
    window = _window([a[i] for i in chosen], [b[i] for i in chosen])
    return _judged([_overlapping(x, y, window) for x, y in zip(a, b, strict=True)])


class _Window(NamedTuple):
    """Pixel (x, y) of the copy lies at (width * x + left, height * y + top) of the other picture."""

    width: float
    height: float
    left: float
    top: float


def _window(a: list[np.ndarray], b: list[np.ndarray]) -> _Window:
    """The window under which the cores of all b lie best in all a: sought at half size, then refined around there."""
    plain = _best_place(a, b, 1.0, 1.0)
    if plain[0] >= PLAIN:
        return _Window(1.0, 1.0, *plain[1:])
    coarse = [[cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for x in xs] for xs in (a, b)]
    shapes = [(w, h) for w in SCALES for h in SCALES if abs(w - h) <= SKEW]
    scores = {shape: _best_place(coarse[0][:2], coarse[1][:2], *shape)[0] for shape in shapes}
    width, height = max(scores, key=lambda wh: (scores[wh], -abs(wh[0] - 1) - abs(wh[1] - 1)))
    best, window = plain[0], _Window(1.0, 1.0, *plain[1:])
    for w in (width - REFINED, width, width + REFINED):
        for h in (height - REFINED, height, height + REFINED):
            score, left, top = _best_place(a, b, w, h)
            # A margin in favour of the plain picture: coding noise must not turn a copy into a crop.
            if score > best + 1e-3:
                best, window = score, _Window(w, h, left, top)
    return window


def _best_place(a: list[np.ndarray], b: list[np.ndarray], width: float, height: float) -> tuple[float, float, float]:
    """Canvases uint8 (N, N) -> (mean correlation, left, top) of the best place at this scale, in their pixels."""
    side = a[0].shape[0]
    edge = round(side * (1 - CORE) / 2)
    size = (round((side - 2 * edge) * width), round((side - 2 * edge) * height))
    total = np.zeros((side - size[1] + 1, side - size[0] + 1), np.float32)
    for x, y in zip(a, b, strict=True):
        core = cv2.resize(y[edge : side - edge, edge : side - edge], size, interpolation=cv2.INTER_LINEAR)
        total += cv2.matchTemplate(x, core, cv2.TM_CCOEFF_NORMED)
    total[~np.isfinite(total)] = 0.0
    total /= len(a)
    top, left = np.unravel_index(int(total.argmax()), total.shape)
    return float(total[top, left]), float(left - edge * width), float(top - edge * height)


def _overlapping(a: np.ndarray, b: np.ndarray, window: _Window) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures, float32, on the pixels of `a` that the copy covers."""
    moved = np.array([[window.width, 0, window.left], [0, window.height, window.top]], np.float32)
    placed = cv2.warpAffine(b, moved, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    left, top = max(0, int(np.ceil(window.left))), max(0, int(np.ceil(window.top)))
    right = min(SIDE, int(np.floor(window.left + window.width * (SIDE - 1))) + 1)
    bottom = min(SIDE, int(np.floor(window.top + window.height * (SIDE - 1))) + 1)
    area = (slice(top, bottom), slice(left, right))
    return a[area].astype(np.float32), placed[area].astype(np.float32)


def _judged(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Registration:
    """Pairs of pictures of one shape -> the verdict on their blocks."""
    blocks = [(_blocks(x), _blocks(_in_light_of(x, y))) for x, y in pairs]
    telling = np.array([np.maximum(x.std(1), y.std(1)) >= MIN_CONTRAST for x, y in blocks])
    if not telling.any():
        return Registration(0.0, 1.0, 0.0)  # nothing to compare by: not shown to be a copy
    differs = np.array([_differ(x, y) for x, y in blocks]) & telling
    lasting = differs.sum(0) > LASTING * np.maximum(telling.sum(0), 1)
    rest = telling & ~lasting
    if not rest.any():
        return Registration(0.0, 0.0, 1.0)
    correlation = np.mean([_correlation(x[~lasting], y[~lasting]) for x, y in blocks])
    return Registration(
        float(correlation), float(differs[rest].mean()), float((telling & lasting).sum() / telling.sum())
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def _in_light_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """b brought to the brightness and contrast of a."""
    gain = float(a.std()) / max(float(b.std()), 1e-3)
    return (b - b.mean()) * gain + a.mean()


def _blocks(picture: np.ndarray) -> np.ndarray:
    """float32 (h, w) -> (blocks, BLOCK * BLOCK); what is left of a block at the right and below is not looked at."""
    rows, columns = picture.shape[0] // BLOCK, picture.shape[1] // BLOCK
    cut = picture[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.transpose(0, 2, 1, 3).reshape(rows * columns, -1)


def _differ(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Blocks (n, pixels) of two pictures -> bool (n,)."""
    error = np.sqrt(((x - y) ** 2).mean(1))
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    correlation = (dx * dy).mean(1) / np.maximum(np.sqrt((dx * dx).mean(1) * (dy * dy).mean(1)), 1e-6)
    return (error > FLAT_ERROR) & (correlation < SAME_BLOCK)
