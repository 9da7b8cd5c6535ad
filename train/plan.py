"""Which samples are trained on, in which order: a pure function of the index, the weights and the seed.

A *feed* (set x view) has one *pool* of samples per bucket. One *epoch* of a feed goes through its pools once: a sample
of weight w is drawn floor(w) or ceil(w) times. Feeds turn their epochs over independently of each other, because a
small feed with a large share comes round more often; so a run has no epoch of its own, only steps. Step s is slots
[s M, (s + 1) M) of the run, M = micro_batches; a slot belongs to a feed (by the shares) and takes the next micro-batch
of that feed's epochs 0, 1, 2, ... Every rank derives the same list; the step's number is the whole position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 8  # shards that are shuffled together; a reader holds about two such windows of each bucket
GOLDEN = 0.6180339887498949  # successive multiples of it, modulo 1, fill [0, 1) evenly
ALIKE_SAMPLES = 1024  # neighbours in an epoch that are put together by length of text (benchmarks.plan)
ALIKE_BATCHES = 32  # at least as many micro-batches of them
KEPT_EPOCHS = 2  # per feed: the one at hand and its neighbour

Ints = NDArray[np.int64]
# (feed, epoch, occurrence, clip, start tick, tokens of each caption variant) -> tokens of the text that the draw is given
TextOf = Callable[[int, int, int, str, int, Ints], int]


class Pool(NamedTuple):
    """The samples of one feed in one bucket, in index order.

    batch: samples per micro-batch; cost: FLOPs of one sample (any unit); rows (N,) of the bucket's index; shards (N,)
    they lie in; clips (N,) ids as bytes; ticks (N,) start ticks; weights (N,) >= 0, mean draws per epoch; texts: tokens
    of each sample's caption variants, None if nobody knows.
    """

    bucket: str
    batch: int
    cost: float
    rows: Ints
    shards: Ints
    clips: NDArray[np.bytes_]
    ticks: Ints
    weights: NDArray[np.float64]
    texts: Texts | None = None


class Texts(NamedTuple):
    """Sample i has captions of tokens[ends[i] : ends[i + 1]]."""

    tokens: Ints
    ends: Ints


class MicroBatch(NamedTuple):
    """Samples of one bucket. (feed, epoch, occurrence, clip, tick) names a draw; occurrences count within the epoch."""

    feed: int
    bucket: str
    epoch: int
    rows: tuple[int, ...]
    occurrences: tuple[int, ...]
    clips: tuple[str, ...]
    ticks: tuple[int, ...]
    shards: tuple[int, ...]
    cost: float


class Epoch(NamedTuple):
    """One pass of a feed: micro-batch i is draws [start, stop) of pool `pools[i]`, in that pool's order."""

    pools: Ints
    starts: Ints
    positions: tuple[Ints, ...]
    occurrences: tuple[Ints, ...]


