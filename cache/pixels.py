"""A clip and a bucket -> frames: which times, which part of the picture, which resampling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from media.frames import read_frames

from cache.buckets import Bucket, times

PIXEL_VERSION = 1


class Crop(NamedTuple):
    """Px of the upright source that are cut off each side: the borders that curation found."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def pixel_settings() -> dict[str, Any]:
    """The rules below in words: part of every fingerprint."""
    from media.colour import COLOUR_VERSION

    return {
        "version": PIXEL_VERSION,
        "colour": COLOUR_VERSION,
        "times": "frame shown at start + k / fps",
        "crop": "borders as curated, then centre crop to the bucket's aspect",
        "resize": "area down, cubic up",
    }


def read_pixels(path: str, start_s: float, crop: Crop, bucket: Bucket) -> np.ndarray:
    """uint8 (frames, height, width, 3) RGB, upright, exactly of the bucket's shape.

    Raises ValueError when the file gives other than the frames asked for, and what reading it raises.
    """

    shown = read_frames(path, times(start_s, bucket.frames, bucket.fps))
    if len(shown) != bucket.frames:
        raise ValueError(f"{path}: {len(shown)} frames for the {bucket.frames} times from {start_s:.3f} s")
    return np.stack([fit(frame, crop, bucket.height, bucket.width) for frame in shown])


def fit(frame: np.ndarray, crop: Crop, height: int, width: int) -> np.ndarray:
    """One frame (H, W, 3) cropped and resized to (height, width, 3)."""
    import cv2

    top, bottom, left, right = window(frame.shape[0], frame.shape[1], crop, width / height)
    region = frame[top:bottom, left:right]
    if region.shape[:2] == (height, width):
        return np.ascontiguousarray(region)
    shrinks = region.shape[0] >= height and region.shape[1] >= width
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(region), (width, height), interpolation=way)


def window(height: int, width: int, crop: Crop, aspect: float) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) px of the largest centred region of this width / height inside the curated crop."""
    inner_width, inner_height = width - crop.left - crop.right, height - crop.top - crop.bottom
    if inner_width < 1 or inner_height < 1:
        raise ValueError(f"a crop of {tuple(crop)} px leaves nothing of {width}x{height}")
    wide = min(inner_width, max(1, round(inner_height * aspect)))
    tall = min(inner_height, max(1, round(inner_width / aspect)))
    left, top = crop.left + (inner_width - wide) // 2, crop.top + (inner_height - tall) // 2
    return top, top + tall, left, left + wide
