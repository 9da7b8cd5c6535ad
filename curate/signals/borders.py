"""Borders: uniform bars along the edges that stay for the whole clip (letterbox, pillars, padding of any colour).

A line of px is border when it hardly varies along itself and hardly differs from the outermost line, in every frame
that was looked at (two a second); so a dark scene has none as long as something lights up. Measured at
full size, exact to 2 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.crop import columns_of
from curate.seen import Clip, Record, Seen
from curate.signals.kinds import EverySeconds, Scores, Signal

STEP_S = 0.5
FLAT = 4.0  # standard deviation along a border line, in grey levels: coding noise of a flat area
ALIKE = 5.0  # difference of a border line's mean to the outermost line's
STEP = 6.0  # grey levels by which the picture differs from the last line of its border ...
STEP_SHARE = 0.3  # ... in this share of the third line behind it; a vignette or a clear sky has no such edge
MAX_SIDE = 0.45  # of the side; a frame that is flat beyond that has no picture to find borders by
PIECE = 8  # lines that are looked at first, at least; then twice as many
CROP = columns_of("borders")
COLUMNS = {name: pa.float64() for name in ("borders", *CROP)}


class Bar(NamedTuple):
    """Along one side: lines of border, and whether an edge stands behind them."""

    lines: int
    edge: bool


class Watch:
    def __init__(self) -> None:
        self._due = EverySeconds(STEP_S)

    def see(self, seen: Seen) -> Record | None:
        if not self._due.due(seen.time_s):
            return None
        luma = seen.full_luma
        sides = sides_of(luma)
        if sides is None:
            return None
        scale = (seen.frame.width / luma.shape[1], seen.frame.height / luma.shape[0])
        found = [Bar(round(bar.lines * scale[k % 2]), bar.edge) for k, bar in enumerate(sides)]
        return Record(seen.time_s, seen.time_s, found)


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """borders_crop_*: shares of the sides, the smallest bar of all frames; borders: share of the area they cover."""
    if not records:
        return dict.fromkeys(COLUMNS, None)
    left, top, right, bottom = (_lasting([record.values[side] for record in records]) for side in range(4))
    inner = max(0, clip.width - left - right) * max(0, clip.height - top - bottom)
    shares = (left / clip.width, top / clip.height, right / clip.width, bottom / clip.height)
    scores: Scores = {"borders": 1 - inner / (clip.width * clip.height)}
    scores.update(zip(CROP, shares, strict=True))
    return scores


def _lasting(bars_in_time: Sequence[Bar]) -> int:
    """The lines that are border in every frame, if in one of them at least an edge stands right behind."""
    lines = min(bar.lines for bar in bars_in_time)
    return lines if any(bar.edge and bar.lines - lines <= 2 for bar in bars_in_time) else 0


def bars(luma: np.ndarray) -> tuple[int, int, int, int] | None:
    """uint8 (h, w) -> px of border with an edge (left, top, right, bottom); None for an all flat picture."""
    sides = sides_of(luma)
    if sides is None:
        return None
    left, top, right, bottom = (bar.lines if bar.edge else 0 for bar in sides)
    return left, top, right, bottom


def sides_of(luma: np.ndarray) -> tuple[Bar, Bar, Bar, Bar] | None:
    """uint8 (h, w) -> bars at left, top, right, bottom; None for a picture that is flat all over."""
    top, bottom = _bar(luma), _bar(luma[::-1])
    if top is None or bottom is None:
        return None
    inner = luma[top.lines : luma.shape[0] - bottom.lines]
    left, right = _bar(inner.T), _bar(inner.T[::-1])
    if left is None or right is None:
        return None
    return left, top, right, bottom


def _bar(lines: np.ndarray) -> Bar | None:
    """Leading rows of (n, m) that are border; None when there is no end to them within MAX_SIDE."""
    limit = max(1, int(len(lines) * MAX_SIDE))
    if not _is_flat(lines[0]):
        return Bar(0, False)
    count, first, piece = 0, None, max(PIECE, limit // 4)
    while count <= limit:  # in growing pieces: as a rule a bar is thin
        reach = np.ascontiguousarray(lines[count : min(limit + 1, count + piece)])
        means = cv2.reduce(reach, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        squares = cv2.reduce(reach.astype(np.float32) ** 2, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        first = means[0] if first is None else first
        flat = np.sqrt(np.maximum(squares - means**2, 0)) <= FLAT
        border = flat & (np.abs(means - first) <= ALIKE)
        if not border.all():
            return _ending(lines, count + int(np.argmin(border)), limit)
        count, piece = count + len(reach), 2 * piece
    return None


def _is_flat(line: np.ndarray) -> bool:
    """Whether the standard deviation of uint8 (m,) is at most FLAT, in whole numbers: NumPy's is dear for a line."""
    wide = line.astype(np.int64)
    total, count = int(wide.sum()), len(line)
    return bool(count * int(wide @ wide) - total * total <= (FLAT * count) ** 2)


def _ending(lines: np.ndarray, count: int, limit: int) -> Bar:
    """A border of so many lines, and whether an edge stands behind it."""
    if not count:
        return Bar(0, False)
    inner, outer = (np.ascontiguousarray(lines[at]) for at in (min(count + 2, limit), max(0, count - 2)))
    return Bar(count, bool((cv2.absdiff(inner, outer) > STEP).mean() >= STEP_SHARE))


SIGNAL = Signal(COLUMNS, 3, "pass", Watch, summary)
