"""Batches of samples that were all looked at, out of the maps of their tars: what a trainer reads for days.

The copies throw what Python needs out of the processor's cache, so that a line of it costs twice what it costs alone:
there is little of it here, once for both tars of a shard.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cache.gather import Layout, copied
from cache.maps import Maps
from cache.padded import Made, Place, Variants, chosen_of
from cache.rows import Rows


class Warm(NamedTuple):
    """Tensors (B, ...) by name, and text states."""

    tensors: dict[str, torch.Tensor]
    texts: Made


def warm(maps: Maps, chosen: Rows, layout: Layout, at: np.ndarray, variants: Variants) -> Warm | None:
    """Samples at (B,) of an index. None where one of them is due, or in a tar without a map that is worth having."""
    latents, texts, mine = chosen.latents, chosen.texts, at.tolist()
    shards, plan_of = latents.shards[at].tolist(), texts.plans.of
    opened = {}
    for shard in set(shards):
        tar, other = maps.tar(latents, shard), maps.tar(texts, shard)
        source, words = tar.mapped(), other.mapped()
        if source is None or words is None:
            return None
        opened[shard] = (tar.first, tar.looked, other.looked, source, words)
    plans, sources, states = [], [], []
    for row, shard in zip(mine, shards):
        first, looked, numbers, source, words = opened[shard]
        plan = plan_of(numbers[row - first])
        if plan is None or not looked[row - first]:
            return None
        plans.append(plan)
        sources.append(source)
        states.append(words)
    tensors = copied(layout, sources, latents.offsets[at].tolist())
    variants = chosen_of(variants, plans)
    padded = Place.of(plans, variants, texts, at).filled(plans, states, texts.offsets[at].tolist())
    return Warm(tensors, Made(plans, variants, padded))
