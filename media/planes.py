"""A reduced picture as bytes and back: its planes one after the other, without the padding of the decoder's lines."""

from __future__ import annotations

from typing import Any

import av
import numpy as np


def planes_into(memory: np.ndarray, picture: Any) -> int:
    """A planar picture into memory uint8 (n,); returns how many bytes it takes."""
    at = 0
    for lines in _lines(picture):
        memory[at : at + lines.size].reshape(lines.shape)[:] = lines
        at += lines.size
    return at


def picture_of(memory: np.ndarray, kind: str, width: int, height: int) -> Any:
    """The picture that lies in memory as `planes_into` leaves it, of a format such as yuv420p; a copy."""
    picture, at = av.VideoFrame(width, height, kind), 0
    for lines in _lines(picture):
        lines[:] = memory[at : at + lines.size].reshape(lines.shape)
        at += lines.size
    return picture


def _lines(picture: Any) -> list[np.ndarray]:
    """Views of the planes, uint8 (height, bytes of a line)."""
    deep = 1 + picture.format.name.endswith(("le", "be"))
    views = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in picture.planes]
    return [view[:, : deep * plane.width] for view, plane in zip(views, picture.planes, strict=True)]
