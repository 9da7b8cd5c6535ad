"""Gradual transitions, from small luma pictures: fades (into or out of a blank picture) and dissolves (one picture into another)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLANK = 4.0  # standard deviation of a 32 x 18 luma below which a picture is blank
MIN_FRAMES = 4
MAX_FADE_S = 2.0
FALL = 0.985  # a fading picture has at most this share of the contrast that it had a frame before
RISE_NEEDED = 20.0  # contrast at the bright end of a fade
DISSOLVE_HALVES = (4, 6, 8, 12, 16, 20)  # frames; half the lengths that are tried
MIN_DIFFERENCE = 18.0  # mean grey levels between the two pictures of a dissolve
MIN_CHANGE = 0.35  # 1 - correlation between them
MAX_RESIDUE = 0.16  # of the frames within, from the mix of the two pictures, relative to their difference


class Gradual(NamedTuple):
    """Frames first .. end - 1 are mixed: first belongs to no shot any more, end is the first of the new one."""

    first: int
    end: int
    kind: str
    confidence: float


def fades(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """(N, 18, 32) float32 luma, seconds (N,) -> fades out and fades in."""
    contrast = thumbs.reshape(len(thumbs), -1).std(axis=1)
    blank = contrast < BLANK
    found: list[Gradual] = []
    for i in range(1, len(blank)):
        if blank[i] and not blank[i - 1]:
            first = _slope(contrast, times, i, -1)
            found += _fade(contrast, first, i, first)
        if blank[i - 1] and not blank[i]:
            last = _slope(contrast, times, i - 1, 1)
            found += _fade(contrast, i, last, last)
    return found


def _fade(contrast: np.ndarray, first: int, end: int, bright: int) -> list[Gradual]:
    if end - first < MIN_FRAMES or contrast[min(bright, len(contrast) - 1)] < RISE_NEEDED:
        return []
    return [Gradual(first, end, "fade", 0.9)]


def _slope(contrast: np.ndarray, times: np.ndarray, blank: int, step: int) -> int:
    """Walk from a blank frame up the slope of contrast; returns the first frame beyond which it no longer rises."""
    i = blank
    while 0 <= i + step < len(contrast) and abs(times[i + step] - times[blank]) <= MAX_FADE_S:
        if contrast[i] > FALL * contrast[i + step]:
            ahead = i + 2 * step
            if not (0 <= ahead < len(contrast) and contrast[i] <= FALL * contrast[ahead]):
                break
        i += step
    return i


def dissolves(thumbs: np.ndarray, times: np.ndarray) -> list[Gradual]:
    """Frames that are mixes, in rising shares, of the picture before and the picture after. Same shapes as `fades`."""
    found: list[Gradual] = []
    for half in DISSOLVE_HALVES:
        for middle in range(half, len(thumbs) - half):
            residue = _residue(thumbs, middle, half)
            if residue is not None and residue < MAX_RESIDUE:
                found.append(Gradual(middle - half + 1, middle + half, "dissolve", round(float(1 - residue), 3)))
    return found


def _residue(thumbs: np.ndarray, middle: int, half: int) -> float | None:
    """Root mean square distance of the frames within from the straight mix of the ends, relative to the ends' difference."""
    before, after = thumbs[middle - half], thumbs[middle + half]
    apart = after - before
    if np.abs(apart).mean() < MIN_DIFFERENCE or _unlike(before, after) < MIN_CHANGE:
        return None
    shares = (0.25, 0.5, 0.75)
    size = float(np.sqrt((apart**2).mean()))
    worst = 0.0
    for share in shares:
        within = thumbs[middle - half + round(2 * half * share)]
        worst = max(worst, float(np.sqrt(((within - (before + share * apart)) ** 2).mean())) / size)
    return worst


def _unlike(before: np.ndarray, after: np.ndarray) -> float:
    a, b = before - before.mean(), after - after.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float(1 - (a * b).sum() / size) if size > 0 else 0.0
