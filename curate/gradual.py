"""Gradual transitions, from small luma pictures.

A fade sinks evenly into a blank picture (black, white) or rises out of one. In a dissolve the frames are mixes, in
rising shares, of the picture before and the picture after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLANK = 4.0  # standard deviation of a 32 x 18 luma below which a picture is blank
FOOT = 0.4  # contrast at which even the last of a fade is gone
MIN_FRAMES = 4
MAX_FADE_S = 2.0
FALL = 0.985  # a fading picture has at most this share of the contrast that it had a frame before
RISE_NEEDED = 10.0  # contrast at the bright end of a fade
FADE_ALIKE = 0.8
MERGE_FRAMES = 4  # a fade out and a fade in with no more blank frames between are one transition
DISSOLVE_HALVES = (4, 6, 8, 12, 16, 20)  # frames; half the lengths that are tried
MIN_DIFFERENCE = 15.0  # root mean square grey levels between the two pictures of a dissolve
MIN_CHANGE = 0.3  # 1 - correlation between them
MAX_RESIDUE = 0.14  # of the frames within, from the mix of the two pictures, relative to their difference


class Gradual(NamedTuple):
    """Frames first .. end - 1 are mixed: first belongs to no shot any more, end is the first of the new one."""

    first: int
    end: int
    kind: str
    confidence: float


def fades(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """(N, 18, 32) float32 luma, seconds (N,) -> fades out, fades in, and both as one where they meet."""
    contrast = thumbs.reshape(len(thumbs), -1).std(axis=1)
    blank = contrast < BLANK
    found: list[Gradual] = []
    for i in range(1, len(blank)):
        if blank[i] and not blank[i - 1]:
            top, foot = _top(contrast, times, i, -1), _foot(contrast, i, 1)
            found += _fade(thumbs, contrast, top + 1, foot, top)
        if blank[i - 1] and not blank[i]:
            top, foot = _top(contrast, times, i - 1, 1), _foot(contrast, i - 1, -1)
            found += _fade(thumbs, contrast, foot, top, top)
    return _joined(found)


def _fade(thumbs: np.ndarray, contrast: np.ndarray, first: int, end: int, top: int) -> list[Gradual]:
    """One, if it is long and bright enough and halfway up shows the picture of its top, only paler."""
    if end - first < MIN_FRAMES or contrast[top] < RISE_NEEDED:
        return []
    alike = 1 - _unlike(thumbs[(first + end) // 2], thumbs[top])
    return [Gradual(first, end, "fade", 0.95)] if alike >= FADE_ALIKE else []


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


def _joined(found: Sequence[Gradual]) -> list[Gradual]:
    out: list[Gradual] = []
    for one in sorted(found):
        if out and one.first - out[-1].end <= MERGE_FRAMES:
            out[-1] = out[-1]._replace(end=max(out[-1].end, one.end))
        else:
            out.append(one)
    return out


def dissolves(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """(N, 18, 32) float32 luma, seconds (N,) -> stretches that mix their two ends, none overlapping.

    Every part of a dissolve is one, too: of those that overlap, the one with the most different ends stays.
    """
    flat = thumbs.reshape(len(thumbs), -1)
    found: list[tuple[float, Gradual]] = []
    for half in DISSOLVE_HALVES:
        if len(flat) <= 2 * half:
            break
        for k, residue, size in _mixes(flat, half):
            one = Gradual(k + 1, k + 2 * half, "dissolve", round(1 - residue, 3))
            found.append((size * (1 - 3 * residue), one))
    kept: list[Gradual] = []
    for _, one in sorted(found, key=lambda pair: (-pair[0], pair[1])):
        if not any(one.first <= other.end and other.first <= one.end for other in kept):
            kept.append(one)
    return sorted(kept)


def _mixes(flat: np.ndarray, half: int) -> list[tuple[int, float, float]]:
    """(N, P) -> (k, residue, difference of the ends) where frames within k .. k + 2 half are mixes of those two.

    The residue is the distance of the worst of the frames at 1/4, 1/2, 3/4, relative to the difference of the ends.
    """
    length = 2 * half
    before, after = flat[:-length], flat[length:]
    apart = after - before
    size = np.sqrt(np.einsum("np,np->n", apart, apart) / flat.shape[1])
    centre = (before + after) / 2 - flat[half : half + len(before)]
    rough = np.sqrt(np.einsum("np,np->n", centre, centre) / flat.shape[1]) / np.maximum(size, 1e-6)
    starts = np.flatnonzero((size >= MIN_DIFFERENCE) & (rough < MAX_RESIDUE))
    found = []
    for k in starts:
        residue = max(_distance(flat, int(k), length, share) for share in (0.25, 0.5, 0.75)) / float(size[k])
        if residue < MAX_RESIDUE and _unlike(before[k], after[k]) >= MIN_CHANGE:
            found.append((int(k), residue, float(size[k])))
    return found


def _distance(flat: np.ndarray, k: int, length: int, share: float) -> float:
    mix = flat[k] + share * (flat[k + length] - flat[k])
    return float(np.sqrt(np.mean((flat[k + round(length * share)] - mix) ** 2)))


def _unlike(before: np.ndarray, after: np.ndarray) -> float:
    a, b = before - before.mean(), after - after.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return 1 - float((a * b).sum()) / size if size > 0 else 0.0
