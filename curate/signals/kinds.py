"""What a signal is, what it sees of a frame, and what it is told about a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from media.decode import Frame, Rough

WORK_PX = 512  # long side of the picture that sharpness is measured on
SMALL_PX = 256  # long side of the pictures of shots, motion and exposure

Scores = dict[str, float | None]


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


@dataclass(frozen=True)
class Signal:
    """columns: score -> Arrow type. watch and summary belong to a pass signal, from_proxies to one on proxies. small: that its
    watcher needs only a Glance of a frame, and may look at it behind the pass; then the classes that its values consist of.

    summary takes the records of a clip (all inside it, in order) and gives one number per column, None for unknown.
    from_proxies takes rows of `proxies` and the signal's settings and gives a table of clip_id and columns.
    """

    columns: dict[str, pa.DataType]
    encode_version: int
    source: Literal["pass", "proxies"]
    watch: Callable[[], Watcher] | None = None
    summary: Callable[[Sequence[Record], Clip], Scores] | None = None
    from_proxies: Callable[[pa.Table, Any], pa.Table] | None = None
    small: tuple[type, ...] = ()


class EverySeconds:
    """Says of frames in time order whether one is due: the first of every second of the film, then at least `step_s` after
    the one before. So what is due depends on the film's time, and not on where a pass over it began."""

    def __init__(self, step_s: float):
        self.step_s, self._last_s, self._second = step_s, -np.inf, -np.inf

    def due(self, time_s: float) -> bool:
        second, before = math.floor(time_s + 1e-6), self._second
        self._second = second
        if second == before and time_s - self._last_s < self.step_s - 1e-6:
            return False
        self._last_s = time_s
        return True


def median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
