"""Where shots begin and end: PySceneDetect's detectors propose, the pictures around a proposal decide.

A hard cut is a jump that stands out from its neighbours, leads to another picture, and does not come back at once (that
is a flash). A fade is a picture that sinks evenly into a blank one or rises out of one. Every decision looks at the
frames within `HORIZON_S` of it and at nothing else, so a video scanned in overlapping pieces gives the same shots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction

import cv2
import numpy as np

from curate.cuts import THUMB, Boundary, Look, boundaries
from curate.detectors import WINDOW, adaptive_votes, content_votes, hash_detector
from curate.opinion import REACH_S, TILE_S, Opinion
from media.decode import Frame

SHOTS_VERSION = 5
DETECTOR_PX = 256
HORIZON_S = 3.0
MAX_HORIZON = 240  # frames
STRIDE_S = 6.0  # new frames are judged in batches of this length: every batch looks at two horizons more


class ShotFinder:
    """Frames in, boundaries out, a horizon later.

    mode: where TransNet V2 is asked: `cheap` nowhere, `auto` where the detectors doubt, `full` everywhere.
    push(frame, bgr) per frame; `settle()` gives the boundaries decided since; frames before `settled` are decided.
    """

    def __init__(self, detectors: Sequence[str], time_base: Fraction, mode: str = "cheap"):
        self._names, self._time_base = tuple(detectors), time_base
        self._opinion = None if mode == "cheap" else _network(mode == "full" or "transnet" in detectors)
        self._horizon_s = HORIZON_S if mode == "cheap" else HORIZON_S + REACH_S - TILE_S
        self._hash: Callable[[int, np.ndarray], bool] | None = None
        self._previous: tuple[np.ndarray, tuple[int, int]] | None = None
        self._scores: deque[float] = deque(maxlen=2 * WINDOW + 1)  # content, since the size last changed
        self._looks: list[Look] = []
        self._base = 0  # index of the first look that is kept
        self._judged_to_s = -np.inf
        self.settled = 0

    @property
    def count(self) -> int:
        return self._base + len(self._looks)

    def push(self, frame: Frame, bgr: np.ndarray) -> float:
        """bgr: uint8 (h, w, 3), long side DETECTOR_PX or less. Returns the content score: mean HSV change, 0-255."""
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        size = (frame.width, frame.height)
        forced = None if self._previous is None or self._previous[1] == size else "resize"
        if forced or self._previous is None:
            self._begin()
            content = 0.0
        else:  # the mean over pixels and channels of the absolute difference, in one call
            content = cv2.norm(hsv, self._previous[0], cv2.NORM_L1) / hsv.size
        gray = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), THUMB, interpolation=cv2.INTER_AREA)
        forced = forced or ("gap" if frame.gap else None)
        small = None if self._opinion is None else _picture(bgr)
        self._looks.append(Look(frame.pts, frame.time_s, content, set(), gray.astype(np.float32), forced, small))
        self._vote(frame, bgr, content)
        self._previous = (hsv, size)
        return content

    def settle(self, ended: bool = False) -> list[Boundary]:
        """Boundaries that became certain; all that remain when the video has ended."""
        if not self._looks or not (ended or self._due()):
            return []
        found = boundaries(self._looks)
        if self._opinion is not None:
            found = self._opinion.complete(self._looks, found, ended)
        newest = self._looks[-1].time_s
        sure = [i for i, look in enumerate(self._looks) if newest - look.time_s >= self._horizon_s]
        until = self.count if ended else self._base + max(len(sure), len(self._looks) - MAX_HORIZON)
        self._judged_to_s = newest
        return self._release(found, until, ended)

    def _due(self) -> bool:
        newest = self._looks[-1].time_s
        return newest - self._judged_to_s >= STRIDE_S or self.count - self.settled > MAX_HORIZON + 30

    def _release(self, found: list[Boundary], until: int, ended: bool) -> list[Boundary]:
        moved = [Boundary(b.last + self._base, b.first + self._base, b.kind, b.confidence) for b in found]
        open_ones = [b.last for b in moved if self.settled <= b.last < until < b.first]
        until = min([until, *open_ones]) if not ended else until
        out = [b._replace(last=max(b.last, self.settled)) for b in moved if self._now(b, until)]
        self.settled = max(self.settled, until)
        self._forget()
        return [b for b in out if b.first > b.last or b.kind in ("cut", "resize")]

    def _now(self, one: Boundary, until: int) -> bool:
        """Whether it is to be handed out as frames up to `until` are: before its first frame, and once."""
        if one.last == one.first:
            return self.settled <= one.first < until
        return self.settled < one.first <= until and one.last < until

    def _forget(self) -> None:
        """Looks older than a horizon before what is settled are not looked at again."""
        at = self._looks[min(self.settled - self._base, len(self._looks) - 1)].time_s
        keep = next((i for i, look in enumerate(self._looks) if at - look.time_s <= self._horizon_s), 0)
        keep = max(keep, self.settled - self._base - MAX_HORIZON)
        if keep > 0:
            del self._looks[:keep]
            self._base += keep

    def _begin(self) -> None:
        """The detectors know nothing of what came before."""
        self._scores.clear()
        self._hash = hash_detector(self._time_base) if "hash" in self._names else None

    def _vote(self, frame: Frame, bgr: np.ndarray, content: float) -> None:
        """The detectors' proposals: of the newest frame, and of one a few frames back for who looks at both sides."""
        self._scores.append(content)
        if "content" in self._names and content_votes(content):
            self._looks[-1].votes.add("content")
        if "adaptive" in self._names and adaptive_votes(self._scores):
            self._looks[-1 - WINDOW].votes.add("adaptive")
        if self._hash is not None and self._hash(frame.pts, bgr):
            self._looks[-1].votes.add("hash")


def _network(everywhere: bool) -> Opinion:
    from curate.transnet import transitions  # torch is loaded by those who ask for it

    return Opinion(transitions, everywhere)


def _picture(bgr: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) BGR -> RGB (27, 48, 3), the size that the network knows."""
    return np.ascontiguousarray(cv2.resize(bgr, (48, 27), interpolation=cv2.INTER_AREA)[..., ::-1])
