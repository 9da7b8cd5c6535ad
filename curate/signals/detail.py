"""Detail: how much a picture holds, in bits.

The rate of a picture at a fixed distortion (reverse water-filling, Cover and Thomas, Elements of Information Theory, 10.3.3), with
the bands of a pyramid, tile by tile, as its independent parts. It is taken at full size. Of copies of one scene the one that
lost least has most: reduction, blur, coding, clipping and cropping all take bits away, and neither gain nor sharpening nor noise
adds many. A sharp picture that was enlarged does read higher than it was, by a fifth to an octave.
"""

from __future__ import annotations

import cv2
import numpy as np

TILE = 8  # px of a band that share one variance
STRIP, AROUND = 128, 8  # rows that are worked on at once, and those around them that they need
DISTORTION = 0.03  # standard deviation that is not worth a bit, of the picture's contrast: gain adds no detail
LEAST_CONTRAST = 8.0  # grey levels
THUMB_PX = 16  # side of the picture that contrast is taken from: nothing that is lost by reduction is in it
NOISE = 4.0  # variances of its noise that a tile must exceed
ROUNDING = 0.04  # variance below which a tile was painted flat, or clipped: half of what rounding to whole levels gives
# An edge's standard deviation falls by 0.71 from a band to the next finer one, a picture's by 0.6-0.9. What a finer band has more
# was added by sharpening, or is noise.
STEEPEST = 0.8


def detail(luma: np.ndarray) -> float:
    """uint8 (h, w) -> bits of the whole picture, >= 0; 0 for one that has no tile."""
    bands = _variances(luma)
    if not bands:
        return 0.0
    thumb = cv2.resize(luma, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    floor = (DISTORTION * max(float(thumb.std()), LEAST_CONTRAST)) ** 2
    noise, total, coarser = _noise(bands[0]), 0.0, None
    for level in reversed(range(len(bands))):
        band = bands[level]
        if coarser is not None:
            size = (band.shape[1], band.shape[0])
            band = np.minimum(band, STEEPEST**2 * cv2.resize(coarser, size, interpolation=cv2.INTER_LINEAR))
        coarser = band
        over = band / (floor + NOISE * noise / 4**level)  # averaging four px quarters the variance of noise
        total += float(np.log2(np.maximum(1.0, over)).sum())
    return total * 0.5 * 0.75 * TILE**2  # three of four px of a level are not told by the next coarser one


def _variances(picture: np.ndarray) -> list[np.ndarray]:
    """(h, w) -> of every band, finest first, the mean square of each tile: float32 (h / 2^k // TILE, w / 2^k // TILE)."""
    bands = []
    while min(picture.shape) >= 2 * TILE:
        tiles, halves = zip(
            *(_strip(picture, top) for top in range(0, len(picture) // TILE * TILE, STRIP)), strict=True
        )
        bands.append(np.concatenate(tiles))
        picture = np.concatenate(halves)
    return bands


def _strip(picture: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Of STRIP rows from `top`: the band's tiles and the rows at half the size. A strip stays in the processor's cache; the rows
    around it make it what it would be in one piece."""
    above, height, width = min(top, AROUND), *picture.shape
    part = picture[top - above : min(height, top + STRIP + AROUND)]
    part = part[: len(part) // 2 * 2, : width // 2 * 2].astype(np.float32)
    half = cv2.resize(part, (part.shape[1] // 2, len(part) // 2), interpolation=cv2.INTER_AREA)
    band = cv2.subtract(part, cv2.resize(half, part.shape[::-1], interpolation=cv2.INTER_CUBIC))
    rows = min(STRIP, len(part) - above)
    inside = band[above : above + rows // TILE * TILE, : width // TILE * TILE]
    tiles = (inside.shape[1] // TILE, len(inside) // TILE)
    means = cv2.resize(cv2.multiply(inside, inside), tiles, interpolation=cv2.INTER_AREA)
    return means, half[above // 2 : (above + rows) // 2]


def _noise(finest: np.ndarray) -> float:
    """Variance of the noise in the finest band: that of its quietest tiles."""
    alive = finest[finest > ROUNDING]
    return float(np.quantile(alive, 0.1)) if len(alive) else 0.0
