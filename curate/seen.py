"""What is seen of a frame, and what is measured on it. No signal is loaded for it: splitting alone needs none."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from media.decode import Frame, Rough

WORK_PX = 512  # long side of the picture that sharpness is measured on
SMALL_PX = 256  # long side of the pictures of shots, motion and exposure


class Glance:
    """All that some signals see of a frame: its time, its mean HSV change to the one before, its small luma uint8 (h, w)."""

    def __init__(self, time_s: float, content: float, small_luma: np.ndarray):
        self.time_s, self.content, self.small_luma = time_s, content, small_luma


class Seen:
    """One frame of the pass and the pictures made of it, each made once and only when asked for.

    frame: as decoded, full size; work_px: long side of the shrunk one; content: mean HSV change to the frame before.
    """

    def __init__(self, frame: Frame, work_px: int = WORK_PX):
        self.frame, self.work_px, self.content = frame, work_px, 0.0
        self.time_s = frame.time_s

    @cached_property
    def small(self) -> Frame:
        """Shrunk; it holds no large picture."""
        return self.frame.shrunk(self.work_px)

    @cached_property
    def luma(self) -> np.ndarray:
        """uint8 (h, w), long side WORK_PX or less."""
        return self.small.luma(WORK_PX)

    @cached_property
    def rough(self) -> Rough:
        """Long side SMALL_PX or less, from the decoder's planes."""
        return self.frame.rough(SMALL_PX)

    @property
    def small_luma(self) -> np.ndarray:
        """uint8 (h, w), long side SMALL_PX or less."""
        return self.rough.luma

    @cached_property
    def full_luma(self) -> np.ndarray:
        """uint8 (h, w), as stored."""
        return self.frame.luma()

    @property
    def bgr(self) -> np.ndarray:
        """uint8 (h, w, 3), long side SMALL_PX or less, roughly the right colours."""
        return self.rough.bgr

    @cached_property
    def rgb(self) -> np.ndarray:
        """uint8 (h, w, 3), long side SMALL_PX or less, the right colours."""
        return self.small.rgb(SMALL_PX)


class Clip(NamedTuple):
    """[start_s, end_s); width, height in upright px; an image has start_s = end_s = 0."""

    start_s: float
    end_s: float
    width: int
    height: int


class Record(NamedTuple):
    """What was measured on a frame. since_s: time of the frame it was compared with; time_s where there was none."""

    time_s: float
    since_s: float
    values: Any


class Watcher(Protocol):
    """The state of a pass signal over one video."""

    def see(self, seen: Any) -> Record | None:
        """Called for every frame in order with a Seen, or of a `small` signal a Glance; None where nothing was measured."""
        ...
