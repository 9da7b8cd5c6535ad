"""Where shots begin and end: PySceneDetect's detectors propose, the pictures around a proposal decide.

A hard cut is a jump that stands out from its neighbours, leads to another picture, and does not come back at once (that
is a flash). A fade is a picture that sinks evenly into a blank one or rises out of one. Every decision looks at the
frames within `HORIZON_S` of it and at nothing else, so a video scanned in overlapping pieces gives the same shots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from scenedetect.common import FrameTimecode, Timecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector

from curate.gradual import Gradual, dissolves, fades
from media.decode import Frame

SHOTS_VERSION = 1
DETECTOR_PX = 256
THUMB = (32, 18)  # columns, rows of the luma that pictures are compared by
HORIZON_S = 2.5
MAX_HORIZON = 240  # frames
STRIDE_S = 0.5  # new frames are judged in batches of this length

# Found on the labelled footage: true cuts have a content score of 23-81 at 2.3 or more times their neighbours' mean and
# 1 - correlation of 0.32 or more (or a blank side); the nearest others have 27.2 at 1.4 times, and 31.3 at 4.7 times
# with 0.04 (the start of a fade).
CONTENT, ADAPTIVE_RATIO, ADAPTIVE_FLOOR, HASH = 27.0, 2.0, 15.0, 0.35
MIN_RATIO = 2.0
MIN_CHANGE = 0.2
BLANK_STD = 6.0
BAR = 3.0  # grey levels
STILL = 0.5
FLASH_S = 0.4
FLASH_ALIKE = 0.85


class Look(NamedTuple):
    """What shots are found by, of one frame. content: mean HSV change to the frame before (0 for the first);
    votes: detectors that propose a cut here; thumb: float32 (18, 32) luma; forced: `resize` or `gap`."""

    pts: int
    time_s: float
    content: float
    votes: frozenset[str]
    thumb: np.ndarray
    forced: str | None


class Boundary(NamedTuple):
    """The old shot ends before frame `last`, the new one begins with frame `first` (equal for a hard cut)."""

    last: int
    first: int
    kind: str  # cut | fade | dissolve | resize
    confidence: float


class ShotFinder:
    """Frames in, boundaries out, a horizon later.

    push(frame, bgr) per frame; `settle()` gives the boundaries decided since; frames before `settled` are decided.
    """

    def __init__(self, detectors: Sequence[str], time_base: Fraction):
        self._names, self._time_base = tuple(detectors), time_base
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
            content = float(np.mean(cv2.mean(cv2.absdiff(hsv, self._previous[0]))[:3]))
        self._ask(frame, bgr, content)
        gray = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), THUMB, interpolation=cv2.INTER_AREA)
        look = Look(
            frame.pts,
            frame.time_s,
            content,
            frozenset(),
            gray.astype(np.float32),
            forced or ("gap" if frame.gap else None),
        )
        self._looks.append(look)
        self._previous = (hsv, size)
        return content

    def settle(self, ended: bool = False) -> list[Boundary]:
        """Boundaries that became certain; all that remain when the video has ended."""
        if not self._looks or not (ended or self._due()):
            return []
        found = boundaries(self._voted())
        newest = self._looks[-1].time_s
        sure = [i for i, look in enumerate(self._looks) if newest - look.time_s >= HORIZON_S]
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
        out = [
            b._replace(last=max(b.last, self.settled))
            for b in moved
            if self.settled < b.first and b.first <= until and b.last < until
        ]
        self.settled = max(self.settled, until)
        self._forget()
        return [b for b in out if b.first > b.last or b.kind in ("cut", "resize")]

    def _forget(self) -> None:
        """Looks older than a horizon before what is settled are not looked at again."""
        at = self._looks[min(self.settled - self._base, len(self._looks) - 1)].time_s
        keep = next((i for i, look in enumerate(self._looks) if at - look.time_s <= HORIZON_S), 0)
        keep = max(keep, self.settled - self._base - MAX_HORIZON)
        if keep > 0:
            for look in self._looks[:keep]:
                self._votes.pop(look.pts, None)
            del self._looks[:keep]
            self._base += keep

    def _voted(self) -> list[Look]:
        return [look._replace(votes=frozenset(self._votes.get(look.pts, ()))) for look in self._looks]

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


class _Content(ContentDetector):
    """PySceneDetect's detector on a score computed once for all of them (the same number, in 8-bit arithmetic)."""

    given = 0.0

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        return self.given


class _Adaptive(AdaptiveDetector):
    given = 0.0

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        return self.given


# ------------------------------------------------------------------------------------------------------------- judging


