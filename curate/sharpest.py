"""How sharp a picture is, and the sharpest frame of a span of time."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def laplacian_variance(luma: np.ndarray) -> float:
    """uint8 (h, w) -> variance of the Laplacian (OpenCV's 4-neighbour kernel), 0 for a flat picture."""
    response = cv2.Laplacian(luma, cv2.CV_16S)
    mean = cv2.sumElems(response)[0] / response.size
    return cv2.norm(response, cv2.NORM_L2SQR) / response.size - mean**2  # integers below 2 ** 53: exact sums


def sharpest(times_s: Sequence[float], sharpness: Sequence[float], start_s: float, window_s: float) -> int:
    """Index of the sharpest frame with time in [start_s, start_s + window_s), the first of equals; at least one frame
    at or after start_s is looked at. Raises ValueError where there is none."""
    first = int(np.searchsorted(times_s, start_s - 1e-9))
    if first >= len(times_s):
        raise ValueError(f"no frame at or after {start_s} s")
    last = max(first + 1, int(np.searchsorted(times_s, start_s + window_s - 1e-9)))
    return first + int(np.argmax(sharpness[first:last]))
