"""Detail: how much a picture holds, in bits.

The rate of a picture at a fixed distortion (reverse water-filling, Cover and Thomas, Elements of Information Theory, 10.3.3), with
the bands of a pyramid, tile by tile, as its independent parts. It is taken at full size. Of copies of one scene the one that
lost least has most: reduction, blur, coding and cropping all take bits away; gain adds none and sharpening little. Noise counts as
detail: in footage it is what coding again takes first, so a copy with less of it is a later one. A sharp picture that was
enlarged reads higher than it was, by up to an octave; one that burns out by a large gain may, too.
"""

from __future__ import annotations

import cv2
import numpy as np

TILE = 8  # px of a band that share one variance
STRIP, AROUND = 128, 8  # rows that are worked on at once, and those around them that they need
DISTORTION = 0.03  # standard deviation that is not worth a bit, of the picture's contrast: gain adds no detail
LEAST_CONTRAST = 8.0  # grey levels
THUMB_PX = 16  # side of the picture that contrast is taken from: nothing that is lost by reduction is in it
ROUNDING = 0.04  # variance below which a tile was painted flat, or clipped: half of what rounding to whole levels gives
# The standard deviation of a band is 0.6 to 0.9 of the next coarser one's, an edge's 0.71; of pictures that were reduced well the two
# finest may be steeper, up to 1.3. The third is 0.58 to 1.07 in 20 real and generated ones: what goes beyond was sharpened, and a
# picture that does is taken to have lost by it. No tile counts for more than the one above it.
STEEPEST = 1.0
SHARPENED_BAND, SHARPENED_POWER = 2, 4.0


def detail(luma: np.ndarray) -> float:
    """uint8 (h, w) -> bits of the whole picture, >= 0; 0 for one that has no tile."""
    bands = _variances(luma)
    if not bands:
        return 0.0
    thumb = cv2.resize(_shrunk(luma), (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
    floor = (DISTORTION * max(float(thumb.std()), LEAST_CONTRAST)) ** 2
    total, coarser = 0.0, None
    for band in reversed(bands):
        if coarser is not None:
            size = (band.shape[1], band.shape[0])
            band = np.minimum(band, STEEPEST**2 * cv2.resize(coarser, size, interpolation=cv2.INTER_LINEAR))
        coarser = band
        total += float(np.log2(np.maximum(1.0, band / floor)).sum())
    bits = total * 0.5 * 0.75 * TILE**2  # three of four px of a level are not told by the next coarser one
    return bits / max(1.0, _steepness(bands) / STEEPEST) ** SHARPENED_POWER


def _shrunk(luma: np.ndarray) -> np.ndarray:
    """Halved as long as it is much larger than the thumb: the rest is quick then."""
    while min(luma.shape) >= 8 * THUMB_PX:
        height, width = luma.shape[0] // 2, luma.shape[1] // 2
        luma = cv2.resize(luma[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return luma


def _steepness(bands: list[np.ndarray]) -> float:
    """Standard deviation of the third band in that of the fourth, noise left out: that is steep without sharpening."""
    if len(bands) < SHARPENED_BAND + 2:
        return 0.0
    noise = _noise(bands[0]) / 4**SHARPENED_BAND  # averaging four px quarters its variance
    fine, coarse = (float(band.mean()) for band in bands[SHARPENED_BAND : SHARPENED_BAND + 2])
    return float(np.sqrt(max(fine - noise, 0.0) / max(coarse - noise / 4, 1e-3)))


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
    return float(np.partition(alive, len(alive) // 10)[len(alive) // 10]) if len(alive) else 0.0
