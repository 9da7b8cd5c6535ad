"""The built-in embedding of a clip: colours, edges and texture of its frames; nothing learned, nothing downloaded.

It knows what a picture looks like, not what it means: it groups sunsets with sunsets and pages with pages, and holds
copies of a clip together (re-encoded, rescaled, brightened, cropped a little). open_clip models know more.

Letters: G cells of the 4x4 grid, K orientations, D width of the vector. Every block is centred on what a picture
without any structure would give, weighted, and the whole is scaled to unit length.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from curate.hashes import active_area

DESCRIPTOR_VERSION = 1  # part of the fingerprint of the table `embeddings`: raise it when any vector changes
SIDE = 64  # px; every frame is brought to SIDE x SIDE, the aspect is not part of the look
COARSE = 24  # px; second scale of the edges
GRID = 4
ORIENTATIONS = 8
HUES = 12

# Weight of each block, found by hand on real photographs: of the settings tried, this one keeps copies (half size, JPEG
# 20, 5 % off each side, a logo, brightness) nearest to 1 (least 0.977) while different pictures stay below 0.86, and
# finds the other corner's crop of a picture most often.
WEIGHTS = {"layout": 0.7, "tone": 0.25, "palette": 1.0, "edges": 0.7, "coarse": 0.6, "texture": 0.8, "change": 0.7}


def describe_clip(frames: list[np.ndarray]) -> np.ndarray:
    """T >= 1 frames, RGB uint8 (H, W, 3) in time order -> float32 (D,), unit length.

    The mean over the frames says what is seen; the mean of the later half less that of the earlier half, with a smaller
    weight, says which way it changes, so that a pan to the left is not a pan to the right.
    """
    if not frames:
        raise ValueError("a clip must have at least one proxy frame to be described, got none")
    looks = np.stack([describe_frame(frame) for frame in frames])
    middle = len(frames) / 2
    later, earlier = looks[int(np.ceil(middle)) :], looks[: int(np.floor(middle))]
    change = (later.mean(0) - earlier.mean(0)) / 2 if len(earlier) else np.zeros_like(looks[0])
    return _unit(np.concatenate([looks.mean(0), WEIGHTS["change"] * change])).astype(np.float32)


def describe_frame(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> float64 (D/2,), about unit length. Raises ValueError for another shape or type."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"a frame must be RGB uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    inside = active_area(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    small = _resized(rgb[inside].astype(np.float32) / 255.0, SIDE)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2Lab)
    luma = lab[..., 0] / 100.0
    blocks = {
        "layout": _layout(lab),
        "tone": np.array([luma.mean() - 0.5, luma.std() - 0.2]) * 2,
        "palette": _palette(lab),
        "edges": _edges(luma),
        "coarse": _edges(_resized(luma, COARSE)),
        "texture": _texture(luma),
    }
    return _unit(np.concatenate([WEIGHTS[name] * block for name, block in blocks.items()]))


def _layout(lab: np.ndarray) -> np.ndarray:
    """Lab (S, S, 3) -> (3G,): colour of each grid cell; lightness without its mean and gain, so brightness cancels."""
    cells = np.einsum("gij,ijc->gc", _windows(SIDE), lab.astype(np.float64))
    lightness = cells[:, 0] - cells[:, 0].mean()
    lightness /= max(float(lab[..., 0].std()), 4.0)
    return np.concatenate([lightness, cells[:, 1] / 25.0, cells[:, 2] / 25.0]) / GRID


def _palette(lab: np.ndarray) -> np.ndarray:
    """Lab (S, S, 3) -> (HUES + 1,): square roots of the shares of each hue, weighted by chroma, and of grey."""
    a, b = lab[..., 1].astype(np.float64), lab[..., 2].astype(np.float64)
    chroma = np.minimum(np.hypot(a, b) / 40.0, 1.0)
    position = np.mod(np.arctan2(b, a) / (2 * np.pi), 1.0) * HUES
    histogram = np.append(_soft_histogram(position, chroma, HUES), np.sum(1.0 - chroma))
    return _root_share(histogram)


def _edges(luma: np.ndarray) -> np.ndarray:
    """Luma (S, S) -> (G * K,): square roots of the share of gradient in each cell and orientation."""
    dx = cv2.Scharr(luma, cv2.CV_32F, 1, 0, scale=1 / 32).astype(np.float64)
    dy = cv2.Scharr(luma, cv2.CV_32F, 0, 1, scale=1 / 32).astype(np.float64)
    strength = np.hypot(dx, dy)
    position = np.mod(np.arctan2(dy, dx) / np.pi, 1.0) * ORIENTATIONS
    planes = _soft_planes(position, strength, ORIENTATIONS)
    histogram = np.einsum("gij,kij->gk", _windows(luma.shape[0]), planes)
    # A little of every orientation: a flat picture has no direction, and noise must not invent one.
    return _root_share((histogram + 0.002).ravel())


def _texture(luma: np.ndarray) -> np.ndarray:
    """Luma (S, S) -> (3 * 4,): share of energy in three octaves of detail, per quarter of the frame."""
    octaves, current = [], luma
    for sigma in (1.0, 2.0, 4.0):
        smoother = cv2.GaussianBlur(luma, (0, 0), sigma)
        octaves.append(cv2.resize(np.abs(current - smoother), (2, 2), interpolation=cv2.INTER_AREA).ravel())
        current = smoother
    return _root_share(np.concatenate(octaves).astype(np.float64) + 0.002)


def _soft_planes(position: np.ndarray, weight: np.ndarray, bins: int) -> np.ndarray:
    """Positions in [0, bins), cyclic, (H, W) -> (bins, H, W): weight shared linearly between the two nearest bins."""
    low = np.floor(position).astype(int) % bins
    part = position - np.floor(position)
    every = np.arange(bins)[:, None, None]
    return weight * ((low == every) * (1 - part) + ((low + 1) % bins == every) * part)


def _soft_histogram(position: np.ndarray, weight: np.ndarray, bins: int) -> np.ndarray:
    return _soft_planes(position, weight, bins).sum(axis=(1, 2))


def _root_share(histogram: np.ndarray) -> np.ndarray:
    """Counts (n,) -> square roots of their shares, less that of equal shares (Hellinger distance, centred)."""
    total = histogram.sum()
    return np.sqrt(histogram / total) - np.sqrt(1.0 / histogram.size) if total > 0 else np.zeros(histogram.size)


@lru_cache(maxsize=4)
def _windows(side: int) -> np.ndarray:
    """float64 (G, side, side): Gaussian windows around the cells of the grid, each with sum 1.

    Soft and wide (sigma = 0.6 cells): what a light crop moves over a cell's edge changes two cells a little.
    """
    centres = (np.arange(GRID) + 0.5) / GRID
    places = (np.arange(side) + 0.5) / side
    lines = np.exp(-0.5 * ((places[None, :] - centres[:, None]) * GRID / 0.6) ** 2)
    lines /= lines.sum(axis=1, keepdims=True)
    return np.einsum("yi,xj->yxij", lines, lines).reshape(GRID * GRID, side, side)


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    """float32 (H, W[, 3]) -> float32 (side, side[, 3]), averaged where it shrinks."""
    shrinks = min(picture.shape[:2]) >= side
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
