"""Which pairs of clips are worth comparing: never all of them, and in bounded memory.

By hashes: two clips with frames that differ in at most BANDS * 2 - 1 bits share one band of bits but for one bit, and
meet in a sort. By vectors: pairs above a cosine inside k-means cells and their neighbours.

Clips are rows 0..N-1 here. Pairs are int64 (M, 2), first < second, sorted, unique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from curate.hashes import BITS, is_blank

BANDS = 3  # 64 bits in bands of 22, 21, 21 bits: frames that differ in up to 5 bits are always found
MOST_PER_BUCKET = 32  # of clips that share a band, only so many of the best are offered to all others
EXACT_BELOW = 8_192  # vectors; fewer are compared all with all, in blocks
BLOCK = 2_048  # rows of one block of cosines: at most 2048 x 8192 float32 = 64 MB
MOST_WAITING = 4_000_000  # found cosines held before they are thinned out: about 80 MB
NEIGHBOURS = 4  # cells in which a vector is looked for: its own and the next nearest


def by_hash(hashes: np.ndarray, rows: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Hashes uint64 (H,) of the clips rows (H,), rank (N,) with 0 for the best clip -> pairs (M, 2).

    In a bucket of many clips (one title card in thousands of videos) everyone meets the MOST_PER_BUCKET best, which is
    what finding a keeper needs, and not everyone.
    """
    known = ~is_blank(hashes)
    # Best clips first: the front of each bucket then is what is kept of a crowded one.
    order = np.argsort(rank[rows[known]], kind="stable")
    values, owners = hashes[known][order], rows[known][order]
    found = [_meeting(keys, probes, owners) for keys, probes in _band_keys(values)]
    return _unique(np.concatenate(found)) if found else np.zeros((0, 2), np.int64)


