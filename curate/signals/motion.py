"""Motion: how fast what is seen moves. `motion` is the speed of what each px shows, averaged over the px inside the borders and
over the clip's time; what is drawn on the picture (letters, logos) stands still.

Pairs of frames are measured on small luma, a tenth of a second apart (flow.py says which): far enough for slow motion to stand above
the noise of the estimate; neighbouring frames where motion is fast. The ground's motion is one affine flow (whole.py), that of
things before it is looked for among their own px (things.py); dense flow (DIS, Kroeger et al. 2016) is where both begin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.seen import Clip, Glance, Record, Seen
from curate.signals.borders import bars
from curate.signals.flow import PAIR_S, FlowPair, FlowPairs
from curate.signals.kinds import Scores, Signal, mean
from curate.signals.thing_flow import thing_flow
from curate.signals.things import steepness, thing_mask, without, written
from curate.signals.whole import Ground, affine_flow, length, moved_back

FAST_PX = 8.0  # mean flow from which on neighbouring frames are compared: a shake turns back within a tenth of a second
DEAD_WIDTHS = 0.0005  # flow below this share of the width (0.12 px) is noise of the estimate and counts as none
MOVING = 0.01  # frame widths per second from which on a pixel moves
STILL = 0.15  # mean grey levels between neighbours below which a frame repeats the one before
LEAST_THINGS = 0.0005  # share of the px below which nothing moves by itself
COLUMNS = ("motion", "motion_px_s", "moving_area", "jitter", "jumps", "still_frames")


class Pair(NamedTuple):
    """speed: mean in frame widths per second; area: share of px that move; dx, dy: mean velocity in the same unit."""

    speed: float
    area: float
    dx: float
    dy: float


class Step(NamedTuple):
    """Between a frame and the one before. jump: mean HSV change in [0, 1]; still: whether it repeats; pair: or None. earlier_s: time of
    the picture from before the pair that it was measured with, -inf without one."""

    jump: float
    still: bool
    pair: Pair | None
    pair_since_s: float
    earlier_s: float


class Watch:
    def __init__(self) -> None:
        self._pairs = FlowPairs()
        self._dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._recent: deque[tuple[float, np.ndarray]] = deque()

    def see(self, seen: Seen | Glance) -> Record | None:
        luma, now = seen.small_luma, seen.time_s
        if self._recent and self._recent[-1][1].shape != luma.shape:
            self._recent.clear()
        before = self._recent[-1] if self._recent else None
        found = self._pairs.see(seen)
        measured, earlier_s = None, -np.inf
        if found is not None and before is not None:
            pair = self._near(found, luma)
            earlier_s, earlier = self._earlier(pair)
            measured = measure(pair, luma, earlier, self._long_ago(pair))
        self._recent.append((now, luma))
        while now - self._recent[0][0] > 4 * PAIR_S:
            self._recent.popleft()
        if before is None:
            return None
        still = float(cv2.norm(luma, before[1], cv2.NORM_L1)) / luma.size < STILL
        since_s = found.since_s if found else now
        return Record(now, before[0], Step(seen.content / 255, still, measured, since_s, earlier_s))

    def _near(self, found: FlowPair, luma: np.ndarray) -> FlowPair:
        """The pair itself, or the last two frames where it moves fast."""
        since_s, before = self._recent[-1]
        if since_s <= found.since_s or float(cv2.norm(found.flow, cv2.NORM_L1)) / luma.size < FAST_PX:
            return found
        return FlowPair(self._dense.calc(before, luma, None), before, since_s, found.time_s)  # type: ignore[call-overload]

    def _earlier(self, pair: FlowPair) -> tuple[float, np.ndarray | None]:
        """The frame that lies about as long before the pair as the pair is long, and its time; -inf and None without one."""
        until_s = pair.since_s - min(pair.elapsed_s, PAIR_S) + 1e-6
        return next((one for one in reversed(self._recent) if one[0] <= until_s), (-np.inf, None))

    def _long_ago(self, pair: FlowPair) -> np.ndarray | None:
        """The frame farthest back, if that is farther than the pair is long: what has not moved since is drawn on the picture."""
        time_s, luma = self._recent[0]
        return luma if pair.since_s - time_s > 1.5 * PAIR_S else None


def measure(
    pair: FlowPair, after: np.ndarray, earlier: np.ndarray | None = None, long_ago: np.ndarray | None = None
) -> Pair:
    """A pair, its second picture uint8 (h, w), and if there are any one from before the pair and one from longer ago -> Pair."""
    flow = motion_field(pair.flow, pair.before, after, earlier, long_ago)
    left, top, right, bottom = bars(pair.before) or (0, 0, 0, 0)
    return speed_of(flow[top : flow.shape[0] - bottom, left : flow.shape[1] - right], pair.elapsed_s, flow.shape[1])


def motion_field(
    dense: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    earlier: np.ndarray | None,
    long_ago: np.ndarray | None = None,
) -> np.ndarray:
    """Dense flow from before to after -> flow float32 (h, w, 2) in px: the ground's but where things move."""
    ground = Ground(before)
    values, misfit = ground.motion(dense, after)
    flow, stabilised = affine_flow(values, *before.shape), moved_back(after, values)
    other = stabilised if earlier is None else _stabilised(ground, values, misfit, before, earlier)
    three = (before, other, stabilised)
    if values.any():
        return _with_things(flow, dense, three)
    slope = steepness(before)
    letters = written(*three, slope)
    if not letters.any():
        return _with_things(flow, dense, three, True, slope, long_ago)
    found = _with_things(flow, dense, without(letters, *three), True, None, long_ago)
    found[letters > 0] = 0
    return found


