"""`python -m benchmarks.plan`: what the plan of micro-batches wastes, beside a plain per-bucket sampler.

A synthetic index of the size and mix of a video stage: pictures and clips of three lengths at 256px, aspects as in the
wild, weights of concepts, captions of four variants from a few words to 256 tokens. Printed: how full micro-batches
are, padding, samples that are never seen in an epoch, how
unequal the work of 8 ranks is, and how long the first step and a late step take to plan. No GPU, no files.

The peer is what most trainers do: a fixed batch size per bucket (as many as the budget holds), incomplete batches
dropped, each rank taking the next batch of a shuffled list.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache.buckets import Bucket, Size, nearest, staircase
from model.flops import training_flops
from model.sizes import SIZES
from pipelines import Stage
from train.batch import text_of
from train.plan import MicroBatch, Plan, Pool, Texts, samples_per_batch, share_out

RANKS = 8
TEXT = 64
VARIANTS = (
    18,
    45,
    90,
    160,
)  # tokens of a clip's captions in the median: a title, a sentence, a description, everything
TEXT_STEPS = 20  # steps whose texts are counted
ASPECTS = {16 / 9: 0.5, 4 / 3: 0.15, 9 / 16: 0.2, 1.0: 0.1, 21 / 9: 0.05}


def main() -> None:
    options = argparse.ArgumentParser(description="What the plan wastes, beside a plain per-bucket sampler.")
    options.add_argument("--clips", type=int, default=100_000)
    options.add_argument("--tokens", type=int, default=36_000, help="per micro-batch")
    options.add_argument("--micro-batches", type=int, default=64)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--json", help="file to write the figures to")
    chosen = options.parse_args()
    feeds = [pools(1, None, chosen.clips, chosen.tokens, 0)]
    feeds.append([pool for k, frames in enumerate((33, 65, 129))
                  for pool in pools(frames, 24.0, chosen.clips // 6, chosen.tokens, k + 1)])  # fmt: skip
    print(f"{sum(len(p.rows) for f in feeds for p in f):,} samples in {sum(map(len, feeds))} buckets, budget "
          f"{chosen.tokens:,} tokens, {chosen.micro_batches} micro-batches per step, {RANKS} ranks\n")  # fmt: skip
    print(f"{'':34}{'this plan':>12}{'per bucket':>12}")
    ours, theirs = of_plan(feeds, chosen), of_peer(feeds, chosen)
    for key in ours:
        print(f"{key:34}{ours[key]:>12.1%}{theirs[key]:>12.1%}")
    anchors = mixed_scale(chosen)
    print(f"\nmix-scale, 256px and 512px pictures at 1 : 3, {chosen.steps} steps: "
          f"{', '.join(f'{count} steps of {a} + {b}' for (a, b), count in anchors.items())} micro-batches\n")  # fmt: skip
    speeds = speed(chosen)
    if chosen.json:
        told = {f"{a} + {b}": count for (a, b), count in anchors.items()}
        figures = {"plan": ours, "per_bucket": theirs, "mix_scale_steps": told, "seconds": speeds}
        Path(chosen.json).write_text(json.dumps(figures, indent=1))


def mixed_scale(chosen: argparse.Namespace) -> Counter[tuple[int, int]]:
    """How many steps of a mix-scale stage held how many micro-batches of the small and of the large pictures."""
    feeds = [pools(1, None, chosen.clips, chosen.tokens, 0), pools(1, None, chosen.clips // 2, chosen.tokens, 4, 512)]
    plan = Plan(feeds, [0.25, 0.75], chosen.micro_batches, 0, "every_step")
    taken = (Counter(one.feed for one in plan.step(number)) for number in range(chosen.steps))
    return Counter((one[0], one[1]) for one in taken)


def pools(frames: int, fps: float | None, count: int, tokens: int, seed: int, base: int = 256) -> list[Pool]:
    """Clips of one length, each in the bucket of its aspect."""
    generator = np.random.default_rng([7, seed])
    sizes = staircase(base)
    wild = generator.choice(list(ASPECTS), count, p=list(ASPECTS.values()))
    aspects = wild * np.exp(generator.normal(0, 0.08, count) * (generator.random(count) < 0.3))
    placed = np.array([sizes.index(nearest(sizes, aspect)) for aspect in aspects])
    weights = generator.gamma(4.0, 0.25, count)
    return [pool(sizes[k], frames, fps, weights[placed == k], tokens) for k in np.unique(placed)]


def pool(size: Size, frames: int, fps: float | None, weights: np.ndarray, tokens: int) -> Pool:
    bucket = Bucket(frames, size.height, size.width, fps)
    rows = np.arange(len(weights))
    cost = training_flops(SIZES["hunyuan-13b"], bucket.tokens(), TEXT)
    names = np.array([f"{row:016x}" for row in rows], dtype="S16")
    return Pool(bucket.name, samples_per_batch(tokens, bucket.tokens()), cost, rows, rows // 500,
                names, rows * 0, weights, texts(len(rows), frames))  # fmt: skip


def texts(count: int, seed: int) -> Texts:
    spread = np.random.default_rng([11, seed]).normal(0, 0.35, (count, len(VARIANTS)))
    tokens = np.clip(np.array(VARIANTS) * np.exp(spread), 3, 256).astype(np.int64)
    return Texts(tokens.reshape(-1), np.arange(count + 1) * len(VARIANTS))


STAGE = Stage.model_validate({"feeds": [{"set": "s", "view": "v"}], "tokens": 1, "steps": 1, "lr": 1.0})


def padded_text(plan: Plan) -> float:
    """Share of the text tokens of some steps that is padding, with the stage's variants and dropped texts."""
    pools = [{pool.bucket: pool for pool in feed} for feed in plan.feeds]
    real = held = 0
    for micro in (one for step in range(TEXT_STEPS) for one in plan.step(step)):
        lengths = _lengths(pools[micro.feed][micro.bucket], micro)
        real, held = real + sum(lengths), held + max(1, *lengths) * len(lengths)
    return 1 - real / held


