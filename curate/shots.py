"""Where shots begin and end: PySceneDetect's detectors propose, the pictures around a proposal decide.

A hard cut is a jump that stands out from its neighbours, leads to another picture, and does not come back at once (that
is a flash). A fade is a picture that sinks evenly into a blank one or rises out of one. Every decision looks at the
frames within `HORIZON_S` of it and at nothing else, so a video scanned in overlapping pieces gives the same shots.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
from scenedetect.common import FrameTimecode, Timecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector

from curate.cuts import THUMB, Boundary, Look, boundaries
from curate.opinion import REACH_S, TILE_S, Opinion
from media.decode import Frame

SHOTS_VERSION = 2
DETECTOR_PX = 256
HORIZON_S = 3.0
MAX_HORIZON = 240  # frames
STRIDE_S = 1.0  # new frames are judged in batches of this length

CONTENT, ADAPTIVE_RATIO, ADAPTIVE_FLOOR, HASH = 27.0, 2.0, 15.0, 0.35  # at which they propose, low on purpose


class ShotFinder:
    """Frames in, boundaries out, a horizon later.

    mode: where TransNet V2 is asked: `cheap` nowhere, `auto` where the detectors doubt, `full` everywhere.
    push(frame, bgr) per frame; `settle()` gives the boundaries decided since; frames before `settled` are decided.
    """

    def __init__(self, detectors: Sequence[str], time_base: Fraction, mode: str = "cheap"):
        self._names, self._time_base = tuple(detectors), time_base
        self._opinion = None if mode == "cheap" else _network(mode == "full" or "transnet" in detectors)
        self._horizon_s = HORIZON_S if mode == "cheap" else HORIZON_S + REACH_S - TILE_S
        self._detectors: dict[str, object] = {}
        self._previous: tuple[np.ndarray, tuple[int, int]] | None = None
        self._looks: list[Look] = []
        self._votes: dict[int, set[str]] = {}
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
            self._detectors, content = self._fresh(), 0.0
        else:
            content = sum(cv2.mean(cv2.absdiff(hsv, self._previous[0]))[:3]) / 3
        self._ask(frame, bgr, content)
        gray = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), THUMB, interpolation=cv2.INTER_AREA)
        votes = self._votes.setdefault(frame.pts, set())
        forced = forced or ("gap" if frame.gap else None)
        small = None if self._opinion is None else _picture(bgr)
        self._looks.append(Look(frame.pts, frame.time_s, content, votes, gray.astype(np.float32), forced, small))
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
            for look in self._looks[:keep]:
                self._votes.pop(look.pts, None)
            del self._looks[:keep]
            self._base += keep

    def _fresh(self) -> dict[str, object]:
        made: dict[str, object] = {}
        if "content" in self._names:
            made["content"] = _Content(threshold=CONTENT, min_scene_len=0)
        if "adaptive" in self._names:
            made["adaptive"] = _Adaptive(ADAPTIVE_RATIO, 0, 2, ADAPTIVE_FLOOR)
        if "hash" in self._names:
            made["hash"] = HashDetector(threshold=HASH, min_scene_len=0)
        return made

    def _ask(self, frame: Frame, bgr: np.ndarray, content: float) -> None:
        stamp = FrameTimecode(Timecode(frame.pts, self._time_base), fps=30.0)
        for name, detector in self._detectors.items():
            if isinstance(detector, (_Content, _Adaptive)):
                detector.given = content
            for cut in detector.process_frame(stamp, bgr):  # type: ignore[attr-defined]
                self._votes.setdefault(cut.pts, set()).add(name)


def _network(everywhere: bool) -> Opinion:
    from curate.transnet import transitions  # torch is loaded by those who ask for it

    return Opinion(transitions, everywhere)


def _picture(bgr: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) BGR -> RGB (27, 48, 3), the size that the network knows."""
    return np.ascontiguousarray(cv2.resize(bgr, (48, 27), interpolation=cv2.INTER_AREA)[..., ::-1])


class _Content(ContentDetector):
    """PySceneDetect's detector on a score computed once for all of them (the same number, in 8-bit arithmetic)."""

    given = 0.0

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        return self.given


class _Adaptive(AdaptiveDetector):
    given = 0.0

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        return self.given
