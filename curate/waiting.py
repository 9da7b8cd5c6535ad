"""Frames that wait until it is certain which shot they belong to, and which of them keep a picture.

One frame in every tenth of a second of the film may be looked at again (as the first of a clip, as a proxy): the sharpest of
them on the small picture. Only that one is reduced to the larger picture and keeps it; the others are a place in time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from curate.seen import Seen
from curate.sharpest import laplacian_variance
from media.decode import Frame

SLOT_S = 0.1


@dataclass
class Waiting:
    """frame: its picture is shrunk if it is `chosen`, or left out; sharpness: of the small picture; luma: that picture, where it is
    asked for."""

    frame: Frame
    sharpness: float
    luma: np.ndarray | None
    chosen: bool = False


class Line:
    """Frames in order in, and out again. sharp: whether any is to be chosen; pictures: whether the chosen ones need theirs; lumas:
    whether every frame needs its small one."""

    def __init__(self, sharp: bool, pictures: bool, lumas: bool):
        self._sharp, self._pictures, self._lumas = sharp, pictures, lumas
        self._line: deque[Waiting] = deque()
        self._slot = -1
        self._best: tuple[Waiting, Seen] | None = None

    def push(self, seen: Seen) -> None:
        luma = seen.small_luma if self._lumas else None
        one = Waiting(seen.frame.bare(), laplacian_variance(seen.small_luma) if self._sharp else 0.0, luma)
        self._line.append(one)
        if not self._sharp:
            return
        slot = math.floor(seen.time_s / SLOT_S + 1e-6)
        if slot != self._slot:
            self.choose()
            self._slot = slot
        if self._best is None or one.sharpness > self._best[0].sharpness:
            self._best = (one, seen)

    def choose(self) -> None:
        """The tenth of a second is over: its sharpest frame is known."""
        if self._best is not None:
            one, seen = self._best
            one.chosen, self._best = True, None
            if self._pictures:
                one.frame = seen.small

    def pop(self) -> Waiting:
        return self._line.popleft()

    def __len__(self) -> int:
        return len(self._line)
