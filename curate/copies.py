"""Copies: clips that show what another clip shows. The best of them is kept, the others name it.

A pair is proposed by its frame hashes or by its vectors (`candidates`), and judged
  by time: the rows of hashes agree at one shift in time and at no other - which says all for clips that change;
  by picture: the proxies shown at the same time agree under one crop (`registration`) - which also judges clips that
  hardly change, where two takes from one tripod are alike in every hash and yet two clips;
  by meaning: a learned embedding puts them nearer than `embed.same`. The built-in descriptor only proposes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import candidates, embed, keeper
from curate.alignment import Alignment, align, on_grid
from curate.hashes import BITS

COPIES_VERSION = 3  # part of the fingerprint of the table `concepts`

SCHEMA = pa.schema([("clip_id", pa.string()), ("duplicate_of", pa.string()), ("similarity", pa.float64())])

PROPOSE_BELOW_SAME = 0.12  # a pair this much below `same` may still be a crop: the pictures decide
# By time. Of 1.6 thousand pairs of different real clips that change, none came below 20 bits; copies (JPEG 15, half
# size, brightness, 5 % off each side, trimmed, started 0.33 s later) stay below 16.
CHANGING = 6.0  # bits of contrast from which a clip is said to change
SURE_BITS, SURE_FRAMES = 12.0, 4
FIRM_BITS, FIRM_FRAMES, FIRM_CONTRAST = 16.0, 8, 10.0
EQUAL_BITS, EQUAL_FRAMES = 2.0, 2  # of a short overlap, half of the shorter clip at least, all but equal
WORTH_BITS = 26.0  # above this the pictures are not looked at, unless the vectors propose the pair
# By picture, for clips that change and for clips that don't.
CHANGING_PICTURE = {"correlation": 0.75, "changed": 0.15, "covered": 0.2}
STILL_PICTURE = {"correlation": 0.85, "changed": 0.04, "covered": 0.15}
SINGLE_PICTURE = {"correlation": 0.85, "changed": 0.0, "covered": 0.08}  # of one frame a logo and a change look alike
STILL_BITS = 2.0  # without pictures at hand a still clip is a copy only if its hashes are all but equal
SAME_TIME_S = 0.13  # proxies this near in time show the same: half of the hashes' step
HELD_CLIPS = 20_000  # clips whose pictures are in memory at once: 32 kB each

Proxies = Callable[[], Iterable[pa.Table]]  # every part of the table `proxies`, from the start, at each call


class Clip(NamedTuple):
    """What judging needs of a clip: its hashes on the 4/s grid, the times of its proxies from its first hash, in s."""

    clip_id: str
    hashes: np.ndarray
    start_s: float


class Match(NamedTuple):
    """first, second: rows; similarity in [0, 1]."""

    first: int
    second: int
    similarity: float


def find_copies(
    clips: pa.Table,
    hashes: pa.Table,
    embeddings: pa.Table,
    settings: pipelines.Embed,
    scores: pa.Table | None = None,
    proxies: Proxies | None = None,
) -> pa.Table:
    """-> (clip_id, duplicate_of, similarity), a row for every clip of status ok, sorted by clip_id.

    clips: clip_id, media, status, width, height; shot_start_s, shot_end_s where known. hashes: clip_id, times_s, hashes.
    embeddings: clip_id, vector.
    scores: clip_id with any of those that `keeper.octaves` knows: they say which of several copies is kept.
    proxies: clip_id, times_s, jpegs, read part by part once or more often; without it only clips that change are
    compared well. duplicate_of is a keeper, which is no duplicate itself, and its judged match (no chains); similarity
    is the cosine or the share of equal hash bits, whichever is larger. Videos and images are never each other's copies.
    """
    clips = clips.filter(pc.equal(clips["status"], "ok")).sort_by("clip_id")
    ids = clips["clip_id"].to_pylist()
    rows = _hash_rows(ids, hashes)
    worth = keeper.octaves(clips, scores, np.array([len(row.hashes) for row in rows], float))
    _, vectors = embed.matrix(embeddings, ids) if ids else ([], np.zeros((0, 1), np.float32))
    pairs = _proposed(rows, vectors, keeper.places(worth), clips["media"].to_pylist(), settings)
    matches = list(_matches(pairs, rows, vectors, settings, proxies))
    worth -= keeper.clearly_worse(clips, scores, [match[:2] for match in matches])
    return _table(ids, keepers(keeper.places(worth), matches))


def keepers(rank: np.ndarray, matches: Iterable[Match]) -> Mapping[int, tuple[int, float]]:
    """Ranks (N,), 0 the best; matches -> {dropped row: (keeper row, similarity)}.

    The best clip first, each is kept unless it matches a clip already kept; then it is that one's (the most similar's).
    """
    partners: dict[int, list[tuple[int, float]]] = {}
    for first, second, similarity in matches:
        partners.setdefault(first, []).append((second, similarity))
        partners.setdefault(second, []).append((first, similarity))
    dropped: dict[int, tuple[int, float]] = {}
    for row in sorted(partners, key=lambda r: rank[r]):
        better = [(p, s) for p, s in partners[row] if rank[p] < rank[row] and p not in dropped]
        if better:
            dropped[row] = min(better, key=lambda ps: (-ps[1], rank[ps[0]]))
    return dropped


def _hash_rows(ids: list[str], hashes: pa.Table) -> list[Clip]:
    """In the order of ids; a clip without hashes has an empty row, and only its vector proposes it."""
    row_of = {clip_id: row for row, clip_id in enumerate(ids)}
    clips = [Clip(clip_id, np.zeros(0, np.uint64), 0.0) for clip_id in ids]
    for clip_id, times, row in zip(hashes["clip_id"].to_pylist(), hashes["times_s"], hashes["hashes"], strict=True):
        if clip_id in row_of and len(row):
            stamps = np.asarray(times.values.to_numpy(zero_copy_only=False), float)
            values = np.asarray(row.values.to_numpy(zero_copy_only=False), np.uint64)
            clips[row_of[clip_id]] = Clip(clip_id, on_grid(stamps, values), float(stamps[0]))
    return clips


def _proposed(
    rows: list[Clip], vectors: np.ndarray, rank: np.ndarray, media: list[str], settings: pipelines.Embed
) -> np.ndarray:
    """-> pairs of rows, int64 (M, 2), of one medium."""
    owners = np.repeat(np.arange(len(rows)), [len(row.hashes) for row in rows])
    every = np.concatenate([row.hashes for row in rows]) if rows else np.zeros(0, np.uint64)
    # A still clip has one hash many times over: once is enough to be met.
    once = np.unique(np.stack([owners.astype(np.uint64), every]), axis=1)
    near = candidates.by_hash(once[1], once[0].astype(np.int64), rank)
    alike = candidates.by_cosine(vectors, max(0.0, embed.same(settings) - PROPOSE_BELOW_SAME))
    pairs = np.unique(np.concatenate([near, alike]), axis=0)
    kinds = np.array(media, dtype=object)
    return pairs[kinds[pairs[:, 0]] == kinds[pairs[:, 1]]] if len(pairs) else pairs


def _matches(
    pairs: np.ndarray, rows: list[Clip], vectors: np.ndarray, settings: pipelines.Embed, proxies: Proxies | None
) -> Iterator[Match]:
    learned, same = settings.model != "descriptor", embed.same(settings)
    unsure: list[tuple[int, int, Alignment, float]] = []
    for first, second in pairs.tolist():
        cosine = float(vectors[first] @ vectors[second])
        found = align(rows[first].hashes, rows[second].hashes)
        similarity = _similarity(cosine, found)
        if (learned and cosine >= same) or (found and _sure(found)):
            yield Match(first, second, similarity)
        elif found and (found.bits <= WORTH_BITS or cosine >= same - PROPOSE_BELOW_SAME):
            if proxies is not None:
                unsure.append((first, second, found, similarity))
            elif found.bits <= STILL_BITS:
                yield Match(first, second, similarity)
    if proxies is not None:
        yield from _by_picture(unsure, rows, proxies)


def _sure(found: Alignment) -> bool:
    """Clips that change, and change alike."""
    if found.contrast >= CHANGING and found.bits <= SURE_BITS and found.frames >= SURE_FRAMES:
        return True
    if found.contrast >= FIRM_CONTRAST and found.bits <= EQUAL_BITS and found.frames >= EQUAL_FRAMES:
        return True
    return found.contrast >= FIRM_CONTRAST and found.bits <= FIRM_BITS and found.frames >= FIRM_FRAMES


def _similarity(cosine: float, found: Alignment | None) -> float:
    return float(np.clip(max(cosine, 1.0 - found.bits / BITS if found else 0.0), 0.0, 1.0))


def _by_picture(unsure: list[tuple[int, int, Alignment, float]], rows: list[Clip], proxies: Proxies) -> Iterator[Match]:
    for group in _groups(unsure):
        wanted = {rows[row].clip_id for pair in group for row in pair[:2]}
        pictures = _pictures(wanted, proxies)
        for first, second, found, similarity in group:
            a, b = rows[first], rows[second]
            if a.clip_id in pictures and b.clip_id in pictures and _same_picture(a, b, found, pictures):
                yield Match(first, second, similarity)


def _groups(unsure: list[tuple[int, int, Alignment, float]]) -> Iterator[list[tuple[int, int, Alignment, float]]]:
    """Runs of pairs that touch at most HELD_CLIPS clips."""
    group: list[tuple[int, int, Alignment, float]] = []
    touched: set[int] = set()
    for pair in unsure:
        if len(touched | {pair[0], pair[1]}) > HELD_CLIPS:
            yield group
            group, touched = [], set()
        group.append(pair)
        touched |= {pair[0], pair[1]}
    if group:
        yield group


def _pictures(wanted: set[str], proxies: Proxies) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """clip_id -> (times in s, canvases) of the wanted clips, in one sweep over the parts."""
    from curate import registration
    from curate.pictures import decode_jpegs

    held: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
    for part in proxies():
        chosen = part.filter(pc.is_in(part["clip_id"], value_set=pa.array(sorted(wanted), pa.string())))
        for clip_id, times, jpegs in zip(
            chosen["clip_id"].to_pylist(), chosen["times_s"].to_pylist(), chosen["jpegs"], strict=True
        ):
            frames = [registration.canvas(rgb) for rgb in decode_jpegs(jpegs.as_py())]
            held[clip_id] = (np.asarray(times, float), frames)
    return held


def _same_picture(a: Clip, b: Clip, found: Alignment, pictures: Mapping[str, tuple[np.ndarray, list]]) -> bool:
    from curate import registration

    (times_a, frames_a), (times_b, frames_b) = pictures[a.clip_id], pictures[b.clip_id]
    pairs = shown_together(times_a - a.start_s, times_b - b.start_s + found.shift_s)
    if not pairs:
        return False
    judged = registration.register([frames_a[i] for i, _ in pairs], [frames_b[j] for _, j in pairs])
    changing = found.contrast >= CHANGING and found.frames >= SURE_FRAMES
    bound = SINGLE_PICTURE if len(pairs) == 1 else CHANGING_PICTURE if changing else STILL_PICTURE
    return (
        judged.correlation >= bound["correlation"]
        and judged.changed <= bound["changed"]
        and judged.covered <= bound["covered"]
    )


def shown_together(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Times in s (n,), (m,) of one clock -> pairs (i, j) within SAME_TIME_S of each other, each i and j once."""
    gaps = np.abs(a[:, None] - b[None, :])
    order = np.dstack(np.unravel_index(np.argsort(gaps, axis=None, kind="stable"), gaps.shape))[0]
    used: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j in order.tolist():
        if gaps[i, j] <= SAME_TIME_S and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((i, j))
    return sorted(pairs)


def _table(ids: list[str], dropped: Mapping[int, tuple[int, float]]) -> pa.Table:
    kept = [ids[dropped[row][0]] if row in dropped else None for row in range(len(ids))]
    similarity = [dropped[row][1] if row in dropped else None for row in range(len(ids))]
    return pa.table({"clip_id": ids, "duplicate_of": kept, "similarity": similarity}, schema=SCHEMA)