def _with_things(
    flow: np.ndarray,
    dense: np.ndarray,
    three: Sequence[np.ndarray],
    at_rest: bool = False,
    slope: np.ndarray | None = None,
    long_ago: np.ndarray | None = None,
) -> np.ndarray:
    """The ground's flow with that of the things put in. three: the picture, and those before and after with its ground."""
    luma, before, after = three
    mask = thing_mask(luma, before, after, at_rest, slope)
    if cv2.countNonZero(mask.view(np.uint8)) < LEAST_THINGS * mask.size:
        return flow
    own, mask = thing_flow(luma, before, after, mask, long_ago)
    own = cv2.add(own, flow)
    across = cv2.extractChannel(own, 0)
    known = cv2.compare(across, across, cv2.CMP_EQ)  # elsewhere it is NaN
    return cv2.copyTo(own, known, cv2.copyTo(dense, mask.view(np.uint8), flow))


def _stabilised(
    ground: Ground, values: np.ndarray, misfit: float, before: np.ndarray, earlier: np.ndarray
) -> np.ndarray:
    """The earlier picture, moved so that the ground lies as in the one before: where steady motion leads to, or dense flow."""
    back = ground.motion_near(-values, earlier, misfit)
    if back is None:
        dense = _rough_flow().calc(before, earlier, None)  # type: ignore[call-overload]
        back, _ = ground.motion(dense, earlier)
    return moved_back(earlier, back)


@lru_cache(maxsize=1)
def _rough_flow() -> cv2.DISOpticalFlow:
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


def speed_of(flow: np.ndarray, elapsed_s: float, width: int) -> Pair:
    """Flow (h, w, 2) in px over elapsed_s of a picture that is `width` px wide -> Pair."""
    dx, dy = cv2.split(flow)
    size = length(dx, dy)
    moving = (size >= DEAD_WIDTHS * width).astype(np.float32)
    rate = 1 / (width * elapsed_s)
    share = rate / size.size
    return Pair(
        float(np.vdot(size, moving)) * share,
        float(cv2.countNonZero((size * rate >= MOVING).view(np.uint8))) / size.size,
        float(np.vdot(dx, moving)) * share,
        float(np.vdot(dy, moving)) * share,
    )


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """motion: % of the frame width per second; motion_px_s: px of the upright source per second; an image has none."""
    steps = [record.values for record in records]
    measured = [r for r in records if r.values.pair is not None and r.values.pair_since_s >= clip.start_s - 1e-6]
    # Two pictures do not tell what moves from what it covers: the pair that begins a clip counts only if it is the only one.
    measured = [r for r in measured if r.values.earlier_s >= clip.start_s - 1e-6] or measured
    pairs = [r.values.pair for r in measured]
    share = shares([(r.values.pair_since_s + r.time_s) / 2 for r in measured], clip)
    speed = mean_of(share, [pair.speed for pair in pairs])
    return {
        "motion": None if speed is None else 100 * speed,
        "motion_px_s": None if speed is None else clip.width * speed,
        "moving_area": mean_of(share, [pair.area for pair in pairs]),
        "jitter": jitter(pairs),
        "jumps": max((step.jump for step in steps), default=None),
        "still_frames": mean([float(step.still) for step in steps]),
    }


def shares(times_s: Sequence[float], clip: Clip) -> np.ndarray:
    """Of the clip's time those parts that are nearest to each of the times, in order; pairs are closer where motion changes."""
    times = np.array(times_s)
    edges = np.concatenate([[clip.start_s], (times[1:] + times[:-1]) / 2, [clip.end_s]]) if len(times) else np.zeros(1)
    return np.diff(edges) / max(edges[-1] - edges[0], 1e-9)


def mean_of(share: np.ndarray, values: Sequence[float]) -> float | None:
    return float(share @ np.array(values)) if len(values) else None


def jitter(pairs: Sequence[Pair]) -> float | None:
    """Share of the motion that changes between neighbouring pairs: 0 steady .. 1 reversed every time."""
    if len(pairs) < 2:
        return None
    velocity = np.array([(pair.dx, pair.dy) for pair in pairs])
    changed = np.linalg.norm(np.diff(velocity, axis=0), axis=1).sum()
    total = np.linalg.norm(velocity[1:], axis=1).sum() + np.linalg.norm(velocity[:-1], axis=1).sum()
    return float(changed / total) if total > 1e-9 else 0.0


SIGNAL = Signal({name: pa.float64() for name in COLUMNS}, 9, "pass", Watch, summary, small=True, kinds=(Step, Pair))