def boundaries(looks: Sequence[Look]) -> list[Boundary]:
    """Boundaries among consecutive frames, indices into `looks`, in order and not overlapping."""
    thumbs = np.stack([look.thumb for look in looks])
    times = np.array([look.time_s for look in looks])
    forced = [i for i, look in enumerate(looks) if look.forced and i]
    hard = [
        (i, _confidence(looks, i))
        for i, look in enumerate(looks)
        if i and look.votes and not look.forced and _is_cut(looks, i)
    ]
    cuts = [(i, sure) for i, sure in hard if not _is_flash(thumbs, times, i, [k for k, _ in hard])]
    gradual = _clear([*fades(thumbs, times), *dissolves(thumbs, times)], [i for i, _ in cuts] + forced)
    out = [Boundary(i, i, "resize" if looks[i].forced == "resize" else "cut", 1.0) for i in forced]
    out += [Boundary(g.first, g.end, g.kind, g.confidence) for g in gradual]
    out += [Boundary(i, i, "cut", sure) for i, sure in cuts if not any(g.first - 1 <= i <= g.end + 1 for g in gradual)]
    return sorted(out)


def _clear(found: Iterable[Gradual], cuts: Sequence[int]) -> list[Gradual]:
    """Of overlapping transitions the surest stays; one with a hard cut well inside it is none."""
    kept: list[Gradual] = []
    for one in sorted(found, key=lambda g: (g.kind != "fade", -g.confidence, g.first)):
        inside = any(one.first + 2 <= i <= one.end - 2 for i in cuts) and one.kind == "dissolve"
        if not inside and not any(one.first <= other.end and other.first <= one.end for other in kept):
            kept.append(one)
    return sorted(kept)


def _is_cut(looks: Sequence[Look], i: int) -> bool:
    """Whether the jump to frame i stands out and leads to another picture."""
    around = _neighbours(looks, i)
    stands_out = looks[i].content >= MIN_RATIO * (sum(around) / len(around) if around else 0.0)
    return stands_out and change(looks[i - 1].thumb, looks[i].thumb) >= MIN_CHANGE


def _neighbours(looks: Sequence[Look], i: int) -> list[float]:
    """Content scores of the two nearest moving frames on each side: some films show every frame twice."""
    before = [look.content for look in reversed(looks[max(0, i - 5) : i]) if look.content > STILL][:2]
    after = [look.content for look in looks[i + 1 : i + 6] if look.content > STILL][:2]
    return before + after


def _confidence(looks: Sequence[Look], i: int) -> float:
    """In (0, 1): how far the jump is above its surroundings."""
    around = _neighbours(looks, i)
    ratio = looks[i].content / max(sum(around) / len(around) if around else 0.0, 1.0)
    return round(float(1 - 1 / (1 + 0.02 * looks[i].content * min(ratio, 20.0))), 3)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """0 the same picture up to brightness .. 1 unrelated; 1 where one is blank and the other is not alike.

    Bars that both have say nothing about what is between them, and are left out.
    """
    before, after = _without_bars(before, after)
    if min(before.std(), after.std()) < BLANK_STD:
        both = max(before.std(), after.std()) < BLANK_STD
        return float(min(1.0, np.abs(before - after).mean() / 10.0)) if both else 1.0
    a, b = before - before.mean(), after - after.mean()
    return float(1.0 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _without_bars(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures (18, 32) without the outer rows and columns that are flat and the same in both."""
    for _ in range(2):
        bar = (before.std(axis=1) < BAR) & (after.std(axis=1) < BAR) & (np.abs(before - after).mean(axis=1) < BAR)
        inner = np.flatnonzero(~bar)
        if len(inner) < 4:
            return before.T if _ else before, after.T if _ else after
        rows = slice(inner[0], inner[-1] + 1)
        before, after = before[rows].T, after[rows].T
    return before, after


def _is_flash(thumbs: np.ndarray, times: np.ndarray, i: int, proposed: Sequence[int]) -> bool:
    """Whether the picture before frame i is back soon after it, or the picture of i was there just before it."""
    after = [k for k in range(i + 1, len(times)) if times[k] - times[i] <= FLASH_S]
    before = [k for k in range(i - 1) if times[i] - times[k] <= FLASH_S]
    return _returns(thumbs, i - 1, after) or _returns(thumbs, i, before)


def _returns(thumbs: np.ndarray, i: int, others: Sequence[int]) -> bool:
    """Whether the picture i is seen again, and well lit, among others."""
    if thumbs[i].std() < BLANK_STD:
        return False
    return any(
        1 - change(thumbs[i], thumbs[k]) >= FLASH_ALIKE and np.abs(thumbs[i] - thumbs[k]).mean() < 20 for k in others
    )
