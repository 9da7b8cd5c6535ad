"""Dense optical flow between frames about a tenth of a second apart, computed once for all signals that want it.

Pairs that lie a tenth of a second apart are far enough for slow motion to stand above the noise of the estimate, near
enough for fast motion to be found. DIS: Kroeger et al., Fast optical flow using dense inverse search, 2016.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.kinds import Seen

PAIR_S = 0.1
MAX_PAIR_S = 1.0  # frames further apart (slideshows, time lapse) are not compared by flow


class FlowPair(NamedTuple):
    """flow: float32 (h, w, 2), px of the small picture, right and down, from the frame at since_s, whose luma is
    `before`, to the one at time_s."""

    flow: np.ndarray
    before: np.ndarray
    since_s: float
    time_s: float

    @property
    def elapsed_s(self) -> float:
        return self.time_s - self.since_s


class FlowPairs:
    """Frames in time order in, a pair now and then out. Every signal has its own; the flow itself is kept on the frame
    (`Seen`), where the next signal finds it. rest_s: from the end of a pair to the beginning of the next. The first frame of
    every second of the film begins a pair, so that pairs do not depend on where a pass over the film began."""

    def __init__(self, rest_s: float = 0.0) -> None:
        self._rest_s, self._until_s, self._second = rest_s, -np.inf, -np.inf
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._reference: tuple[float, np.ndarray] | None = None

    def see(self, seen: Seen) -> FlowPair | None:
        luma, now = seen.small_luma, seen.time_s
        before, second = self._reference, math.floor(now + 1e-6)
        anew, self._second = second != self._second, second
        if before is None or before[1].shape != luma.shape:
            self._reference = (now, luma) if anew or now >= self._until_s - 1e-6 else None
            return None
        if now - before[0] < PAIR_S - 1e-6:
            self._reference = (now, luma) if anew else before
            return None
        self._until_s = now + self._rest_s
        self._reference = (now, luma) if anew or self._rest_s == 0 else None
        if now - before[0] > MAX_PAIR_S or min(luma.shape) < 16:
            return None
        made = seen.__dict__.get("flow_pair")
        if made is None or made.since_s != before[0]:
            flow = self._dis.calc(before[1], luma, None)  # type: ignore[call-overload]
            made = seen.__dict__["flow_pair"] = FlowPair(flow, before[1], before[0], now)
        return made
