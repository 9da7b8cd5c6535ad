"""Exposure and texture of the picture: brightness, contrast, clipped shares, colourfulness, noise, blockiness.

Measured on two frames a second; noise and blockiness on the luma as it is stored (shrinking would remove them).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow as pa

from curate.seen import Clip, Record, Seen
from curate.signals.kinds import EverySeconds, Scores, Signal, median

STEP_S = 0.5
WHITE, BLACK = 250, 5  # luma from which on a pixel is burnt out, up to which it is crushed
PATCH_PX = 512  # side of the middle part on which noise and blockiness are measured
BLOCK = 8
IMMERKAER = np.array([1, -2, 1], np.float32)  # along and across
COLUMNS = ("brightness", "contrast", "overexposed", "underexposed", "colourfulness", "noise", "blockiness")


class Watch:
    def __init__(self) -> None:
        self._due = EverySeconds(STEP_S)

    def see(self, seen: Seen) -> Record | None:
        if not self._due.due(seen.time_s):
            return None
        patch = middle(seen.full_luma)
        values = light(seen.small_luma) | {"colourfulness": colourfulness(seen.rgb)}
        return Record(seen.time_s, seen.time_s, values | {"noise": noise(patch), "blockiness": blockiness(patch)})


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    return {name: median([r.values[name] for r in records if r.values.get(name) is not None]) for name in COLUMNS}


def light(luma: np.ndarray) -> dict[str, float]:
    """uint8 (h, w) -> brightness in [0, 1], contrast in [0, 0.5], overexposed and underexposed in [0, 1]."""
    mean, deviation = cv2.meanStdDev(luma)
    counts = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel() / luma.size
    return {
        "brightness": float(mean[0, 0]) / 255,
        "contrast": float(deviation[0, 0]) / 255,
        "overexposed": float(counts[WHITE:].sum()),
        "underexposed": float(counts[: BLACK + 1].sum()),
    }


def colourfulness(rgb: np.ndarray) -> float:
    """uint8 (h, w, 3) -> 0 grey .. > 60 vivid (Hasler and Suesstrunk, Measuring colourfulness, 2003)."""
    red, green, blue = (cv2.extractChannel(rgb, k) for k in range(3))
    across = cv2.subtract(red, green, dtype=cv2.CV_16S)
    along = cv2.addWeighted(cv2.add(red, green, dtype=cv2.CV_16S), 1, blue, -2, 0, dtype=cv2.CV_16S)  # twice
    (x, x_spread), (y, y_spread) = (np.ravel(cv2.meanStdDev(one)) / scale for one, scale in ((across, 1), (along, 2)))
    return float(np.hypot(x_spread, y_spread) + 0.3 * np.hypot(x, y))


def middle(luma: np.ndarray) -> np.ndarray:
    """The central part, at most PATCH_PX a side, starting on the 8 x 8 grid of the codec."""
    height, width = luma.shape
    top, left = max(0, height - PATCH_PX) // 2 // BLOCK * BLOCK, max(0, width - PATCH_PX) // 2 // BLOCK * BLOCK
    return luma[top : top + PATCH_PX, left : left + PATCH_PX]


def noise(luma: np.ndarray) -> float | None:
    """uint8 (h, w) -> standard deviation of noise in grey levels, from the flattest quarter of 16 x 16 tiles.

    The kernel is Immerkaer's (Fast noise variance estimation, 1996): blind to planes and to edges of second order.
    """
    if min(luma.shape) < 16:
        return None
    rows, columns = (side // 16 for side in luma.shape)
    response = cv2.sepFilter2D(luma, cv2.CV_16S, IMMERKAER, IMMERKAER)
    np.abs(response, out=response)  # in place: fresh memory costs more than the sums
    stripes = response[: 16 * rows, : 16 * columns].reshape(rows, 16, -1).sum(axis=1, dtype=np.int32)
    tiles = stripes.reshape(rows, columns, 16).sum(axis=2) / 256
    return float(np.sqrt(np.pi / 2) / 6 * np.quantile(tiles, 0.125))


def blockiness(luma: np.ndarray) -> float | None:
    """uint8 (h, w) on the 8 x 8 grid -> how much steps across block edges exceed steps inside blocks; 0 none."""
    if min(luma.shape) < 4 * BLOCK:
        return None
    return max(0.0, (_edge_excess(luma) + _edge_excess(cv2.transpose(luma))) / 2)


def _edge_excess(luma: np.ndarray) -> float:
    """Mean step between columns 7|8, 15|16, ... relative to the mean of all other steps, minus one."""
    total = cv2.reduce(cv2.absdiff(luma[:, 1:], luma[:, :-1]), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    steps = total.ravel() / len(luma)
    at_edge = np.arange(len(steps)) % BLOCK == BLOCK - 1
    return float(
        steps[at_edge].mean() / (steps[~at_edge].mean() + 0.5) - steps[~at_edge].mean() / (steps[~at_edge].mean() + 0.5)
    )


SIGNAL = Signal({name: pa.float64() for name in COLUMNS}, 4, "pass", Watch, summary)
