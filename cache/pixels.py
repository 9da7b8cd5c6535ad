"""A clip and a bucket -> frames: which times, which part of the picture, which resampling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cache.buckets import Bucket, times

PIXEL_VERSION = 1


class Crop(NamedTuple):
    """Px of the upright source that are cut off each side: the borders, marks and text that curation found (curate/crop.py)."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def pixel_settings() -> dict[str, Any]:
    """The rules below, and those of media.frames, in words: part of every fingerprint."""
    from media.colour import COLOUR_VERSION
    from media.frames import FRAMES_VERSION

    return {
        "version": PIXEL_VERSION,
        "frames_version": FRAMES_VERSION,
        "colour_version": COLOUR_VERSION,
        "times": "frame shown at start + k / fps",
        "crop": "borders as curated, then the centre of the bucket's aspect",
        "resize": "area down, cubic up",
    }


def read_pixels(path: str, start_s: float, crop: Crop, bucket: Bucket) -> np.ndarray:
    """uint8 (frames, height, width, 3) RGB, upright, exactly of the bucket's shape.

    Raises ValueError when the file gives another shape, and what reading it raises.
    """
    from media.frames import read_frames

    found = read_frames(path, times(start_s, bucket.frames, bucket.fps), (bucket.height, bucket.width), crop)
    if found.shape != (bucket.frames, bucket.height, bucket.width, 3):
        raise ValueError(f"{path}: frames of shape {found.shape} for bucket {bucket.name}")
    return found
