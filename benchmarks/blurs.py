"""Faults put into good pictures: what clarity is fitted on and what clarity and quality are judged by.

Pictures are uint8 (H, W, 3). A fault is a function (picture, level in 1..5, rng) -> picture; higher levels are worse.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator
Fault = Callable[[np.ndarray, int, Rng], np.ndarray]


def gaussian(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 0.6 + 0.8 * level)


def defocus(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    radius = 1 + 1.4 * level
    y, x = np.mgrid[-12:13, -12:13]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def shaken(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    """Smeared along a line of 4 to 24 px in any direction."""
    length, angle = 4 * level + 2, rng.uniform(0, np.pi)
    kernel = np.zeros((41, 41), np.float32)
    way = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    start, end = (tuple(int(v) for v in np.round((20 + sign * way) * 16)) for sign in (-1, 1))
    cv2.line(kernel, start, end, (1.0,), 1, cv2.LINE_AA, 4)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def enlarged(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    """Shrunk and brought back to its size."""
    height, width = picture.shape[:2]
    factor = 1.5 + 0.8 * level
    small = cv2.resize(
        picture, (max(8, int(width / factor)), max(8, int(height / factor))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def noisy(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    return np.clip(picture + rng.normal(0, 6.0 * level, picture.shape), 0, 255).astype(np.uint8)


def blocky(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    """JPEG of ever lower quality."""
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, (40, 24, 14, 8, 4)[level - 1]])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def burnt(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    return np.clip(picture.astype(np.float32) * 1.35**level + 8 * level, 0, 255).astype(np.uint8)


def drowned(picture: np.ndarray, level: int, rng: Rng) -> np.ndarray:
    return np.clip(picture.astype(np.float32) * 0.68**level - 3 * level, 0, 255).astype(np.uint8)


BLURS: dict[str, Fault] = {"gaussian": gaussian, "defocus": defocus, "shaken": shaken, "enlarged": enlarged}
FAULTS: dict[str, Fault] = {"blur": gaussian, "noise": noisy, "blockiness": blocky, "burnt": burnt, "drowned": drowned}
