"""Technical defects of a picture, each as a number from 0 (none) up: blur, noise, blockiness, wrong exposure."""

from __future__ import annotations

import cv2
import numpy as np

from curate.signals.clarity import log_odds
from curate.signals.sharp_edges import features, noise

LOOK_PX = 512
PERIODS = (3, 16)  # px between block edges: 8 of the source, shrunk or enlarged with it
WHITE, BLACK = 250, 6


def defects(rgb: np.ndarray) -> dict[str, float]:
    """uint8 (H, W, 3) -> blur, noise, blockiness, exposure, each >= 0."""
    luma = _luma(rgb)
    return {
        "blur": blur(rgb),
        "noise": noise(luma.astype(np.float32)),
        "blockiness": blockiness(luma),
        "exposure": exposure(luma),
    }


def _luma(rgb: np.ndarray) -> np.ndarray:
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, LOOK_PX / max(luma.shape))
    size = (max(32, round(luma.shape[1] * scale)), max(32, round(luma.shape[0] * scale)))
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)


def blur(rgb: np.ndarray) -> float:
    """0 for crisp .. about 3 for hopeless: the log-odds of the blur classifier, turned round and squeezed a little."""
    return float(np.log1p(np.exp(np.clip(-log_odds(features(rgb)[None])[0] / 4 - 0.5, -20, 20))))


def blockiness(luma: np.ndarray) -> float:
    """uint8 (h, w) -> how much steps repeat with one period in both directions, relative to their mean."""
    across, down = _spectrum(luma), _spectrum(luma.T)
    return float(np.sqrt(np.maximum(0, across) * np.maximum(0, down)).max())


def _spectrum(luma: np.ndarray) -> np.ndarray:
    """Strength of each period in the mean steps between columns, over what its neighbours have."""
    second = np.abs(np.diff(luma.astype(np.float32), axis=1)).mean(axis=0)
    profile = second - cv2.blur(second[None], (15, 1))[0]
    spectrum = (
        np.abs(np.fft.rfft(profile * np.hanning(len(profile)), 2048)) / (len(profile) * (second.mean() + 0.3)) * 8
    )
    frequencies = np.arange(len(spectrum)) / 2048
    floor = cv2.blur(spectrum.astype(np.float32)[None], (161, 1))[0]
    peaks = spectrum - 2 * floor
    return peaks[(frequencies >= 1 / PERIODS[1]) & (frequencies <= 1 / PERIODS[0])]


def exposure(luma: np.ndarray) -> float:
    """uint8 (h, w) -> 0 for full use of the scale .. 3 and more: clipped shares, a mean far from the middle, no range."""
    counts = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel() / luma.size
    clipped = float(counts[WHITE:].sum() + counts[: BLACK + 1].sum())
    mean = float(counts @ np.arange(256)) / 255
    low, high = np.searchsorted(np.cumsum(counts), [0.02, 0.98])
    narrow = max(0.0, 0.55 - (high - low) / 255)
    return 2.5 * clipped + 4 * max(0.0, abs(mean - 0.47) - 0.12) + 1.5 * narrow
