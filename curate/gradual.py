"""Gradual transitions, from small luma pictures.

A fade sinks evenly into a blank picture (black, white) or rises out of one. In a dissolve the frames are mixes, in
rising shares, of the picture before and the picture after it. Both are told from motion by how well a mix explains the
frames: a thing that leaves, or a camera that pans, shows what neither of the two ends shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLANK = 4.0  # standard deviation of a 32 x 18 luma below which a picture is blank
DARK, BRIGHT = 30.0, 225.0  # mean luma of a blank picture that needs no closer look: an empty grey wall does
FOOT = 0.4  # contrast at which even the last of a fade is gone
MIN_FRAMES = 4  # mixed frames of a fade, both slopes and the blank between them together
MAX_FADE_S = 2.0
FALL = 0.985  # a fading picture has at most this share of the contrast that it had a frame before
RISE_NEEDED = 10.0  # contrast at the bright end of a fade
FADE_ALIKE, FADE_ALIKE_GREY = 0.6, 0.95
MERGE_FRAMES = 4  # a fade out and a fade in with no more blank frames between are one transition
SAME_PICTURE = 0.85  # correlation of the pictures around a dip of light from which on it is a flash

COARSE = (8, 5)  # columns, rows: what moves a little within a shot moves less than one of these
DISSOLVE_FRAMES = (4, 6, 8, 10, 12, 16, 20, 24, 30, 36, 46)  # from the last pure frame to the first pure one
SHARES = (0.25, 0.375, 0.5, 0.625, 0.75)  # of a window, where frames are compared with the mix of its ends
MIN_DIFFERENCE = 15.0  # root mean square grey levels between the two pictures of a dissolve
MIN_CHANGE = 0.3  # 1 - correlation between them
# On labelled and spliced films the frames of a dissolve differ from a mix by at most 0.17 (half of them) and 0.27 (the
# worst) of the difference of its ends, and their shares from a straight line by 0.09; both at the coarse size.
MAX_RESIDUE, MAX_WORST, MAX_BENT = 0.17, 0.28, 0.1
# A pan looks like a mix at the coarse size, too; but its fine residue is 0.28 or more (dissolves: up to 0.25), and the
# pictures on both of its sides change at 1.05 times its own rate or more (dissolves: one side at 0.64 or less).
MAX_FINE, MAX_AROUND = 0.26, 0.8
AROUND_FRAMES = 8
MAYBE_FINE, MAYBE_AROUND = 0.5, 1.4


class Gradual(NamedTuple):
    """Frames first .. end - 1 are mixed: first belongs to no shot any more, end is the first of the new one."""

    first: int
    end: int
    kind: str
    confidence: float


# --------------------------------------------------------------------------------------------------------------- fades


class Slope(NamedTuple):
    """Frames first .. end - 1 between full light and blank; top: the frame in full light; down: whether it sinks."""

    first: int
    end: int
    top: int
    down: bool


def fades(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """(N, 18, 32) float32 luma, seconds (N,) -> fades out, fades in, and both as one where they meet."""
    contrast = thumbs.reshape(len(thumbs), -1).std(axis=1)
    blank = contrast < BLANK
    slopes: list[Slope] = []
    for i in range(1, len(blank)):
        if blank[i] and not blank[i - 1]:
            top, foot = _top(contrast, times, i, -1), _foot(contrast, i, 1)
            slopes += _slope(thumbs, contrast, Slope(top + 1, foot, top, True), i)
        if blank[i - 1] and not blank[i]:
            top, foot = _top(contrast, times, i - 1, 1), _foot(contrast, i - 1, -1)
            slopes += _slope(thumbs, contrast, Slope(foot, top, top, False), i - 1)
    return [one for one in _joined(thumbs, slopes) if one.end - one.first >= MIN_FRAMES]


def _slope(thumbs: np.ndarray, contrast: np.ndarray, slope: Slope, blank: int) -> list[Slope]:
    """The slope, if it has a mixed frame, is bright enough and halfway up shows the picture of its top, only paler."""
    mixed = (slope.first, blank - 1) if slope.down else (blank + 1, slope.end - 1)
    if mixed[1] < mixed[0] or contrast[slope.top] < RISE_NEEDED:
        return []
    plain = DARK < thumbs[blank].mean() < BRIGHT
    alike = 1 - _unlike(thumbs[(mixed[0] + mixed[1]) // 2], thumbs[slope.top])
    return [slope] if alike >= (FADE_ALIKE_GREY if plain else FADE_ALIKE) else []


def _top(contrast: np.ndarray, times: np.ndarray, blank: int, step: int) -> int:
    """Walk from a blank frame up the slope of contrast: the first frame in full light."""
    i = blank
    while 0 <= i + step < len(contrast) and abs(times[i + step] - times[blank]) <= MAX_FADE_S:
        if not _rises(contrast, i, step) and not _rises(contrast, i, 2 * step):
            break
        i += step
    return i


def _rises(contrast: np.ndarray, i: int, step: int) -> bool:
    return 0 <= i + step < len(contrast) and contrast[i] <= FALL ** abs(step) * contrast[i + step]


def _foot(contrast: np.ndarray, blank: int, step: int) -> int:
    """From the edge of a blank stretch into it, to where nothing of the picture is left."""
    i = blank
    while 0 <= i + step < len(contrast) and contrast[i] > FOOT and contrast[i + step] < contrast[i]:
        i += step
    return i


def _joined(thumbs: np.ndarray, slopes: Sequence[Slope]) -> list[Gradual]:
    """Slopes as transitions; down and up with next to nothing between are one, and none if the picture comes back."""
    out: list[Gradual] = []
    rest = sorted(slopes)
    while rest:
        one = rest.pop(0)
        if one.down and rest and not rest[0].down and rest[0].first - one.end <= MERGE_FRAMES:
            other = rest.pop(0)
            if 1 - _unlike(thumbs[one.top], thumbs[other.top]) < SAME_PICTURE:
                out.append(Gradual(one.first, other.end, "fade", 0.95))
        elif one.end - one.first >= MIN_FRAMES:
            out.append(Gradual(one.first, one.end, "fade", 0.9))
    return out


# ----------------------------------------------------------------------------------------------------------- dissolves


def dissolves(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """(N, 18, 32) float32 luma, seconds (N,) -> stretches that mix their two ends, none overlapping.

    Every part of a dissolve is one, too: of those that overlap, the one with the most different ends stays.
    """
    flat, detail = _coarse(thumbs), Detail(thumbs)
    found: list[tuple[float, int, int, float]] = []
    for length in DISSOLVE_FRAMES:
        if len(flat) <= length:
            break
        mixes = _mixes(flat, length)
        standing = detail.stand_out([k for k, _, _ in mixes], length)
        found += [(size * (1 - 3 * residue), k, k + length, residue)
                  for (k, size, residue), out in zip(mixes, standing, strict=True) if out]  # fmt: skip
    kept: list[Gradual] = []
    for _, k, end, residue in sorted(found, key=lambda one: (-one[0], one[1], one[2])):
        first, end = _ends(flat, k, end)
        if end > first and not any(first <= other.end and other.first <= end for other in kept):
            kept.append(Gradual(first, end, "dissolve", round(1 - residue, 3)))
    return sorted(kept)


def maybe_dissolves(thumbs: np.ndarray) -> list[tuple[int, int]]:
    """(N, 18, 32) float32 luma -> [first, end) of mixes that stand out little, overlapping ones too."""
    flat, detail, found = _coarse(thumbs), Detail(thumbs), []
    for length in DISSOLVE_FRAMES[2::2]:
        starts = [k for k, _, _ in _mixes(flat, length)] if len(flat) > length else []
        standing = detail.stand_out(starts, length, (MAYBE_FINE, MAYBE_AROUND))
        found += [(k, k + length) for k, out in zip(starts, standing, strict=True) if out]
    return found


class Detail:
    """The pictures (N, 18, 32) float32 in full, for a look at those stretches that are mixes at the coarse size."""

    def __init__(self, thumbs: np.ndarray):
        self._fine = thumbs.reshape(len(thumbs), -1)

    def stand_out(self, starts: Sequence[int], length: int,
                  limits: tuple[float, float] = (MAX_FINE, MAX_AROUND)) -> np.ndarray:  # fmt: skip
        """bool (n,): whether k .. k + length leads to another picture, is a mix in detail too, and has a calmer stretch
        beside it."""
        if not starts:
            return np.zeros(0, bool)
        k = np.array(starts)
        end, reach = k + length, max(2, min(length // 2, AROUND_FRAMES))
        unlike = 1 - np.einsum("np,np->n", self._form(k), self._form(end))
        rate = self._rate(k, end)
        calm = np.minimum(self._rate(np.maximum(0, k - reach), k),
                          self._rate(end, np.minimum(len(self._fine) - 1, end + reach)))  # fmt: skip
        out = (unlike >= MIN_CHANGE) & (calm <= limits[1] * rate)
        out[out] = self._residue(k[out], length) <= limits[0]
        return out

    def _form(self, k: np.ndarray) -> np.ndarray:
        """(n, 576): pictures without their brightness and contrast, of unit length."""
        form = self._fine[k] - self._fine[k].mean(axis=1, keepdims=True)
        return form / np.maximum(np.linalg.norm(form, axis=1, keepdims=True), 1e-6)

    def _rate(self, k: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(n,): root mean square change per frame from k to end; infinite where that is no stretch."""
        apart = self._fine[end] - self._fine[k]
        change = np.sqrt(np.einsum("np,np->n", apart, apart) / apart.shape[1])
        return np.where(end > k, change / np.maximum(end - k, 1), np.inf)

    def _residue(self, k: np.ndarray, length: int) -> np.ndarray:
        """(n,): median distance of the frames inside to the line between the ends, relative to its length."""
        apart = self._fine[k + length] - self._fine[k]
        size = np.linalg.norm(apart, axis=1)
        there = np.stack([self._fine[k + round(length * share)] - self._fine[k] for share in SHARES])
        off = there - (np.einsum("snp,np->sn", there, apart) / size**2)[..., None] * apart
        return np.median(np.linalg.norm(off, axis=2), axis=0) / size


