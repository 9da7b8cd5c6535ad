"""Smaller pictures, quickly: the decoder's converter, kept from frame to frame, and its planes halved where they lie.

To set the converter up costs as much as a small picture does, so that one is kept for each pair of sizes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

MOST_KEPT = 16  # converters of a thread: each holds the tables of one size


class _Kept(threading.local):
    """Of each thread its own: a converter is state."""

    def __init__(self) -> None:
        self.converters: OrderedDict[tuple[Any, ...], VideoReformatter] = OrderedDict()


_kept = _Kept()


def reformatted(picture: Any, width: int, height: int, kind: str, **how: Any) -> Any:
    """A decoded picture in another size and format; `how` as PyAV's `VideoFrame.reformat` takes it, with the same pixels."""
    converters = _kept.converters
    key = (picture.width, picture.height, picture.format.name, width, height, kind, *sorted(how.items()))
    converter = converters.pop(key, None) or VideoReformatter()
    converters[key] = converter
    if len(converters) > MOST_KEPT:
        converters.popitem(last=False)
    return converter.reformat(picture, width, height, kind, **how)


def averaged(plane: np.ndarray, width: int, height: int, into: np.ndarray | None = None) -> np.ndarray:
    """uint8 (H, W) -> (height, width): means of 2 x 2 px as long as that is too large, between px the rest of the way.

    A line or column that has no partner is left out: the picture is stretched by less than a px.
    """
    while plane.shape[1] >= 2 * width and plane.shape[0] >= 2 * height:
        tall, wide = plane.shape[0] // 2, plane.shape[1] // 2
        plane = cv2.resize(plane[: 2 * tall, : 2 * wide], (wide, tall), interpolation=cv2.INTER_AREA)
    return cv2.resize(plane, (width, height), dst=into, interpolation=cv2.INTER_LINEAR)


def averaged_420(planes: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """Luma and two half-size planes of colour -> uint8 (height * 3 / 2, width), one below the other as OpenCV's I420 has them."""
    out = np.empty((height * 3 // 2, width), np.uint8)
    averaged(planes[0], width, height, out[:height])
    colours = out[height:].reshape(2, height // 2, width // 2)
    for plane, into in zip(planes[1:], colours, strict=True):
        averaged(plane, width // 2, height // 2, into)
    return out