def _lengths(pool: Pool, micro: MicroBatch) -> list[int]:
    assert pool.texts is not None
    tokens, ends = pool.texts
    return [
        text_of(STAGE)(micro.feed, micro.epoch, occurrence, clip, tick, tokens[ends[row] : ends[row + 1]])
        for row, occurrence, clip, tick in zip(micro.rows, micro.occurrences, micro.clips, micro.ticks)
    ]


def of_plan(feeds: Sequence[Sequence[Pool]], chosen: argparse.Namespace) -> dict[str, float]:
    plan = Plan(feeds, [0.4, 0.6], chosen.micro_batches, 0, text_of=text_of(STAGE))
    fills, excess = [], []
    for step in range(chosen.steps):
        micro = plan.step(step)
        fills += [Bucket.parse(one.bucket).tokens() * len(one.rows) / chosen.tokens for one in micro]
        costs = [one.cost for one in micro]
        excess.append(imbalance([sum(costs[i] for i in mine) for mine in share_out(costs, RANKS)]))
    return {
        "token budget filled, mean": float(np.mean(fills)),
        "padded video tokens": 0.0,
        "padded text tokens": padded_text(plan),
        "samples left out of an epoch": left_out(plan),
        "FLOP imbalance of the ranks, mean": float(np.mean(excess)),
        "FLOP imbalance of the ranks, p95": float(np.percentile(excess, 95)),
    }


def left_out(plan: Plan) -> float:
    """Share of the drawn samples of epoch 0 that no micro-batch holds, by counting."""
    held = drawn = 0
    for feed, its_pools in enumerate(plan.feeds):
        ordinal = 0
        while plan.locate(feed, ordinal)[0] == 0:
            held += len(plan.micro_batch(feed, ordinal).rows)
            ordinal += 1
        drawn += sum(int(count.sum()) for count in plan._counts(feed, 0))
        assert its_pools
    return 1 - held / drawn


def of_peer(feeds: Sequence[Sequence[Pool]], chosen: argparse.Namespace) -> dict[str, float]:
    generator = np.random.default_rng(0)
    every = [pool for feed in feeds for pool in feed]
    whole = [(pool, len(pool.rows) // pool.batch) for pool in every]
    batches = [pool for pool, count in whole for _ in range(count)]
    order = generator.permutation(len(batches))
    picked = [batches[i] for i in order[: chosen.steps * chosen.micro_batches]]
    fills = [Bucket.parse(pool.bucket).tokens() * pool.batch / chosen.tokens for pool in picked]
    costs = np.array([pool.cost * pool.batch for pool in picked])
    steps = len(costs) // chosen.micro_batches
    ranks = costs[: steps * chosen.micro_batches].reshape(steps, -1, RANKS).sum(axis=1)
    excess = [imbalance(list(one)) for one in ranks]
    dropped = 1 - sum(count * pool.batch for pool, count in whole) / sum(len(pool.rows) for pool in every)
    return {
        "token budget filled, mean": float(np.mean(fills)),
        "padded video tokens": 0.0,
        "padded text tokens": padded_text(Plan(feeds, [0.4, 0.6], chosen.micro_batches, 0)),
        "samples left out of an epoch": dropped,
        "FLOP imbalance of the ranks, mean": float(np.mean(excess)),
        "FLOP imbalance of the ranks, p95": float(np.percentile(excess, 95)),
    }


def imbalance(loads: Sequence[float]) -> float:
    """How much longer the busiest rank works than the mean."""
    return max(loads) / (sum(loads) / len(loads)) - 1


def speed(chosen: argparse.Namespace) -> dict[str, float]:
    """Planning a million samples: the first step of a fresh process, and the first after a resume in epoch 3."""
    big, found, sort = [pools_of_million()], {}, text_of(STAGE)
    for name, step in (("first step", 0), ("resumed in epoch 3", 4_000_000 // big[0][0].batch // chosen.micro_batches)):
        plan = Plan(big, [1.0], chosen.micro_batches, 0, text_of=sort)
        started = time.perf_counter()
        plan.step(step)
        found[name] = time.perf_counter() - started
        print(f"1,000,000 samples, {name:22}{found[name]:>8.2f} s")
    return found


def pools_of_million() -> list[Pool]:
    return [pool(Size(256, 256), 1, None, np.random.default_rng(0).gamma(4.0, 0.25, 1_000_000), 36_000)]


if __name__ == "__main__":
    main()
