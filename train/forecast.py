"""What a stage will cost, before it runs: tokens, operations, memory and time of its buckets on some GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cache.buckets import Bucket, sizes
from cache.fingerprint import CacheError
from cache.read import open_cache
from model.flops import parameters, recomputed_flops, training_flops
from pipelines import Recipe, RecipeError, Stage
from train import stages
from train.data import stage_pools
from train.distributed import parts_of
from train.gpus import Gpu, peak_flops
from train.memory import Job, Memory, job_of, memory
from train.plan import Plan, Pool, samples_per_batch, share_out

ASSUMED_ROWS = 1024  # samples of every bucket, where there is no cache to count them in
SIMULATED_STEPS = 48
USABLE = 0.92  # of a GPU's memory: the rest is the driver's context, nccl's buffers, and gaps between tensors


class BucketCost(NamedTuple):
    """One bucket of a feed. samples: counted in the cache, None without one; seconds: of one micro-batch on one GPU."""

    feed: str
    bucket: str
    samples: int | None
    tokens: int
    batch: int
    filled: float
    flops: float  # of training on one sample, what is repeated not counted
    seconds: float
    memory: Memory
    fits: bool


class Forecast(NamedTuple):
    """Of a stage. imbalance: how much longer than the mean the busiest GPU works; source: where the samples are from."""

    source: str
    parameters: int
    buckets: list[BucketCost]
    micro_batches: int
    per_gpu: int
    samples_per_step: float
    tokens_per_step: float
    flops_per_step: float
    imbalance: float
    seconds_per_step: float
    steps: int
    mfu: float

    @property
    def days(self) -> float:
        return self.steps * self.seconds_per_step / 86400


def forecast(recipe: Recipe, name: str, gpu: Gpu, gpus: int, utilisation: float) -> Forecast:
    """Of stage `name` on `gpus` equal GPUs. utilisation: share of the peak that operations run at, repeated ones too.

    Raises RecipeError for an unknown stage and for a number of GPUs that cannot share its micro-batches.
    """
    stage = stages.stage_of(recipe, name)
    pools, source, size = _pools(recipe, stage)
    speed = peak_flops(gpu, stage.precision) * utilisation
    try:
        parts = parts_of(stage.shard, gpus)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from None
    held = parts > 1 and stage.reduce == "step" and stage.micro_batches > gpus
    job = job_of(size, stage.checkpointing, stage.precision, stage.lora, parts, held)
    rows = [_bucket(recipe, feed.set + " x " + feed.view, pool, stage, job, speed, gpu, source)
            for feed, some in zip(stage.feeds, pools) for pool in some]  # fmt: skip
    try:
        return _whole(stage, pools, rows, source, size, gpus, gpu, speed)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from None


def _whole(
    stage: Stage, pools: Sequence[Sequence[Pool]], rows: list[BucketCost], source: str, size: dict[str, Any], gpus: int,
    gpu: Gpu, speed: float,
) -> Forecast:  # fmt: skip
    plan = Plan(pools, [feed.share for feed in stage.feeds], stage.micro_batches, stage.seed, stage.mix)
    worth = {(index, pool.bucket): row for row, (index, pool) in zip(rows, _numbered(pools))}
    samples, tokens, flops, busiest, mean = [], [], [], [], []
    for number in range(min(SIMULATED_STEPS, stage.steps)):
        micro = plan.step(number)
        of = [worth[one.feed, one.bucket] for one in micro]
        seconds = [row.seconds * len(one.rows) / row.batch for row, one in zip(of, micro)]
        loads = [sum(seconds[i] for i in mine) for mine in share_out([one.cost for one in micro], gpus)]
        busiest.append(max(loads))
        mean.append(sum(loads) / gpus)
        samples.append(sum(len(one.rows) for one in micro))
        tokens.append(sum(row.tokens * len(one.rows) for row, one in zip(of, micro)))
        flops.append(sum(row.flops * len(one.rows) for row, one in zip(of, micro)))
    step_s = float(np.mean(busiest))
    return Forecast(
        source=source, parameters=parameters(size), buckets=rows, micro_batches=stage.micro_batches,
        per_gpu=stage.micro_batches // gpus, samples_per_step=float(np.mean(samples)),
        tokens_per_step=float(np.mean(tokens)), flops_per_step=float(np.mean(flops)),
        imbalance=float(np.mean(busiest) / np.mean(mean) - 1), seconds_per_step=step_s, steps=stage.steps,
        mfu=float(np.mean(flops)) / step_s / gpus / peak_flops(gpu, stage.precision),
    )  # fmt: skip


def _bucket(
    recipe: Recipe, feed: str, pool: Pool, stage: Stage, job: Job, speed: float, gpu: Gpu, source: str
) -> BucketCost:
    size = dict(job.size)
    tokens = Bucket.parse(pool.bucket).tokens(size["patch"])
    useful = training_flops(size, tokens, stages.TEXT_TOKENS)
    done = useful + recomputed_flops(size, tokens, stages.TEXT_TOKENS, stage.checkpointing)
    held = memory(job, pool.batch, tokens, recipe.cache.text_length)
    return BucketCost(
        feed=feed, bucket=pool.bucket, samples=len(pool.rows) if source == "cache" else None, tokens=tokens,
        batch=pool.batch, filled=pool.batch * tokens / stage.tokens, flops=useful, seconds=pool.batch * done / speed,
        memory=held, fits=held.total <= USABLE * gpu.memory_bytes,
    )  # fmt: skip


def _numbered(pools: Sequence[Sequence[Pool]]) -> list[tuple[int, Pool]]:
    return [(index, pool) for index, some in enumerate(pools) for pool in some]


# ------------------------------------------------------------------------------------------------ samples of each bucket


def _pools(recipe: Recipe, stage: Stage) -> tuple[list[list[Pool]], str, dict[str, Any]]:
    """The pools to train on, of the cache if it holds the stage's samples, else of the recipe's views; "cache" or why
    not; and the network's size."""
    size = stages.size_of(recipe)
    try:
        cache = open_cache(recipe)
        widths = stages.widths_of(cache.settings)
        size |= {"text_width": widths.text, "pooled_width": widths.pooled}
        size |= {"in_channels": widths.channels, "out_channels": widths.channels}
        return [list(feed.train) for feed in stage_pools(cache, stage, stages.cost_of(recipe))], "cache", size
    except (CacheError, RecipeError, FileNotFoundError) as error:
        why = str(error).splitlines()[0]
    return [assumed_pools(recipe, feed.view, stage, size) for feed in stage.feeds], f"views ({why})", size


def assumed_pools(recipe: Recipe, view_name: str, stage: Stage, size: dict[str, Any]) -> list[Pool]:
    """Equally many samples in every bucket of a view."""
    view, rows, cost = recipe.views[view_name], np.arange(ASSUMED_ROWS), stages.cost_of(recipe)
    aspects = [width / 1000 for width in range(250, 4001, 50)]
    found = []
    for shape in sizes(view, aspects):
        bucket = Bucket(view.frames, shape.height, shape.width, view.fps if view.frames > 1 else None)
        batch = samples_per_batch(stage.tokens, bucket.tokens(size["patch"]))
        found.append(Pool(bucket.name, batch, cost(bucket), rows, rows // 64, rows.astype("S16"), rows * 0,
                          np.ones(ASSUMED_ROWS)))  # fmt: skip
    return found
