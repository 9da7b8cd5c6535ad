"""The motion of the whole picture: the affine flow that most of its texture follows, from a dense flow and the two pictures.

Dense flow says roughly how the picture moves, and too little where there is hardly any texture. So the fit to it is only where
the fit to the pictures themselves begins (Lucas and Kanade 1981, over the whole picture, outliers weighted down).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

GRID_PX = 4  # of the halved picture: step of the points at which the dense flow is taken
ROBUST_PX = 0.25  # residue of the flow at which such a point counts half
FITS = 4  # rounds of reweighting, from the median on
LOOK_PX = 3  # of the halved picture: step of the points at which the pictures are compared
LOOKS = 2  # rounds of that
LEAST_GREY = 1.5  # grey levels of difference at which a point counts half, at least
FARTHEST_PX = 1.5  # by which a round may shift the middle of the picture; more is a failure
BETTER = 1.03  # standing still is taken unless it fits worse by this factor


def whole_motion(flow: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Dense flow (h, w, 2) in px and the pictures uint8 (h, w) -> float32 (3, 2) in px: shift, growth along x, along y.

    The flow at a px is shift + x growth_x + y growth_y with x and y in widths from the middle (`affine_flow`).
    """
    size = (flow.shape[1] // 2, flow.shape[0] // 2)
    halved = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (flow, before, after)]
    dense, then, now = halved[0] / 2, halved[1], halved[2]
    found = _by_pictures(_by_flow(dense, then), then, now)
    still = np.zeros_like(found)
    if _misfit(still, then, now) <= BETTER * _misfit(found, then, now):
        return still
    return found * 2


def affine_flow(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(3, 2) -> float32 (height, width, 2)."""
    x, y = _centred(height, width)
    return (values[0] + values[1] * x[None, :, None] + values[2] * y[:, None, None]).astype(np.float32)


def _by_flow(flow: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """By reweighted squares, textured points first."""
    design, there = _design(*luma.shape, GRID_PX), _every(flow, GRID_PX).reshape(-1, 2)
    across, along = cv2.Sobel(luma, cv2.CV_16S, 1, 0), cv2.Sobel(luma, cv2.CV_16S, 0, 1)
    texture = cv2.blur(cv2.add(np.abs(across), np.abs(along)).astype(np.float32), (5, 5))
    base = np.minimum(_every(texture, GRID_PX).reshape(-1), 30.0) + 0.1
    fitted = np.array([np.median(there, axis=0), (0, 0), (0, 0)], np.float32)
    for _ in range(FITS):
        off = there - design @ fitted
        weight = (base / (1 + (off[:, 0] ** 2 + off[:, 1] ** 2) / ROBUST_PX**2))[:, None] * design
        fitted = np.linalg.solve(weight.T @ design + 1e-3 * np.eye(3), weight.T @ there).astype(np.float32)
    return fitted


def _by_pictures(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Moves an affine flow to where the second picture, moved back along it, is most like the first one."""
    slopes = [
        _every(cv2.Sobel(before, cv2.CV_32F, *way, scale=1 / 8), LOOK_PX).reshape(-1, 1) for way in ((1, 0), (0, 1))
    ]
    columns = np.concatenate([slope * _design(*before.shape, LOOK_PX) for slope in slopes], axis=1)
    ridge = 1e-3 * np.eye(6, dtype=np.float32) * len(columns)
    for _ in range(LOOKS):
        off = _difference(values, before, after)
        scale = max(LEAST_GREY, float(np.median(np.abs(off))))
        weighted = columns * (1 / (1 + (off / scale) ** 2))[:, None]
        step = np.linalg.solve(weighted.T @ columns + ridge, -weighted.T @ off).reshape(2, 3).T
        if np.abs(step[0]).max() > FARTHEST_PX:
            break
        values = (values + step).astype(np.float32)
    return values


def _misfit(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    return float(np.minimum(np.abs(_difference(values, before, after)), 20.0).mean())


def _difference(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """float32 (n,): the second picture, moved back, less the first one, at every LOOK_PX-th px."""
    there = _every(places(*before.shape), LOOK_PX)
    there = there + (_design(*before.shape, LOOK_PX) @ values).reshape(there.shape)
    moved = cv2.remap(after, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return (moved.astype(np.float32) - _every(before, LOOK_PX)).reshape(-1)


def moved_back(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture (h, w) looked up where a flow (h, w, 2) leads."""
    return cv2.remap(picture, places(*picture.shape) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


def _every(values: np.ndarray, step: int) -> np.ndarray:
    return values[step // 2 :: step, step // 2 :: step]


@lru_cache(maxsize=16)
def _centred(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (w,) and y (h,) of a picture's px, in widths from its middle."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return (x + 0.5) / width - 0.5, (y + 0.5) / width - 0.5 * height / width


@lru_cache(maxsize=16)
def _design(height: int, width: int, step: int) -> np.ndarray:
    """float32 (n, 3): 1, x, y at every step-th px."""
    x, y = (one[step // 2 :: step] for one in _centred(height, width))
    xs, ys = np.meshgrid(x, y)
    return np.stack([np.ones_like(xs), xs, ys], axis=-1).reshape(-1, 3)


@lru_cache(maxsize=16)
def places(height: int, width: int) -> np.ndarray:
    """float32 (h, w, 2): x, y of every px."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
