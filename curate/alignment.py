"""Two clips as rows of frame hashes: at which shift in time do they show the same, and how nearly?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curate import hashes

STEP_S = 0.25  # hashes are sampled four times per second
MIN_OVERLAP = 0.5  # share of the shorter clip that must be seen in the other one
SLACK_BITS = 1.0  # shifts this near to the best one are as good; of them the one with the most frames is meant
APART = 4  # steps; frames further apart in time than this tell whether the clip changes at all


class Alignment(NamedTuple):
    """bits: mean distance of the frames shown at the same time, 0..64; contrast: how many bits more the frames shown at
    other times differ (0 for a static clip); shift_s: time in a = time in b + shift_s, both from their clip's start;
    frames: how many pairs were compared."""

    bits: float
    contrast: float
    shift_s: float
    frames: int


def on_grid(times_s: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Times in s (n,), hashes uint64 (n,) -> hashes uint64 (m,): the nearest sample of every STEP_S from the first."""
    if len(times_s) <= 1:
        return row
    since = np.asarray(times_s, dtype=np.float64) - times_s[0]
    grid = np.arange(round(float(since[-1]) / STEP_S) + 1) * STEP_S
    right = np.clip(np.searchsorted(since, grid), 1, len(since) - 1)
    nearest = right - (grid - since[right - 1] <= since[right] - grid)
    return row[nearest]


def align(a: np.ndarray, b: np.ndarray) -> Alignment | None:
    """Hashes on the grid, uint64 (n,), uint64 (m,) -> the best alignment, None where blank frames leave too little.

    At least half of the shorter clip must overlap, and half of the overlap must have structure.
    """
    valid = ~(hashes.is_blank(a)[:, None] | hashes.is_blank(b)[None, :])
    if not valid.any():
        return None
    table = hashes.distances(a, b).astype(np.float64)
    diagonal = np.arange(len(a))[:, None] - np.arange(len(b))[None, :] + len(b) - 1
    size = len(a) + len(b) - 1
    pairs = np.bincount(diagonal.ravel(), minlength=size)
    seen = np.bincount(diagonal.ravel(), weights=valid.ravel().astype(float), minlength=size)
    total = np.bincount(diagonal.ravel(), weights=(table * valid).ravel(), minlength=size)
    enough = (pairs >= MIN_OVERLAP * min(len(a), len(b))) & (seen >= 0.5 * pairs) & (seen > 0)
    if not enough.any():
        return None
    bits = np.where(enough, total / np.maximum(seen, 1), np.inf)
    close = bits <= bits.min() + SLACK_BITS
    best = int(np.lexsort((np.abs(np.arange(size) - (len(b) - 1)), -seen * close, ~close))[0])
    return Alignment(float(bits[best]), _contrast(table, valid, diagonal, best, float(bits[best])),
                     (best - (len(b) - 1)) * STEP_S, int(seen[best]))  # fmt: skip


def _contrast(table: np.ndarray, valid: np.ndarray, diagonal: np.ndarray, best: int, bits: float) -> float:
    far = valid & (np.abs(diagonal - best) >= APART)
    return float(table[far].mean() - bits) if far.any() else 0.0