def _coarse(thumbs: np.ndarray) -> np.ndarray:
    """(N, 18, 32) float32 -> (N, 40) at the size at which small motion does not show."""
    columns, rows = (_means(size, count) for size, count in zip(thumbs.shape[:0:-1], COARSE, strict=True))
    return (rows @ thumbs @ columns.T).reshape(len(thumbs), -1)


@lru_cache(maxsize=4)
def _means(size: int, count: int) -> np.ndarray:
    """float32 (count, size): means over equal shares of a row of px."""
    edges = np.linspace(0, size, count + 1)
    px = np.arange(size)
    inside = np.minimum(edges[1:, None], px + 1) - np.maximum(edges[:-1, None], px)
    return (np.clip(inside, 0, 1) * count / size).astype(np.float32)


def _mixes(flat: np.ndarray, length: int) -> list[tuple[int, float, float]]:
    """(N, P) -> (k, difference of the ends, residue) where frames k .. k + length are mixes of the two outermost.

    residue: distance of the middle one of the frames that are looked at to the line between the ends, relative to the
    ends' difference.
    """
    before, after = flat[:-length], flat[length:]
    apart = after - before
    size = np.sqrt(np.einsum("np,np->n", apart, apart) / flat.shape[1])
    starts = np.flatnonzero(size >= MIN_DIFFERENCE)
    before, apart, size = before[starts], apart[starts], size[starts]
    steps = sorted({round(length * share) for share in SHARES})
    there = np.stack([flat[starts + step] - before for step in steps])  # (S, n, P)
    share = np.einsum("snp,np->sn", there, apart) / (flat.shape[1] * size**2)
    off = there - share[..., None] * apart
    residues = np.sqrt(np.einsum("snp,snp->sn", off, off) / flat.shape[1]) / size
    bent = np.abs(share - np.array(steps)[:, None] / length).max(axis=0)
    residue = np.median(residues, axis=0)
    good = (residue <= MAX_RESIDUE) & (residues.max(axis=0) <= MAX_WORST) & (bent <= MAX_BENT)
    return [(int(starts[j]), float(size[j]), float(residue[j])) for j in np.flatnonzero(good)]


def _ends(flat: np.ndarray, k: int, end: int) -> tuple[int, int]:
    """First mixed frame and the one after the last, from the straight line through the middle shares of k .. end."""
    apart = flat[end] - flat[k]
    at = np.arange(k, end + 1)
    share = (flat[k : end + 1] - flat[k]) @ apart / (apart @ apart)
    inner = (share > 0.15) & (share < 0.85)
    if inner.sum() < 2:
        return k + 1, end
    x, y = at[inner], share[inner]
    x_mean, y_mean = x.mean(), y.mean()
    slope = (x - x_mean) @ (y - y_mean) / ((x - x_mean) @ (x - x_mean))  # of least squares
    if slope <= 0:
        return k + 1, end
    first, last = x_mean - y_mean / slope, x_mean + (1 - y_mean) / slope
    return max(k + 1 - (end - k) // 4, round(first + 1)), min(end + (end - k) // 4, round(last))


def _unlike(before: np.ndarray, after: np.ndarray) -> float:
    a, b = before - before.mean(), after - after.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 1 - float((a * b).sum()) / size if size > 0 else 0.0
