"""In which order an epoch goes through samples: a pure function of where they lie, their weights and the seed.

Shards are permuted and taken in windows, samples are permuted inside a window: a reader holds a window of shards at a
time, whatever the size of the cache. It is the rule of the trainer's plan, for one view.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 8  # shards that are shuffled together
KEPT_WINDOWS = 4  # an epoch is read in one of them and fetched ahead in another
GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill [0, 1) evenly

Ints = NDArray[np.int64]


class Pool(NamedTuple):
    """The samples of a bucket that an epoch draws from: rows (N,) of its index, shards (N,) they lie in, weights (N,)
    mean draws per epoch; batch: samples that are read together."""

    bucket: str
    batch: int
    rows: Ints
    shards: Ints
    weights: NDArray[np.float64]


class Step(NamedTuple):
    """One batch: rows of a bucket's index, in this order, and the shards they lie in."""

    bucket: str
    rows: tuple[int, ...]
    shards: tuple[int, ...]


class Steps(Sequence[Step]):
    """The batches of an epoch, each made when it is asked for: step i is batch numbers[i] of pool which[i]."""

    def __init__(self, pools: Sequence[Pool], orders: Sequence[Order], which: Ints, numbers: Ints):
        self._pools, self._orders, self._which, self._numbers = pools, orders, which, numbers

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, at: int) -> Step: ...
    @overload
    def __getitem__(self, at: slice) -> Steps: ...
    def __getitem__(self, at: int | slice) -> Step | Steps:
        if isinstance(at, slice):
            return Steps(self._pools, self._orders, self._which[at], self._numbers[at])
        which, number = int(self._which[at]), int(self._numbers[at])
        pool = self._pools[which]
        chosen = self._orders[which][number * pool.batch : (number + 1) * pool.batch]
        shards = sorted(set(pool.shards[chosen].tolist()))
        return Step(pool.bucket, tuple(pool.rows[chosen].tolist()), tuple(shards))


def steps(pools: Sequence[Pool], seed: int, epoch: int, window: int = WINDOW_SHARDS) -> Steps:
    """The batches of an epoch; a weight w is drawn floor(w) or ceil(w) times, a pool's last batch may be smaller."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch])))
    first = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**64]))).random()
    counts = draws(np.concatenate([pool.weights for pool in pools]), (first + epoch * GOLDEN) % 1.0)
    parts = np.split(counts, np.cumsum([len(pool.rows) for pool in pools])[:-1])
    orders = [Order(pool.shards, part, generator, window) for pool, part in zip(pools, parts)]
    of_pool = [-(-len(one) // pool.batch) for one, pool in zip(orders, pools)]
    return Steps(pools, orders, *spread(of_pool, generator))


def draws(weights: NDArray[np.float64], offset: float) -> Ints:
    """Systematic resampling: how often each sample of mean `weights` (N,) is drawn, floor(w) or ceil(w) times (N,);
    their sum is floor or ceil of the weights' sum. offset in [0, 1). Whole parts are set aside, so they are exact."""
    whole = np.floor(weights)
    if not (weights != whole).any():
        return whole.astype(np.int64)
    edges = np.floor(np.cumsum(weights - whole) + offset).astype(np.int64)
    return whole.astype(np.int64) + np.diff(edges, prepend=0)


class Order:
    """Positions (draws,) among the samples: shards in random order, samples shuffled within a window of them. A window
    is sorted when one of its positions is asked for, so that a million samples do not wait for each other."""

    def __init__(self, shards: Ints, counts: Ints, generator: np.random.Generator, window: int):
        firsts = _firsts(shards)
        self._windows = generator.permutation(len(firsts) - 1) // window  # of each shard
        edges = np.concatenate([[0], np.cumsum(counts)])[firsts]
        self._starts, self._stops = edges[:-1], edges[1:]
        sizes = np.bincount(self._windows, weights=self._stops - self._starts).astype(np.int64)
        self._edges: list[int] = [0, *np.cumsum(sizes).tolist()]
        self._positions = np.repeat(np.arange(len(counts)), counts)
        self._random = generator.random(len(self._positions))
        self._sorted: OrderedDict[int, Ints] = OrderedDict()

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, cut: slice) -> Ints:
        start, stop, _ = cut.indices(len(self))
        first, last = (bisect_right(self._edges, at) - 1 for at in (start, stop - 1))
        if first == last and start < stop:
            return self._window(first)[start - self._edges[first] : stop - self._edges[first]]
        parts = [self._window(at) for at in range(first, last + 1)] if start < stop else []
        return np.concatenate(parts)[start - self._edges[first] :][: stop - start] if parts else np.zeros(0, np.int64)

    def _window(self, at: int) -> Ints:
        if at not in self._sorted:
            shards = np.flatnonzero(self._windows == at)
            mine = np.concatenate([np.arange(self._starts[one], self._stops[one]) for one in shards])
            self._sorted[at] = self._positions[mine[np.argsort(at + self._random[mine], kind="stable")]]
            while len(self._sorted) > KEPT_WINDOWS:
                self._sorted.popitem(last=False)
        return self._sorted[at]


def _firsts(shards: Ints) -> Ints:
    """Where each shard starts, and where the last one ends. Raises ValueError unless shards ascend."""
    steps = np.diff(shards)
    if len(shards) and steps.min(initial=0) < 0:
        raise ValueError("samples must be given shard by shard")
    return np.concatenate([[0], np.flatnonzero(steps) + 1, [len(shards)]]) if len(shards) else np.zeros(1, np.int64)


def spread(counts: Sequence[int], generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Pools (steps,) and which of their batches (steps,): batch j of a pool's n falls at a random time in
    [j/n, (j+1)/n), so every bucket is spread over the whole epoch."""
    times = np.concatenate([(np.arange(n) + generator.random(n)) / max(n, 1) for n in counts])
    pools = np.repeat(np.arange(len(counts)), counts)
    batches = np.concatenate([np.arange(n) for n in counts])
    chosen = np.argsort(times, kind="stable")
    return pools[chosen], batches[chosen]
