"""`--probe`: forward and backward on the dearest bucket before the first step, so that a stage that cannot fit says so at
once, with the bucket's name, and not after days when that bucket first comes up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cache.read import LatentCache
from commands import peak_resident_bytes
from pipelines import RecipeError
from train import batch as batches
from train.data import FeedPools
from train.distributed import World
from train.memory import TooLarge, fitting, told_of
from train.optim import Weights
from train.plan import MicroBatch, Pool
from train.step import sample_losses

TEXT = 64  # tokens of a middling caption, which every sample brings


def dearest(feeds: Sequence[FeedPools]) -> tuple[int, Pool]:
    """The feed's number and the pool whose micro-batch holds the most tokens, text included."""
    pools = [(index, pool) for index, feed in enumerate(feeds) for pool in feed.train]
    return max(pools, key=lambda one: one[1].batch * (batches.tokens_of(one[1].bucket) + TEXT))


def whole_micro_batch(feed: int, pool: Pool) -> MicroBatch:
    """As many samples as the bucket ever holds at once; a small pool repeats its own."""
    rows = [k % len(pool.rows) for k in range(pool.batch)]
    return MicroBatch(
        feed, pool.bucket, 0, tuple(int(pool.rows[k]) for k in rows), tuple(range(pool.batch)),
        tuple(pool.clips[k].decode() for k in rows), tuple(int(pool.ticks[k]) for k in rows),
        tuple(sorted({int(pool.shards[k]) for k in rows})), pool.cost * pool.batch,
    )  # fmt: skip


def probe(weights: Weights, cache: LatentCache, feeds: Sequence[FeedPools], world: World) -> str:
    """Try the dearest bucket; nothing is changed by it. Returns a line on what it took. Raises RecipeError."""
    feed, pool = dearest(feeds)
    told = told_of(pool.bucket, pool.batch, batches.tokens_of(pool.bucket))
    micro = whole_micro_batch(feed, pool)
    try:
        with cache.fetch(micro.bucket, micro.shards), fitting(told, weights.stage):
            _try(weights, cache, micro, world)
    except TooLarge as error:
        raise RecipeError(f"--probe: {error}") from None
    finally:
        weights.optimiser.zero_grad(set_to_none=True)
        weights.model.zero_grad(set_to_none=True)
    return f"probed the dearest bucket, {told}: {_peak(world) / 1e9:.2f} GB at most"


def _try(weights: Weights, cache: LatentCache, micro: MicroBatch, world: World) -> None:
    """What a later step holds: gradients of the micro-batch before, AdamW's state, then forward and backward."""
    state = [torch.empty_like(one) for one in weights.masters.values() for _ in range(2)]
    batch = batches.load(cache, weights.stage, micro).to(
        world.device, torch.promote_types(weights.dtype, torch.float32)
    )
    rounds = -(-weights.stage.micro_batches // world.size)
    for turn in range(2):
        weights.expect(last=turn == 1 or rounds == 1)  # gradients that are held between micro-batches are whole
        sample_losses(weights.model, batch, weights.stage.losses, weights.judges).sum().backward()
        weights.collect()
    del state


def _peak(world: World) -> float:
    """Bytes: of the device's allocator, or of this process."""
    if world.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(world.device))
    return peak_resident_bytes()
