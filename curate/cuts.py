"""Which of the proposed boundaries are real: the pictures around a proposal decide.

A hard cut is a jump that stands out from its neighbours, leads to another picture, and does not come back at once (that
is a flash). Every decision looks at the frames around it and at nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from curate.gradual import Gradual, dissolves, fades, maybe_dissolves

THUMB = (32, 18)  # columns, rows of the luma that pictures are compared by

# Found on the labelled footage: true cuts have a content score of 23-81 at 2.3 or more times their neighbours' mean and
# 1 - correlation of 0.32 or more (or a blank side); the nearest others have 27.2 at 1.4 times, and 31.3 at 4.7 times
# with 0.04 (the start of a fade).
MIN_RATIO = 2.0
MIN_CHANGE = 0.2
BLANK_STD = 6.0
BAR = 3.0  # grey levels
STILL = 0.5
# A jump cut within one setting changes little of the picture: on spliced films what is left of the change, brightness
# and contrast taken out, is 14 grey levels or more and 3.7 or more times that of the frames around; elsewhere up to 4.3
# levels, or (in motion) up to 1.3 times.
JUMP_CONTENT, JUMP_RATIO, JUMP_LEVELS, JUMP_STANDS_OUT = 9.0, 5.0, 10.0, 3.0
JUMP_FRAMES = 3
FLASH_S = 0.4
FLASH_ALIKE = 0.85
FLASH_NEAR = 20.0  # grey levels


class Look(NamedTuple):
    """What shots are found by, of one frame. content: mean HSV change to the frame before (0 for the first);
    votes: detectors that propose a cut here; thumb: float32 (18, 32) luma; forced: `resize` or `gap`."""

    pts: int
    time_s: float
    content: float
    votes: set[str]  # may still grow
    thumb: np.ndarray
    forced: str | None
    small: np.ndarray | None = None  # RGB uint8 (27, 48, 3), where a network is to be asked


class Boundary(NamedTuple):
    """The old shot ends before frame `last`, the new one begins with frame `first` (equal for a hard cut)."""

    last: int
    first: int
    kind: str  # cut | fade | dissolve | resize
    confidence: float


def boundaries(looks: Sequence[Look]) -> list[Boundary]:
    """Boundaries among consecutive frames, indices into `looks`, in order and not overlapping."""
    thumbs = np.stack([look.thumb for look in looks])
    times = np.array([look.time_s for look in looks])
    forced = [i for i, look in enumerate(looks) if look.forced and i]
    hard = [i for i, look in enumerate(looks) if i and not look.forced and look.votes and _is_cut(looks, i)]
    cuts = [(i, _confidence(looks, i)) for i in hard if not _is_flash(thumbs, times, i)]
    plain = thumbs.reshape(len(thumbs), -1).std(axis=1) < BLANK_STD
    jumps = [i for i, look in enumerate(looks) if i and look.content >= JUMP_CONTENT and not (plain[i] or plain[i - 1])]
    jumps = [i for i in jumps if i not in hard and not looks[i].forced and _is_jump(looks, i)]
    cuts = sorted(cuts + [(i, _confidence(looks, i)) for i in jumps if not _comes_back(thumbs, times, i)])
    gradual = _clear([*fades(thumbs, times), *dissolves(thumbs, times)], [i for i, _ in cuts] + forced)
    out = [Boundary(i, i, "resize" if looks[i].forced == "resize" else "cut", 1.0) for i in forced]
    out += [Boundary(g.first, g.end, g.kind, g.confidence) for g in gradual]
    out += [Boundary(i, i, "cut", sure) for i, sure in cuts if not any(g.first - 1 <= i <= g.end + 1 for g in gradual)]
    return sorted(out)


def unlike_mixes(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """[first, end) of what might be dissolves, those that `boundaries` takes for motion among them."""
    return maybe_dissolves(np.stack([look.thumb for look in looks]))


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


def _is_jump(looks: Sequence[Look], i: int) -> bool:
    """Whether frame i goes on in the same setting at another time: a small change, but of form, and sudden."""
    around = _neighbours(looks, i)
    if not around or looks[i].content < JUMP_RATIO * max(sum(around) / len(around), STILL):
        return False
    levels = _levels(looks[i - 1].thumb, looks[i].thumb)
    near = [k for k in range(max(1, i - JUMP_FRAMES), min(len(looks), i + JUMP_FRAMES + 1)) if k != i]
    others = [_levels(looks[k - 1].thumb, looks[k].thumb) for k in near]
    return levels >= JUMP_LEVELS and levels >= JUMP_STANDS_OUT * max(others)


def _levels(before: np.ndarray, after: np.ndarray) -> float:
    """Root mean square grey levels of the change that another brightness and contrast does not explain."""
    before, after = _without_bars(before, after)
    a, b = before - before.mean(), after - after.mean()
    gain = float((a * b).sum()) / max(float((a * a).sum()), 1e-6)
    return float(np.sqrt(np.mean((b - gain * a) ** 2)))


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


def _is_flash(thumbs: np.ndarray, times: np.ndarray, i: int) -> bool:
    """Whether the picture before frame i is back soon after it, or the picture of i was there just before it."""
    before, after = _around(times, i)
    return _returns(thumbs, i - 1, after) or _returns(thumbs, i, before)


def _comes_back(thumbs: np.ndarray, times: np.ndarray, i: int) -> bool:
    """The same of a small change: whether frames on the two sides are less than half as far apart as it is large."""
    before, after = _around(times, i)
    size = np.abs(thumbs[i] - thumbs[i - 1]).mean()
    pairs = [(i - 1, k) for k in after] + [(i, k) for k in before]
    return any(np.abs(thumbs[a] - thumbs[b]).mean() < size / 2 for a, b in pairs)


def _around(times: np.ndarray, i: int) -> tuple[range, range]:
    """Frames before i - 1, and after i, within FLASH_S of it."""
    first = int(np.searchsorted(times, times[i] - FLASH_S))
    last = int(np.searchsorted(times, times[i] + FLASH_S, side="right"))
    return range(first, i - 1), range(i + 1, last)


def _returns(thumbs: np.ndarray, i: int, others: range) -> bool:
    """Whether the picture i is seen again, and well lit, among others."""
    if not others or thumbs[i].std() < BLANK_STD:
        return False
    there = thumbs[others.start : others.stop]
    near = np.abs(there - thumbs[i]).mean(axis=(1, 2)) < FLASH_NEAR
    return any(1 - change(thumbs[i], one) >= FLASH_ALIKE for one in there[near])
