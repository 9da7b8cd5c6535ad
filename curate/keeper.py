"""Which of several copies is kept: the one that holds most of what was filmed, clean before marked.

A copy's worth is counted in octaves, each twice as much as the one below, so that gains and losses of different kinds add up:
the bits of its pictures (`signals.detail`) times the seconds of its take, less what lies over the scene. What the file spends
decides between equals. Blur and coarse coding cost bits already, so a measured quality is heard only where it differs
by more than what a reduction alone does to it: of one scene, quality at proxy size prefers the smaller copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

SCORES = ("detail", "technical", "quality", "borders", "overlay", "text")
# To halve the size of generated films cost 1.0 to 5.1 octaves of detail, and moved `technical` by -0.44 to +0.15; a tenth off the
# sides moved it by 0.05, another encoder by 0.07.
QUALITY_MARGIN = 0.2
QUALITY_OCTAVES = 6.0  # for all of quality beyond the margin: 0.17 of it outweigh half the px
MARKED_OCTAVES = 0.5  # for a mark or a bar of any size: it costs a training set more than the px below it
COVERED_OCTAVES = 5.0  # for a picture all covered by marks or text
SPENT_OCTAVES = 0.1  # for twice the bits per second
EFFICIENCY = {
    "hevc": 1.6,
    "vp9": 1.6,
    "av1": 2.0,
    "mpeg2video": 0.5,
    "mpeg4": 0.7,
}  # bits of H.264 that one of theirs is worth


def octaves(clips: pa.Table, scores: pa.Table | None, hashes: np.ndarray) -> np.ndarray:
    """float (N,): the worth of each clip. What is not known of a clip is neither for nor against it.

    clips: clip_id, width, height, and shot_start_s, shot_end_s where known, else hashes (N,), frames on a grid in time, tell
    lengths. scores: clip_id with any of SCORES, of pixels (inside the crop) and of spent (bits per second, see `spent`).
    """
    ids = clips["clip_id"].to_pylist()
    overlay, text, borders = (np.nan_to_num(column(ids, scores, name)) for name in ("overlay", "text", "borders"))
    covered = np.clip(overlay + text, 0, 1)
    return (
        _bits(clips, scores)
        + np.log2(np.maximum(_seconds(clips, hashes), 1e-3))
        + SPENT_OCTAVES * _or_median(np.log2(np.maximum(column(ids, scores, "spent"), 1.0)))
        - MARKED_OCTAVES * ((overlay > 0) | (borders > 0))
        - COVERED_OCTAVES * covered
    )


def places(worth: np.ndarray) -> np.ndarray:
    """int64 (N,): 0 for the clip that would be kept before all others; of equal ones the first."""
    order = np.lexsort((np.arange(len(worth)), -worth))
    found = np.empty(len(worth), np.int64)
    found[order] = np.arange(len(worth))
    return found


def clearly_worse(clips: pa.Table, scores: pa.Table | None, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """float (N,), octaves to take off: by how much a clip's quality stays behind the best of those it is connected to by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = clips["clip_id"].to_pylist()
    quality = _first_known(column(ids, scores, "technical"), column(ids, scores, "quality"))
    if not pairs or np.isnan(quality).all():
        return np.zeros(len(ids))
    first, second = np.array(pairs).T
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(ids), len(ids)))
    _, group = connected_components(links, directed=False)
    best = np.full(len(ids), -np.inf)
    np.fmax.at(best, group, quality)
    behind = np.nan_to_num(best[group] - quality - QUALITY_MARGIN)
    return QUALITY_OCTAVES * np.maximum(behind, 0.0)


def spent(codec: str | None, file_bytes: int, duration_s: float | None) -> float:
    """Bits per second of a video, of an image in all, in those of H.264: codecs differ in what they need for one picture."""
    return 8.0 * file_bytes * EFFICIENCY.get(codec or "", 1.0) / (duration_s or 1.0)


def column(ids: list[str], scores: pa.Table | None, name: str) -> np.ndarray:
    """float (N,), NaN where unknown."""
    if scores is None or name not in scores.column_names:
        return np.full(len(ids), np.nan)
    values = dict(zip(scores["clip_id"].to_pylist(), scores[name].to_pylist(), strict=True))
    return np.array([np.nan if values.get(clip_id) is None else values[clip_id] for clip_id in ids], float)


def _bits(clips: pa.Table, scores: pa.Table | None) -> np.ndarray:
    """Octaves of detail; where it was not measured what is usual for so many px, inside the borders: bars hold nothing."""
    ids = clips["clip_id"].to_pylist()
    whole = np.array(clips["width"].to_pylist(), float) * np.array(clips["height"].to_pylist(), float)
    px = np.log2(np.maximum(_first_known(column(ids, scores, "pixels"), whole), 1.0))
    return px + _or_median(np.log2(column(ids, scores, "detail") + 1.0) - px)


def _seconds(clips: pa.Table, hashes: np.ndarray) -> np.ndarray:
    """Lengths of the shots that clips are of: a clip's own depends on its sharpest frame. 1 for images."""
    if "shot_end_s" not in clips.column_names:
        return np.maximum(hashes, 1.0)
    start, end = (np.array(clips[name].to_pylist(), float) for name in ("shot_start_s", "shot_end_s"))
    return np.where(end > start, end - start, 1.0)


def _first_known(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(one), other, one)


def _or_median(values: np.ndarray) -> np.ndarray:
    """NaN replaced by the median of what is known; 0 where nothing is."""
    there = values[~np.isnan(values)]
    return np.where(np.isnan(values), np.median(there) if len(there) else 0.0, values)