def by_cosine(vectors: np.ndarray, least: float, most: int = 16, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 (N, D) -> pairs (M, 2) of cosine >= least, at most `most` (the nearest) per vector.

    Exact up to EXACT_BELOW vectors. Beyond, a pair is missed if each of its vectors is outside the NEIGHBOURS nearest
    cells of the other: `benchmarks/dedup.py` reports how many are.
    """
    count = len(vectors)
    if count < 2:
        return np.zeros((0, 2), np.int64)
    nearest = Nearest(most)
    for queries, members in _blocks(vectors, seed):
        nearest.offer(queries, members, vectors[queries] @ vectors[members].T, least)
    return nearest.pairs()


class Nearest:
    """The `most` best partners of each row, kept while blocks of cosines stream by."""

    def __init__(self, most: int) -> None:
        self.most, self.waiting = most, 0
        self.rows: list[np.ndarray] = []  # with partners and values: arrays that `_settle` joins
        self.partners: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def offer(self, queries: np.ndarray, members: np.ndarray, cosines: np.ndarray, least: float) -> None:
        """Rows (Q,), (M,), cosines float32 (Q, M). The same member may be offered to a row once only."""
        above = cosines >= least
        count = above.sum(1)
        crowded = np.flatnonzero(count > self.most + 1)  # one more: a row may meet itself
        if len(crowded):
            few = np.argpartition(-cosines[crowded], self.most, axis=1)[:, : self.most + 1]
            above[crowded] = False
            above[crowded[:, None], few] = True
        row, place = np.nonzero(above)
        other = queries[row] != members[place]
        row, place = row[other], place[other]
        self.rows.append(queries[row])
        self.partners.append(members[place])
        self.values.append(cosines[row, place])
        self.waiting += len(row)
        if self.waiting > MOST_WAITING:
            self._settle()

    def pairs(self) -> np.ndarray:
        if not self.rows:
            return np.zeros((0, 2), np.int64)
        self._settle()
        return _unique(np.stack([self.rows[0], self.partners[0]], axis=1))

    def _settle(self) -> None:
        """Join what came since, and keep the best of each row; ties by the partner's number."""
        row, partner, value = (np.concatenate(one) for one in (self.rows, self.partners, self.values))
        order = np.lexsort((partner, -value, row))
        row, partner, value = row[order], partner[order], value[order]
        starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        place = np.arange(len(row)) - np.repeat(starts, np.diff(np.r_[starts, len(row)]))
        kept = place < self.most
        self.rows, self.partners, self.values = [row[kept]], [partner[kept]], [value[kept]]
        self.waiting = 0


def _blocks(vectors: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(query rows, member rows) to be compared; each ordered pair of rows comes at most once."""
    everyone = np.arange(len(vectors))
    if len(vectors) <= EXACT_BELOW:
        for start in range(0, len(vectors), BLOCK):
            yield everyone[start : start + BLOCK], everyone
        return
    cells = _cells(vectors, seed)
    homes, near = _by_cell(cells[:, :1]), _by_cell(cells)
    for cell in range(int(cells.max()) + 1):
        members, queries = homes(cell), near(cell)
        for at in range(0, len(members), EXACT_BELOW):
            for start in range(0, len(queries), BLOCK):
                yield queries[start : start + BLOCK], members[at : at + EXACT_BELOW]


def _by_cell(cells: np.ndarray) -> Callable[[int], np.ndarray]:
    """Cells (N, K), different ones in a row -> a function that gives the rows of a cell in order, without looking through all."""
    order = np.argsort(cells, axis=None, kind="stable")
    edges = np.searchsorted(cells.ravel()[order], np.arange(int(cells.max()) + 2))
    return lambda cell: order[edges[cell] : edges[cell + 1]] // cells.shape[1]


def _cells(vectors: np.ndarray, seed: int) -> np.ndarray:
    """float32 (N, D) -> the NEIGHBOURS nearest of the cells, nearest first, int64 (N, NEIGHBOURS)."""
    from sklearn.cluster import MiniBatchKMeans

    # A vector meets all centres, and N / cells vectors in each of NEIGHBOURS cells: least work at 2 sqrt(N) cells.
    count = max(NEIGHBOURS, round(2 * len(vectors) ** 0.5))
    sample = np.random.default_rng([seed, len(vectors)]).permutation(len(vectors))[: 64 * count]
    settled: dict[str, Any] = {"init": "random", "n_init": 1, "batch_size": 8_192, "max_iter": 5}
    model = MiniBatchKMeans(count, random_state=seed, **settled)
    fitted: Any = model.fit(vectors[np.sort(sample)])
    centres = fitted.cluster_centers_.astype(np.float32)
    lengths = (centres**2).sum(1)
    nearest = []
    for start in range(0, len(vectors), BLOCK):
        far = lengths[None, :] - 2 * (vectors[start : start + BLOCK] @ centres.T)
        few = np.argpartition(far, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        order = np.argsort(np.take_along_axis(far, few, 1), axis=1, kind="stable")
        nearest.append(np.take_along_axis(few, order, 1))
    return np.concatenate(nearest)


def _band_keys(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Hashes uint64 (H,) -> for each band and each of its bits (and none): keys, and keys with that bit flipped."""
    edges = np.linspace(0, BITS, BANDS + 1).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        keys = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        yield keys, keys
        for bit in range(high - low):
            yield keys, keys ^ np.uint64(1 << bit)


def _meeting(keys: np.ndarray, probes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """keys, probes, owners (H,), best owner first -> pairs of owners where a probe equals a key, int64 (M, 2)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    start, end = np.searchsorted(ordered, probes, "left"), np.searchsorted(ordered, probes, "right")
    reach = np.minimum(end - start, MOST_PER_BUCKET)
    first = np.repeat(np.arange(len(probes)), reach)
    place = np.arange(len(first)) - np.repeat(np.cumsum(reach) - reach, reach) + np.repeat(start, reach)
    pairs = np.stack([owners[first], owners[order[place]]], axis=1)
    return _unique(pairs[pairs[:, 0] != pairs[:, 1]])


def _unique(pairs: np.ndarray) -> np.ndarray:
    return np.unique(np.sort(pairs.astype(np.int64), axis=1), axis=0)
