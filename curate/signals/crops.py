"""Rectangles, and the largest one that leaves out what should not be seen: subtitles, a logo.

Boxes are (left, top, right, bottom) as shares of the width and the height, right and bottom excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Box = tuple[float, float, float, float]
MIN_LEFT = 0.65  # share of the area that has to remain for a crop to be worth it
MIN_SIDE = 0.6  # and of each side
MARGIN = 0.012


def crop_around(boxes: Sequence[Box], margin: float = MARGIN) -> Box | None:
    """Shares to cut at (left, top, right, bottom) so that no box is seen and as much as can be remains; zeros when there
    is no box, None when too little would remain."""
    if not boxes:
        return (0.0, 0.0, 0.0, 0.0)
    wide = np.clip(np.asarray(boxes, float) + np.array([-margin, -margin, margin, margin]), 0, 1)
    free = _largest_free(wide)
    if free is None:
        return None
    left, top, right, bottom = free
    return left, top, 1 - right, 1 - bottom


def _largest_free(boxes: np.ndarray) -> Box | None:
    """The largest rectangle inside the picture that touches no box and is large enough."""
    best, best_area = None, MIN_LEFT - 1e-9
    edges = sorted({0.0, 1.0, *boxes[:, 0], *boxes[:, 2]})
    for left, right in combinations(edges, 2):
        if right - left < MIN_SIDE:
            continue
        inside = boxes[(boxes[:, 0] < right) & (boxes[:, 2] > left)]
        top, bottom = _tallest_gap(inside)
        area = (right - left) * (bottom - top)
        if bottom - top >= MIN_SIDE and area > best_area:
            best, best_area = (float(left), top, float(right), bottom), area
    return best


def _tallest_gap(boxes: np.ndarray) -> tuple[float, float]:
    """Top and bottom of the tallest stretch of rows that no box reaches into."""
    best, reached = (0.0, 0.0), 0.0
    for top, bottom in [*sorted((float(box[1]), float(box[3])) for box in boxes), (1.0, 1.0)]:
        if top - reached > best[1] - best[0]:
            best = (reached, top)
        reached = max(reached, bottom)
    return best


def covered(boxes: Sequence[Box], cells: int = 400) -> float:
    """Share of the picture that lies under at least one box, to about 1 / cells of a side."""
    mask = np.zeros((cells, cells), bool)
    for left, top, right, bottom in boxes:
        mask[round(top * cells) : round(bottom * cells), round(left * cells) : round(right * cells)] = True
    return float(mask.mean())


def overlap(one: Box, other: Box) -> float:
    """Intersection over union in [0, 1]."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    both = wide * tall
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)
