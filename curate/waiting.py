"""Frames that wait until it is certain which shot they belong to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from curate.front import Choice, Told
from media.decode import Frame


@dataclass
class Waiting:
    """frame: with a shrunk picture if it is `chosen`, or left out; sharpness: of the small picture; luma: that picture, where it is
    asked for."""

    frame: Frame
    sharpness: float
    luma: np.ndarray | None
    chosen: bool = False


class Line:
    """Frames in order in, and out again. lumas: whether every frame keeps its small picture."""

    def __init__(self, lumas: bool):
        self._lumas = lumas
        self._line: deque[Waiting] = deque()

    def push(self, told: Told) -> None:
        self._line.append(Waiting(told.frame, told.sharpness, told.rough.luma if self._lumas else None))
        self.choose(told.chosen)

    def choose(self, choice: Choice | None) -> None:
        """One of the frames that wait is chosen."""
        if choice is not None:
            one = self._line[choice.index - self._first]
            one.chosen, one.frame = True, choice.frame or one.frame

    @property
    def _first(self) -> int:
        return self._line[0].frame.index

    def pop(self) -> Waiting:
        return self._line.popleft()

    def __len__(self) -> int:
        return len(self._line)
