"""How sharp a picture is, in numbers that don't depend on what it shows: steepness of its edges, detail against its scale.

Blur takes the fine bands of a picture away and leaves the coarse ones, so ratios of neighbouring bands tell it, and no absolute
contrast does. They are taken tile by tile: a blurred background behind a sharp face is a choice, not a fault.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

LOOK_PX = 512  # long side; smaller pictures are taken as they are: to enlarge is to blur
TILE = 32
FLAT = 3.0  # standard deviation of the coarse bands, in grey levels, below which a tile has nothing to be sharp
NAMES = (
    "fine_top", "fine_mid", "middle_top", "middle_mid", "coarse_top", "coarse_mid",
    "steep_top", "steep_mid", "reblur_x", "reblur_y", "tails", "noise", "flat",
)  # fmt: skip


def features(rgb: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float64 (len(NAMES),)."""
    luma = _luma(rgb)
    bands = [_tiles_std(band) for band in _bands(luma)]
    busy = bands[2] + bands[3] >= FLAT
    if not busy.any():
        busy = np.ones_like(busy)
    values = []
    for fine, coarse in pairwise(bands):
        ratio = np.log((fine[busy] + 0.3) / (coarse[busy] + 0.3))
        values += [np.quantile(ratio, 0.9), np.median(ratio)]
    steep = _steepness(luma)[busy]
    values += [np.quantile(steep, 0.9), np.median(steep), *_reblur(luma), _tails(luma), np.log(noise(luma) + 0.2)]
    return np.array([*values, 1 - busy.mean()], float)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """float32 (h, w), long side LOOK_PX or less, at least one tile each way."""
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, LOOK_PX / max(luma.shape))
    size = (max(TILE, round(luma.shape[1] * scale)), max(TILE, round(luma.shape[0] * scale)))
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _bands(luma: np.ndarray) -> list[np.ndarray]:
    """Differences of Gaussians, finest first: four bands of an octave each, all at full size."""
    blurred = [luma, *(cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (0.7, 1.4, 2.8, 5.6))]
    return [one - two for one, two in pairwise(blurred)]


def _tiles(picture: np.ndarray) -> np.ndarray:
    """(h, w) -> (n, TILE * TILE); what does not fill a tile is left out."""
    rows, columns = picture.shape[0] // TILE, picture.shape[1] // TILE
    cut = picture[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    return cut.swapaxes(1, 2).reshape(rows * columns, -1)


def _tiles_std(picture: np.ndarray) -> np.ndarray:
    return _tiles(picture).std(axis=1)


def _steepness(luma: np.ndarray) -> np.ndarray:
    """(tiles,): steepest step between neighbours over the range of the tile; 1 is an edge of one px."""
    step = np.maximum(
        np.abs(cv2.filter2D(luma, -1, np.array([[-1.0, 1.0]]))),
        np.abs(cv2.filter2D(luma, -1, np.array([[-1.0], [1.0]]))),
    )
    tiles = _tiles(luma)
    reach = np.quantile(tiles, 0.98, axis=1) - np.quantile(tiles, 0.02, axis=1)
    return np.log((np.quantile(_tiles(step), 0.98, axis=1) + 0.5) / (reach + 2.0))


def _reblur(luma: np.ndarray) -> tuple[float, float]:
    """How much of the steps a further blur leaves, across and down: little of sharp ones (Crete et al., The blur effect, 2007)."""
    found = []
    for axis, size in ((1, (9, 1)), (0, (1, 9))):
        before = np.abs(np.diff(luma, axis=axis))
        after = np.abs(np.diff(cv2.blur(luma, size), axis=axis))
        found.append(float(np.maximum(0, before - after).sum() / (before.sum() + 1.0)))
    return found[0], found[1]


def _tails(luma: np.ndarray) -> float:
    """Log kurtosis of the steps: sharp pictures have few and large ones."""
    step = np.diff(luma, axis=1)
    square = float((step**2).mean()) + 0.1
    return float(np.log((step**4).mean() / square**2 + 0.1))


def noise(luma: np.ndarray) -> float:
    """float32 (h, w) -> standard deviation of the noise in grey levels, from the flattest tiles (Immerkaer, 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))
    return float(np.sqrt(np.pi / 2) / 6 * np.quantile(_tiles(response).mean(axis=1), 0.1))
