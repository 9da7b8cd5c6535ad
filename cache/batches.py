"""Samples of one bucket as one tensor, and an epoch of them: read ahead by threads, whole shards fetched before that.

The order is that of cache.order whatever the cache lies on (a memory map, a shared disk, http, s3) and however many
threads read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cache.buckets import Bucket
from cache.fingerprint import CacheError
from cache.order import Pool, Step
from model.text import TextStates

if TYPE_CHECKING:
    from cache.read import LatentCache

AHEAD = 8  # batches that are read ahead
FETCH = 64  # batches whose shards are fetched ahead


class Batch(NamedTuple):
    """latent (B, C, t, h, w) in the stored dtype, in pinned memory where there is a GPU; texts: per sample one per
    caption variant, views of the map; conditions: name -> (B, ...)."""

    bucket: str
    clip_ids: tuple[str, ...]
    start_ticks: tuple[int, ...]
    latent: torch.Tensor
    texts: tuple[tuple[TextStates, ...], ...]
    conditions: dict[str, torch.Tensor]
    logvar: torch.Tensor | None = None


def room_for(like: torch.Tensor, count: int) -> torch.Tensor:
    """(count, *like.shape), not filled: where samples are copied to, once."""
    return torch.empty((count, *like.shape), dtype=like.dtype, pin_memory=torch.cuda.is_available())


def pools(
    cache: LatentCache, view: str, set_name: str | None, split: str, batch: int, tokens: int | None
) -> list[Pool]:
    """What an epoch of a view draws from: every sample once, or those of a set's split by their weights.

    batch: samples read together; tokens: instead, a budget that each bucket fills. Raises CacheError for samples that
    are not in the index.
    """
    rows = cache.view(view)
    rows = rows.filter(pc.is_valid(rows["bucket"])).select(["clip_id", "start_tick", "bucket"])
    rows = (
        _of_set(cache, rows, set_name, split)
        if set_name
        else rows.append_column("weight", pa.array(np.ones(len(rows))))
    )
    found = []
    for bucket in sorted(set(rows["bucket"].to_pylist())):
        size = batch if tokens is None else max(1, tokens // Bucket.parse(bucket).tokens())
        mine = _located(cache, bucket, rows.filter(pc.equal(rows["bucket"], bucket)))
        shards = mine["shard"].to_numpy().astype(np.int64)
        found.append(Pool(bucket, size, mine["row"].to_numpy(), shards, mine["weight"].to_numpy()))
    if not found:
        raise CacheError(f"view {view} has no samples of {set_name or 'any set'} ({split})")
    return found


def stream(cache: LatentCache, chosen: Sequence[Step], workers: int,
           load: Callable[[Step], Batch]) -> Generator[Batch]:  # fmt: skip
    """The batches of these steps in their order. Close it to stop its threads."""
    if workers == 0 and not cache.remote:
        yield from map(load, chosen)
        return
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="cache") as pool, ExitStack() as windows:
        held: deque[Any] = deque()
        reading: deque[Future[Batch]] = deque()
        windows.callback(lambda: [window.close() for window in held])
        try:
            for at in range(len(chosen)):
                while cache.remote and len(held) < min(FETCH, len(chosen) - at):
                    step = chosen[at + len(held)]
                    held.append(cache.fetch(step.bucket, step.shards))
                while len(reading) < min(AHEAD, len(chosen) - at):
                    step = chosen[at + len(reading)]
                    cache.will_need(step.bucket, step.rows)
                    reading.append(pool.submit(load, step))
                yield reading.popleft().result()
                if held:
                    held.popleft().close()
        finally:
            for future in reading:
                future.cancel()


def _of_set(cache: LatentCache, rows: pa.Table, set_name: str, split: str) -> pa.Table:
    """The rows whose clips the set keeps for this split, with their weights; a clip of several samples shares its."""
    ledger = cache.ledger(set_name)
    ledger = ledger.filter(pc.equal(ledger["split"], split))
    at = pc.index_in(rows["clip_id"], value_set=ledger["clip_id"].combine_chunks())
    rows, at = rows.filter(pc.is_valid(at)), at.filter(pc.is_valid(at)).to_numpy()
    _, which, counts = np.unique(at, return_inverse=True, return_counts=True)
    return rows.append_column("weight", pa.array(ledger["weight"].to_numpy()[at] / counts[which]))


def _located(cache: LatentCache, bucket: str, rows: pa.Table) -> pa.Table:
    """The rows with their place in the index (row, shard), in its order."""
    index = cache.index(bucket).select(["clip_id", "start_tick", "shard"])
    index = index.append_column("row", pa.array(np.arange(len(index))))
    found = index.join(rows.drop_columns(["bucket"]), ["clip_id", "start_tick"], join_type="inner").sort_by("row")
    if len(found) != len(rows):
        missing = f"{len(rows) - len(found)} of {len(rows)} samples are not encoded"
        raise CacheError(f"{bucket}: {missing}, run `python -m cache.encode_latents`")
    return found
