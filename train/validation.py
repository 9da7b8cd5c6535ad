"""The validation loss: the same samples, noises, captions and times at every visit, so that only the weights differ.

Its times are quantiles of the stage's own distribution of t, (k + 1/2) / QUANTILES: the mean over them estimates the
training loss on clips that are never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cache.buckets import Bucket
from cache.read import LatentCache
from pipelines import Stage
from train import conditions, flow
from train.batch import Batch, collate
from train.data import FeedPools
from train.distributed import World, add_up
from train.draws import Draw, normal
from train.optim import Weights
from train.step import sample_losses

QUANTILES = 4
SAMPLES = 32  # per feed, spread evenly over its validation samples


class Part(NamedTuple):
    """Some validation samples of one bucket of a feed, all at quantile `quantile` of t."""

    feed: int
    bucket: str
    rows: tuple[int, ...]
    names: tuple[str, ...]
    quantile: int


def parts(feeds: Sequence[FeedPools]) -> list[Part]:
    """What is computed at every visit; empty when no feed has validation samples."""
    found = []
    for number, feed in enumerate(feeds):
        samples = [(pool, i) for pool in feed.val for i in range(len(pool.rows))]
        chosen = {samples[k * len(samples) // SAMPLES] for k in range(SAMPLES)} if len(samples) > SAMPLES else samples
        for pool in feed.val:
            mine = sorted(i for one, i in chosen if one is pool)
            for start in range(0, len(mine), pool.batch):
                some = mine[start : start + pool.batch]
                rows = tuple(int(pool.rows[i]) for i in some)
                names = tuple(f"{pool.clips[i].decode()}/{pool.ticks[i]}" for i in some)
                found += [Part(number, pool.bucket, rows, names, k) for k in range(QUANTILES)]
    return found


def load(cache: LatentCache, stage: Stage, part: Part) -> Batch:
    found = cache.gather(part.bucket, part.rows, [0] * len(part.rows))
    quantile = torch.tensor((part.quantile + 0.5) / QUANTILES, dtype=torch.float64)
    t = float(flow.times(quantile, stage.flow, Bucket.parse(part.bucket).tokens()))
    channels, frames, *sides = found.latent.shape[1:]
    given = conditions.validation_given(stage, part.bucket, found.samples(), cache)
    shape = (channels, frames + (given.padded if given else 0), *sides)
    draws = [Draw(t, 0, False, normal(shape, stage.seed, "validation", name, part.quantile)) for name in part.names]
    return collate(found, draws, given)._replace(guidance=stage.embedded_guidance)


@torch.no_grad()
def validate(weights: Weights, cache: LatentCache, feeds: Sequence[FeedPools], world: World) -> dict[str, float]:
    """Mean losses over all feeds by share ("loss") and per quantile of t ("t0" ... nearest data first); {} without
    validation samples. Ranks share out the parts."""
    stage, todo = weights.stage, parts(feeds)
    sums = torch.zeros(len(feeds), QUANTILES, 2, dtype=torch.float64)
    for turn in range(world.rank, -(-len(todo) // world.size) * world.size, world.size):
        part = todo[turn % len(todo)]  # equally many on each rank, as spread weights are gathered by all at once
        batch = load(cache, stage, part).to(world.device, torch.promote_types(weights.dtype, torch.float32))
        losses = sample_losses(weights.model, batch, stage.losses, weights.judges)
        if turn < len(todo):
            found = torch.tensor([float(losses.double().sum()), len(losses)], dtype=torch.float64)
            sums[part.feed, part.quantile] += found
    shared = sums.to(world.device)
    add_up(world, [shared])
    return _means(shared.cpu(), torch.tensor([feed.share for feed in stage.feeds], dtype=torch.float64))


def _means(sums: Tensor, shares: Tensor) -> dict[str, float]:
    """sums (feeds, quantiles, 2): loss and count. A feed without validation samples has no part in the mean."""
    there = sums[:, 0, 1] > 0
    if not bool(there.any()):
        return {}
    means = sums[there, :, 0] / sums[there, :, 1]
    per_quantile = (means * (shares[there] / shares[there].sum())[:, None]).sum(dim=0)
    return {"loss": float(per_quantile.mean()), **{f"t{k}": float(one) for k, one in enumerate(per_quantile)}}
