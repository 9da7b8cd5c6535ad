"""Dense optical flow between frames about a tenth of a second apart, computed once for all signals that want it.

Pairs that lie a tenth of a second apart are far enough for slow motion to stand above the noise of the estimate, near
enough for fast motion to be found. DIS: Kroeger et al., Fast optical flow using dense inverse search, 2016.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from curate.seen import Glance, Seen

PAIR_S = 0.1
REST_S = 0.1  # from the end of a pair to the beginning of the next, where motion changes
HALF_S = 0.5  # from the first frame of a second to the second pair, where it does not
FIRST_S = 0.1  # a pair that begins so soon after a second does belongs to its beginning
UNSTEADY = 0.7  # change of the motion, as a share of it, from which on it changes ...
UNSTEADY_WIDTHS = 0.03  # ... and in frame widths per second
CUT = 27.0  # mean HSV change from which on a frame is taken for the first of another shot
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
    """Frames in time order in, a pair now and then out: two in a second of the film in which the picture goes on moving as it
    did, four or five where it does not. Every signal has its own; the flow itself is kept on the frame (`Seen`), where the next
    signal finds it. What is paired depends on the second of the film and the one before, not on where a pass began."""

    def __init__(self) -> None:
        self._rhythm = Rhythm()
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._reference: tuple[float, np.ndarray] | None = None

    def see(self, seen: Seen | Glance) -> FlowPair | None:
        luma, now = seen.small_luma, seen.time_s
        before, anew = self._reference, self._rhythm.begins(now, seen.content)
        if before is None or before[1].shape != luma.shape:
            self._reference = (now, luma) if anew or self._rhythm.due(now) else None
            return None
        if now - before[0] < PAIR_S - 1e-6:
            self._reference = (now, luma) if anew else before
            return None
        self._reference = (now, luma) if anew else None
        if now - before[0] > MAX_PAIR_S or min(luma.shape) < 16:
            self._rhythm.rest(now, None)
            return None
        made, moves = seen.__dict__.get("flow_pair", (None, None))
        if made is None or made.since_s != before[0]:
            flow = self._dis.calc(before[1], luma, None)  # type: ignore[call-overload]
            made = FlowPair(flow, before[1], before[0], now)
            moves = ways(made)
            seen.__dict__["flow_pair"] = (made, moves)
        self._rhythm.rest(now, made, moves)
        return made


UNKNOWN = np.full((2, 2, 2), np.nan, np.float32)  # unlike any motion: the first second of a film is looked at closely


class Rhythm:
    """When pairs begin: with the first frame of a second, again half a second later, and every REST_S where the picture does not
    move as at the beginning of this second or of the one before."""

    def __init__(self) -> None:
        self._until_s, self._second = -np.inf, -np.inf
        self._first: np.ndarray | None = UNKNOWN  # how the picture moved as this second, or the shot in it, began
        self._steady, self._jump_s = False, -np.inf

    def begins(self, now: float, content: float) -> bool:
        """Whether a second of the film begins with this frame. content: mean HSV change to the one before."""
        before, self._second = self._second, math.floor(now + 1e-6)
        if content >= CUT:
            shaken = now - self._jump_s < 1.0  # once is another shot, which does not go on from what was seen
            self._steady, self._first, self._jump_s = not shaken, None, now
        return self._second != before

    def due(self, now: float) -> bool:
        return now >= self._until_s - 1e-6

    def rest(self, now: float, pair: FlowPair | None, moves: np.ndarray | None = None) -> None:
        """A pair ends, or nothing could be compared. moves: its `ways`, where they are known."""
        moves = ways(pair) if moves is None and pair is not None else moves
        first = pair is None or -1e-6 <= pair.since_s - self._second < FIRST_S
        shaken = now - self._jump_s < 1.0 and not self._steady
        self._steady = (self._steady or (first and not shaken)) and alike(moves, self._first)
        self._first = moves if first or self._first is None else self._first
        sparse_s = self._second + HALF_S if first else np.inf
        self._until_s = max(now + REST_S, sparse_s) if self._steady else now + REST_S


def ways(pair: FlowPair) -> np.ndarray:
    """float32 (2, 2, 2): mean velocity of each quarter of the picture in widths per second."""
    quarters = cv2.resize(pair.flow, (2, 2), interpolation=cv2.INTER_AREA)
    return quarters / (pair.elapsed_s * pair.flow.shape[1])


def alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two motions are about the same; where one is not known nothing speaks against it."""
    if one is None or other is None:
        return True
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other))) / 2  # root mean square of the quarters
    return float(np.linalg.norm(one - other)) / 2 <= max(UNSTEADY * size, UNSTEADY_WIDTHS)