def samples_per_batch(tokens: int, bucket_tokens: int) -> int:
    """Batch size of a bucket: as many samples as the budget holds, and one of those that exceed it alone."""
    return max(1, tokens // bucket_tokens)


class Plan:
    """feeds: the pools of each feed; shares: of the micro-batches, per feed; mix as in pipelines.Stage; text_of: how
    long a draw's text is; samples of similar ones then share a micro-batch.

    Raises ValueError for a feed without draws, and for mix `every_step` when the shares do not divide a step.
    """

    def __init__(
        self, feeds: Sequence[Sequence[Pool]], shares: Sequence[float], micro_batches: int, seed: int,
        mix: str = "share", window: int = WINDOW_SHARDS, text_of: TextOf | None = None,
    ) -> None:  # fmt: skip
        for index, pools in enumerate(feeds):
            if not sum(float(pool.weights.sum()) for pool in pools) > 0:
                raise ValueError(f"feed {index} has no samples of a weight above 0")
        self.feeds, self.micro_batches, self.seed, self.window = feeds, micro_batches, seed, window
        self.shares = np.array(shares, dtype=np.float64) / sum(shares)
        self.per_step = counts_per_step(shares, micro_batches) if mix == "every_step" else None
        self._ends: list[list[int]] = [[] for _ in feeds]  # micro-batches of a feed up to the end of epoch e
        self._epochs: dict[tuple[int, int], Epoch] = {}
        self._text_of = text_of
        self._sorted: dict[tuple[int, int, int, int], Ints] = {}

    def step(self, index: int) -> tuple[MicroBatch, ...]:
        """The micro-batches of step `index` (from 0), in order."""
        if self.per_step is None:
            feeds, ordinals = slots(self.shares, index * self.micro_batches, self.micro_batches)
        else:
            feeds = np.repeat(np.arange(len(self.per_step)), self.per_step)
            ordinals = np.concatenate([index * n + np.arange(n) for n in self.per_step])
        return tuple(self.micro_batch(int(feed), int(ordinal)) for feed, ordinal in zip(feeds, ordinals))

    def micro_batch(self, feed: int, ordinal: int) -> MicroBatch:
        """Micro-batch number `ordinal` of a feed, counted through all its epochs."""
        epoch, inside = self.locate(feed, ordinal)
        found = self._epoch(feed, epoch)
        which, start = int(found.pools[inside]), int(found.starts[inside])
        pool = self.feeds[feed][which]
        chosen = self._alike(feed, epoch, which, start)
        positions = found.positions[which][chosen]
        return MicroBatch(
            feed=feed, bucket=pool.bucket, epoch=epoch, rows=tuple(pool.rows[positions].tolist()),
            occurrences=tuple(found.occurrences[which][chosen].tolist()),
            clips=tuple(clip.decode() for clip in pool.clips[positions].tolist()),
            ticks=tuple(pool.ticks[positions].tolist()),
            shards=tuple(sorted(set(pool.shards[positions].tolist()))), cost=pool.cost * len(positions),
        )  # fmt: skip

    def _alike(self, feed: int, epoch: int, which: int, start: int) -> Ints:
        """Which draws of a pool the micro-batch at `start` holds: of a stretch of neighbours, some of similar texts."""
        pool = self.feeds[feed][which]
        batches_together = max(ALIKE_BATCHES, ALIKE_SAMPLES // pool.batch)
        stretch, inside = divmod(start, batches_together * pool.batch)
        if pool.batch == 1 or pool.texts is None or self._text_of is None:
            return np.arange(start, min(start + pool.batch, len(self._epoch(feed, epoch).positions[which])))
        key = (feed, epoch, which, stretch)
        if key not in self._sorted:
            self._sorted[key] = self._stretch(key, stretch * batches_together * pool.batch, batches_together)
        return self._sorted[key][inside : inside + pool.batch]

    def _stretch(self, key: tuple[int, int, int, int], first: int, together: int) -> Ints:
        """Draws from `first` on, sorted by length of text and cut into micro-batches, which then change places: long
        texts come at no set time. What is too few for a micro-batch at the end of an epoch stays there."""
        feed, epoch, which, _ = key
        pool, found = self.feeds[feed][which], self._epoch(feed, epoch)
        there = slice(first, first + together * pool.batch)
        at, nth = found.positions[which][there].tolist(), found.occurrences[which][there].tolist()
        assert pool.texts is not None and self._text_of is not None
        (tokens, ends), clips, ticks = pool.texts, pool.clips[at].tolist(), pool.ticks[at].tolist()
        lengths = [
            self._text_of(feed, epoch, occurrence, clip.decode(), tick, tokens[ends[i] : ends[i + 1]])
            for i, occurrence, clip, tick in zip(at, nth, clips, ticks)
        ]
        order = first + np.argsort(lengths, kind="stable")
        whole = len(order) // pool.batch
        places = self._generator(feed, epoch, 2, *key[2:]).permutation(whole)
        head, rest = np.split(order, [whole * pool.batch])
        return np.concatenate([head.reshape(whole, pool.batch)[places].reshape(-1), rest])

    def locate(self, feed: int, ordinal: int) -> tuple[int, int]:
        """(epoch, micro-batch inside it) of a feed's micro-batch."""
        ends = self._ends[feed]
        while not ends or ends[-1] <= ordinal:
            counts = self._counts(feed, len(ends))
            ends.append((ends[-1] if ends else 0) + sum(batches(self.feeds[feed], counts)))
        epoch = bisect_right(ends, ordinal)
        return epoch, ordinal - (ends[epoch - 1] if epoch else 0)

    def _generator(self, feed: int, epoch: int, *purpose: int) -> np.random.Generator:
        seeds = np.random.SeedSequence([self.seed % 2**64, feed, epoch, *purpose])
        return np.random.Generator(np.random.Philox(seeds))

    def _counts(self, feed: int, epoch: int) -> list[Ints]:
        """How often each sample of each pool is drawn. The offset walks on from epoch to epoch, so that over several of
        them a weight of 0.3 means three draws in ten."""
        offset = (self._generator(feed, 0, 0).random() + epoch * GOLDEN) % 1.0
        pools = self.feeds[feed]
        counts = draws(np.concatenate([pool.weights for pool in pools]), offset)
        return np.split(counts, np.cumsum([len(pool.rows) for pool in pools])[:-1])

    def _epoch(self, feed: int, epoch: int) -> Epoch:
        key = (feed, epoch)
        if key not in self._epochs:
            for old in sorted(kept for kept in self._epochs if kept[0] == feed)[: 1 - KEPT_EPOCHS]:
                del self._epochs[old]
                self._sorted = {one: order for one, order in self._sorted.items() if one[:2] != old}
            counts = self._counts(feed, epoch)
            self._epochs[key] = arranged(self.feeds[feed], counts, self._generator(feed, epoch, 1), self.window)
        return self._epochs[key]


# -------------------------------------------------------------------------------------------------------- inside a feed


def draws(weights: NDArray[np.float64], offset: float) -> Ints:
    """Systematic resampling: how often each sample of mean `weights` (N,) is drawn, floor(w) or ceil(w) times (N,).

    offset in [0, 1). Their sum is floor or ceil of the weights' sum. Whole parts are set aside first: a whole weight is
    then exact, whatever the rounding of a long sum.
    """
    whole = np.floor(weights)
    edges = np.floor(np.cumsum(weights - whole) + offset).astype(np.int64)
    return whole.astype(np.int64) + np.diff(edges, prepend=0)


def batches(pools: Sequence[Pool], counts: Sequence[Ints]) -> list[int]:
    """Micro-batches of each pool in an epoch; the last one of a pool may be smaller, none is left out."""
    return [-(-int(count.sum()) // pool.batch) for pool, count in zip(pools, counts)]


def arranged(pools: Sequence[Pool], counts: Sequence[Ints], generator: np.random.Generator, window: int) -> Epoch:
    """The order of an epoch: draws within each pool, and how the pools' micro-batches follow each other.

    Micro-batch j of a pool's n falls at a random time in [j/n, (j+1)/n): every bucket is spread over the whole epoch.
    """
    orders = [_order(pool, count, generator, window) for pool, count in zip(pools, counts)]
    of_pool = batches(pools, counts)
    times = np.concatenate([(np.arange(n) + generator.random(n)) / max(n, 1) for n in of_pool])
    sequence = np.argsort(times, kind="stable")
    starts = np.concatenate([np.arange(n) * pool.batch for n, pool in zip(of_pool, pools)])
    return Epoch(
        pools=np.repeat(np.arange(len(pools)), of_pool)[sequence],
        starts=starts[sequence],
        positions=tuple(positions for positions, _ in orders),
        occurrences=tuple(occurrences for _, occurrences in orders),
    )


def _order(pool: Pool, counts: Ints, generator: np.random.Generator, window: int) -> tuple[Ints, Ints]:
    """Positions in the pool and occurrences (draws,): shards in random order, samples shuffled within a window."""
    positions = np.repeat(np.arange(len(counts)), counts)
    occurrences = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    shards, which = np.unique(pool.shards, return_inverse=True)
    windows = generator.permutation(len(shards)) // window
    order = np.argsort(windows[which[positions]] + generator.random(len(positions)), kind="stable")
    return positions[order], occurrences[order]


# --------------------------------------------------------------------------------------------------------- across feeds


def slots(shares: NDArray[np.float64], first: int, count: int) -> tuple[Ints, Ints]:
    """Feeds (count,) of the slots first, first + 1, ... and the ordinals (count,) of their micro-batches in the feeds.

    The i-th micro-batch of a feed of share p is due at (i + 1/2) / p; slots take them as they fall due. Any stretch of
    the run therefore holds each feed in its share, give or take one or two, and no slot depends on those before.
    """
    spare = len(shares)  # the due times before time x number x, give or take half a feed
    low = np.maximum(np.floor(shares * (first - spare) - 0.5), 0).astype(np.int64)
    high = np.ceil(shares * (first + count + spare) + 1).astype(np.int64)
    feeds = np.repeat(np.arange(len(shares)), high - low)
    ordinals = np.concatenate([np.arange(a, b) for a, b in zip(low, high)])
    due = (ordinals + 0.5) / shares[feeds]
    chosen = np.argsort(due, kind="stable")[first - low.sum() : first - low.sum() + count]
    return feeds[chosen], ordinals[chosen]


def counts_per_step(shares: Sequence[float], micro_batches: int) -> list[int]:
    """Micro-batches of each feed in every step. Raises ValueError naming the numbers that the shares divide exactly."""
    exact = [Fraction(share).limit_denominator(1000) for share in shares]
    ratios = [share / sum(exact) for share in exact]
    needed = lcm(*(ratio.denominator for ratio in ratios))
    if micro_batches % needed:
        raise ValueError(
            f"mix every_step with shares {list(shares)} needs micro_batches to be a multiple of {needed}, "
            f"got {micro_batches}"
        )
    return [int(ratio * micro_batches) for ratio in ratios]


# --------------------------------------------------------------------------------------------------------- across ranks


def share_out(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Which micro-batches each rank computes: equally many, their costs as even as the dearest-first rule makes them.

    Raises ValueError naming the numbers of ranks that divide the micro-batches.
    """
    if len(costs) % ranks:
        fitting = [str(n) for n in range(1, len(costs) + 1) if len(costs) % n == 0]
        raise ValueError(f"{len(costs)} micro_batches per step cannot be shared out to {ranks} ranks, only to "
                         f"{' or '.join([', '.join(fitting[:-1])] * (len(fitting) > 1) + fitting[-1:])}")  # fmt: skip
    chosen: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min((r for r in range(ranks) if len(chosen[r]) < len(costs) // ranks), key=loads.__getitem__)
        chosen[rank].append(index)
        loads[rank] += costs[index]
    return [sorted(one) for one in chosen]


if __name__ == "__main__":  # `python -m train.plan` is the planner: what a stage's plan costs before anything runs
    from train import planner

    planner.command()
