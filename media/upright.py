"""Display matrix -> which way up a picture is: one of the eight ways to turn and mirror it."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np


class Upright(NamedTuple):
    """How a stored picture becomes an upright one: transpose first, then mirror left-right, then top-bottom."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def rotation_deg(self) -> int:
        """Clockwise turn in degrees (0, 90, 180, 270); a mirrored picture has the turn of its unmirrored twin."""
        if self.transpose:
            return 90 if self.mirror_x or not self.mirror_y else 270
        return 180 if self.mirror_y else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, ...) as stored -> upright, contiguous; the same array where nothing is to be done."""
        if self == Upright():
            return image
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def size(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self.transpose else (width, height)


def from_matrix(data: bytes) -> Upright:
    """The 36 bytes of a display matrix (9 native int32: a b u c d v x y w), snapped to the nearest quarter turn.

    It maps a stored point (x, y) to the screen point (a x + c y, b x + d y), y pointing down.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", data[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Upright(False, a < 0, d < 0)
    return Upright(True, c < 0, b < 0)
