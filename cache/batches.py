"""Samples of one bucket as one tensor, and an epoch of them: read ahead by threads, whole shards fetched before that.

The order is that of cache.order whatever the cache lies on (a memory map, a shared disk, http, s3) and however many
threads read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cache.buckets import Bucket
from cache.columns import coded
from cache.fingerprint import CacheError
from cache.forgotten import forgotten_clips
from cache.lookup import Identities, Ints, find, identities
from cache.order import Pool, Step, Steps
from cache.texts import Texts
from cache.turns import Reach, read_ahead
from model.text import TextStates

if TYPE_CHECKING:
    from cache.read import LatentCache

REACH = Reach(load=8, fetch=64)  # batches that are read ahead, and whose shards are fetched ahead


class Sample(NamedTuple):
    """latent (C, t, h, w) in the stored dtype; texts: one per caption variant; conditions: name -> tensor."""

    clip_id: str
    start_tick: int
    latent: torch.Tensor
    texts: tuple[TextStates, ...]
    conditions: dict[str, torch.Tensor]
    logvar: torch.Tensor | None = None


class Batch(NamedTuple):
    """latent (B, C, t, h, w) in the stored dtype, in pinned memory where there is a GPU; texts: per sample one per
    caption variant, views of the map, and texts.padded(variants) in one tensor; conditions: name -> (B, ...)."""

    bucket: str
    clip_ids: tuple[str, ...]
    start_ticks: tuple[int, ...]
    latent: torch.Tensor
    texts: Texts
    conditions: dict[str, torch.Tensor]
    logvar: torch.Tensor | None = None

    def samples(self) -> list[Sample]:
        """Views of each, without its texts."""
        parts = [{name: one[i] for name, one in self.conditions.items()} for i in range(len(self.clip_ids))]
        return [Sample(*one[:3], (), one[3]) for one in zip(self.clip_ids, self.start_ticks, self.latent, parts)]


def pools(
    cache: LatentCache, view: str, set_name: str | None, split: str, batch: int, tokens: int | None
) -> list[Pool]:
    """What an epoch of a view draws from: every sample once, or those of a set's split by their weights.

    batch: samples read together; tokens: instead, a budget that each bucket fills. Raises CacheError for samples that
    are not in the index.
    """
    gone = frozenset() if set_name else _gone(cache)
    key = (view, set_name, split, batch, tokens, gone, cache.view_version(view))
    if set_name or key[-1] is None:  # a set's ledger may be another one by now
        return _pools(cache, view, set_name, split, batch, tokens, gone)
    if key not in cache.pools:
        cache.pools.clear()
        cache.pools[key] = _pools(cache, view, set_name, split, batch, tokens, gone)
    return cache.pools[key]


def _pools(
    cache: LatentCache, view: str, set_name: str | None, split: str, batch: int, tokens: int | None,
    gone: frozenset[str],
) -> list[Pool]:  # fmt: skip
    rows = cache.placed(view)
    rows, weights = _of_set(cache, rows, set_name, split) if set_name else _remembered(rows, gone)
    wanted, (codes, names), found = identities(rows), coded(rows["bucket"]), []
    for code, bucket in sorted(enumerate(names), key=lambda one: one[1]):
        size = batch if tokens is None else max(1, tokens // Bucket.parse(bucket).tokens())
        mine = codes == code
        if mine.any():
            at, of_each = _located(cache, bucket, wanted.chosen(mine), weights[mine])
            found.append(Pool(bucket, size, at, cache.rows(bucket).latents.shards[at].astype(np.int64), of_each))
    if not found:
        raise CacheError(f"view {view} has no samples of {set_name or 'any set'} ({split})")
    return found


def stream(cache: LatentCache, chosen: Steps, workers: int,
           load: Callable[[Step], Batch]) -> Generator[Batch]:  # fmt: skip
    """The batches of these steps in their order. Close it to stop its threads."""
    with closing(read_ahead(cache, load, lambda i: (chosen[i],), range(len(chosen)), workers, REACH)) as turns:
        for (batch,) in turns:
            yield batch


Weighted = tuple[pa.Table, np.ndarray]


def _gone(cache: LatentCache) -> frozenset[str]:
    """Forgotten clips. A plain web server lists no tombstones: nothing is left out there."""
    return frozenset(() if cache.folder.startswith("http") else forgotten_clips(cache.folder.rpartition("/")[0]))


def _remembered(rows: pa.Table, gone: frozenset[str]) -> Weighted:
    """Every row but those of forgotten clips, weight 1."""
    if gone:
        rows = rows.filter(pc.invert(pc.is_in(rows["clip_id"], pa.array(sorted(gone), pa.string()))))
    return rows, np.ones(len(rows))


def _of_set(cache: LatentCache, rows: pa.Table, set_name: str, split: str) -> Weighted:
    """The rows whose clips the set keeps for this split, with their weights; a clip of several samples shares its."""
    ledger = cache.ledger(set_name)
    ledger = ledger.filter(pc.equal(ledger["split"], split))
    at = pc.index_in(rows["clip_id"], value_set=ledger["clip_id"].combine_chunks())
    rows, at = rows.filter(pc.is_valid(at)), at.filter(pc.is_valid(at)).to_numpy()
    _, which, counts = np.unique(at, return_inverse=True, return_counts=True)
    return rows, ledger["weight"].to_numpy()[at] / counts[which]


def _located(cache: LatentCache, bucket: str, wanted: Identities, weights: np.ndarray) -> tuple[Ints, np.ndarray]:
    """The wanted samples' rows in the index, ascending, and their weights."""
    at = find(cache.rows(bucket).identities, wanted)
    if missing := int((at < 0).sum()):
        raise CacheError(
            f"{bucket}: {missing} of {len(at)} samples are not encoded, run `python -m cache.encode_latents`"
        )
    if (at[1:] >= at[:-1]).all():
        return at, weights
    order = np.argsort(at, kind="stable")
    return at[order], weights[order]
