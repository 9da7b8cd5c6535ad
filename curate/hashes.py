"""Perceptual hashes of frames: 64 bits that stay nearly the same when a picture is re-encoded, rescaled or brightened.

A bit says whether one of the 64 lowest cosine coefficients of the luma (the mean left out) is above their median. The
cosines are integrated over the area of each pixel, so the size of the picture does not matter; offset and gain of the
brightness cancel; black bars are cut off first, so letterboxing does not matter. Exactly 32 bits of a hash are set.
A frame without structure (black, a flat wall, fog) has the hash BLANK, which no other frame can have, and which
matches nothing.

The idea is that of pHash and of PDQ (github.com/facebook/ThreatExchange, hashing.pdf); bits and numbers are our own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

HASH_VERSION = 1  # part of the fingerprint of the table `hashes`: raise it when the bits of any frame change
BITS = 64
BLANK = 0
# Root mean square of the low-frequency picture, in grey levels, below which bits are noise: H.264 at crf 23-35 changes
# each coefficient of a flat frame by up to ~0.3 grey levels, which has to stay far below the whole.
MIN_STRUCTURE = 2.0
# A line of a black bar: dark (16 is video black, the rest is room for brightening) and flat but for coding noise.
BAR_LEVEL = 28.0
BAR_FLATNESS = 3.0
BAR_REACH = 0.4  # share of the side that a bar may cover; beyond it a dark picture is a dark picture


def frame_hash(luma: np.ndarray) -> int:
    """uint8 (h, w), any size >= 1 px -> 64-bit hash, an int in [0, 2**64); BLANK (0) where there is no structure.

    Raises ValueError for another shape or type.
    """
    if luma.ndim != 2 or luma.dtype != np.uint8 or luma.size == 0:
        raise ValueError(f"luma must be uint8 (h, w) and not empty, got {luma.dtype} {luma.shape}")
    coefficients = _coefficients(luma[active_area(luma)])
    if float(np.sqrt(np.sum(coefficients**2))) < MIN_STRUCTURE:
        return BLANK
    order = np.argsort(coefficients, kind="stable")
    bits = np.zeros(BITS, dtype=np.uint8)
    bits[order[BITS // 2 :]] = 1
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def active_area(luma: np.ndarray) -> tuple[slice, slice]:
    """uint8 (h, w) -> rows and columns inside the black bars; all of it where there are none."""
    rows = _inside(luma)
    return rows, _inside(luma[rows].T)


def frame_hashes(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, h, w) -> uint64 (T,)."""
    return np.array([frame_hash(frame) for frame in frames], dtype=np.uint64)


def distance(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """Hamming distance in bits (uint8, 0..64) of uint64 arrays that broadcast against each other."""
    return np.bitwise_count(np.bitwise_xor(np.asarray(a, dtype=np.uint64), np.asarray(b, dtype=np.uint64)))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """uint64 (N,), uint64 (M,) -> uint8 (N, M); a BLANK is 64 bits away from everything, itself included."""
    table = distance(np.asarray(a, dtype=np.uint64)[:, None], np.asarray(b, dtype=np.uint64)[None, :])
    table[is_blank(a)] = BITS
    table[:, is_blank(b)] = BITS
    return table


def is_blank(hashes: np.ndarray) -> np.ndarray:
    """uint64 (...) -> bool (...): frames without structure."""
    return np.asarray(hashes, dtype=np.uint64) == BLANK


def _inside(lines: np.ndarray) -> slice:
    """uint8 (n, m) -> the lines between the first and the last that belong to no bar."""
    count = len(lines)
    reach = int(count * BAR_REACH)
    first, last = _bars(lines[:reach]), _bars(lines[::-1][:reach])
    return slice(0, count) if reach in (first, last) else slice(first, count - last)


def _bars(lines: np.ndarray) -> int:
    """uint8 (n, m) -> how many of the first lines are dark and flat. Most pictures have none: one line is looked at."""
    if not len(lines) or not _are_bars(lines[:1])[0]:
        return 0
    flat = _are_bars(np.ascontiguousarray(lines))
    return len(lines) if flat.all() else int(np.argmin(flat))


def _are_bars(lines: np.ndarray) -> np.ndarray:
    """uint8 (n, m) -> bool (n,), in whole numbers: mean <= BAR_LEVEL and standard deviation <= BAR_FLATNESS."""
    width, wide = lines.shape[1], lines.astype(np.int64)
    total, squares = wide.sum(axis=1), np.einsum("nm,nm->n", wide, wide)
    return (total <= BAR_LEVEL * width) & (width * squares - total**2 <= (BAR_FLATNESS * width) ** 2)


def _coefficients(luma: np.ndarray) -> np.ndarray:
    """uint8 (h, w) -> float64 (64,): orthonormal cosine coefficients in grey levels, lowest frequency first."""
    rows, columns = _frequencies()
    reach = int(max(rows.max(), columns.max())) + 1
    vertical, horizontal = _basis(luma.shape[0], reach), _basis(luma.shape[1], reach)
    table = vertical @ luma.astype(np.float64) @ horizontal.T
    return np.round(table[rows, columns], 6)  # exact ties (symmetric pictures) stay ties on every machine


@lru_cache(maxsize=64)
def _basis(size: int, reach: int) -> np.ndarray:
    """float64 (reach, size): sqrt(2) cos(pi k y), integrated over each of `size` pixels of [0, 1]; row 0 averages."""
    edges = np.linspace(0.0, 1.0, size + 1)
    k = np.arange(1, reach)[:, None]
    waves = np.sqrt(2.0) * np.diff(np.sin(np.pi * k * edges), axis=1) / (np.pi * k)
    basis = np.concatenate([np.full((1, size), 1.0 / size), waves])
    basis.flags.writeable = False
    return basis


@lru_cache(maxsize=1)
def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the 64 lowest frequencies by radius, ties by row; the mean (0, 0) is left out."""
    pairs = sorted(((i, j) for i in range(12) for j in range(12)), key=lambda ij: (ij[0] ** 2 + ij[1] ** 2, ij[0]))
    chosen = np.array(pairs[1 : BITS + 1])
    return chosen[:, 0], chosen[:, 1]
