"""What a stage trains on: ledgers and views of the cache, joined into the pools that the plan goes through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache.buckets import Bucket
from cache.fingerprint import CacheError
from cache.read import LatentCache
from pipelines import Feed, RecipeError, Stage
from train.plan import Pool, Texts, samples_per_batch

SPLITS = ("train", "val")
ID_BYTES = 16  # a clip id is 16 hex digits


class FeedPools(NamedTuple):
    """One feed: its pools per bucket, to train on and to validate on; summary: what a resumed run compares."""

    name: str
    train: tuple[Pool, ...]
    val: tuple[Pool, ...]
    summary: dict[str, dict[str, Any]]


def feed_pools(cache: LatentCache, feed: Feed, tokens: int, cost: Callable[[Bucket], float]) -> FeedPools:
    """The pools of a feed. tokens: budget of a micro-batch; cost: FLOPs of one sample of a bucket.

    Raises RecipeError when nothing is left to train on, CacheError when samples are not encoded.
    """
    name = f"{feed.set} x {feed.view}"
    wanted = _wanted(cache, feed)
    train, val, summary = [], [], {}
    for bucket in sorted(set(wanted["bucket"].to_pylist())):
        rows = _rows(cache, bucket, wanted.filter(pc.equal(wanted["bucket"], bucket)))
        shape = Bucket.parse(bucket)
        batch = samples_per_batch(tokens, shape.tokens())
        for split, pools in ((SPLITS[0], train), (SPLITS[1], val)):
            mine = rows.filter(pc.equal(rows["split"], split))
            pools += [_pool(bucket, batch, cost(shape), mine, _texts(cache, bucket, mine))] if len(mine) else []
        summary[bucket] = _summary(rows, _texts(cache, bucket, rows))
    if not train:
        raise RecipeError(f"{name}: no clip to train on: {_why(cache, feed)}")
    return FeedPools(name, tuple(train), tuple(val), summary)


def stage_pools(cache: LatentCache, stage: Stage, cost: Callable[[Bucket], float]) -> list[FeedPools]:
    return [feed_pools(cache, feed, stage.tokens, cost) for feed in stage.feeds]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line per bucket of a feed whose samples are not those of `before`; both are {feed: summary}."""
    lines = []
    for feed in sorted({*before, *now}):
        old, new = before.get(feed, {}), now.get(feed, {})
        for bucket in sorted({*old, *new}):
            if old.get(bucket) != new.get(bucket):
                lines.append(f"{feed}, {bucket}: {_told(old.get(bucket))} -> {_told(new.get(bucket))}")
    return lines


def unplaced(cache: LatentCache, feed: Feed) -> int:
    """Clips that the set keeps and of which the view knows nothing: it was encoded for a smaller set."""
    known = cache.view(feed.view)["clip_id"].combine_chunks()
    return pc.sum(pc.invert(pc.is_in(cache.ledger(feed.set)["clip_id"], value_set=known))).as_py() or 0


def _wanted(cache: LatentCache, feed: Feed) -> pa.Table:
    """clip_id, start_tick, bucket, weight, split of the samples that set and view have in common.

    A clip of several samples in the view shares its weight among them.
    """
    ledger, view = cache.ledger(feed.set), cache.view(feed.view)
    view = view.filter(pc.is_valid(view["bucket"]))
    at = pc.index_in(view["clip_id"], value_set=ledger["clip_id"].combine_chunks())
    view, at = view.filter(pc.is_valid(at)), at.filter(pc.is_valid(at))
    _, which, counts = np.unique(at.to_numpy(), return_inverse=True, return_counts=True)
    weights = ledger["weight"].take(at).to_numpy() / counts[which]
    return view.select(["clip_id", "start_tick", "bucket"]).append_column("weight", pa.array(weights)).append_column(
        "split", ledger["split"].take(at)
    )  # fmt: skip


def _rows(cache: LatentCache, bucket: str, wanted: pa.Table) -> pa.Table:
    """The wanted samples of a bucket with their row, shard and checksum, in index order.

    A sample that was encoded again (another crop, say) has several rows: the last one is meant.
    """
    index = cache.index(bucket).select(["clip_id", "start_tick", "shard", "xxh3"])
    index = index.append_column("row", pa.array(np.arange(len(index))))
    last = index.group_by(["clip_id", "start_tick"]).aggregate([("row", "max")])["row_max"]
    index = index.take(last)
    rows = wanted.join(index, ["clip_id", "start_tick"], join_type="inner").sort_by("row")
    if len(rows) != len(wanted):
        raise CacheError(
            f"{bucket}: {len(wanted) - len(rows)} of {len(wanted)} samples are not encoded, "
            "run `python -m cache.encode_latents`"
        )
    return rows


def _texts(cache: LatentCache, bucket: str, rows: pa.Table) -> Texts:
    """Tokens of the caption variants of these rows of a bucket."""
    chosen = cache.text_lengths(bucket).take(pa.array(rows["row"].to_numpy()))
    counts = pc.list_value_length(chosen).to_numpy(zero_copy_only=False)
    if chosen.null_count or not counts.all():
        raise CacheError(f"{bucket}: the index of text states has no lengths, run `python -m cache.encode_latents`")
    tokens = chosen.flatten().to_numpy().astype(np.int64)
    return Texts(tokens, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _pool(bucket: str, batch: int, cost: float, rows: pa.Table, texts: Texts) -> Pool:
    return Pool(
        bucket=bucket, batch=batch, cost=cost, rows=rows["row"].to_numpy(),
        shards=rows["shard"].to_numpy().astype(np.int64), clips=_ids(rows["clip_id"]),
        ticks=rows["start_tick"].to_numpy(), weights=rows["weight"].to_numpy(), texts=texts,
    )  # fmt: skip


def _ids(clips: pa.ChunkedArray) -> np.ndarray:
    """Clip ids (N,) as bytes, without a Python object for each of a million."""
    fixed = pa.concat_arrays(clips.cast(pa.binary()).cast(pa.binary(ID_BYTES)).chunks)
    return np.frombuffer(fixed.buffers()[1], dtype=f"S{ID_BYTES}")[fixed.offset : fixed.offset + len(fixed)]


def _summary(rows: pa.Table, texts: Texts) -> dict[str, Any]:
    """Counts and a digest of everything the plan and the losses depend on: ids, places, weights, splits, bytes, lengths of
    texts."""
    digest = hashlib.sha256()
    for column in ("row", "shard", "start_tick", "xxh3", "weight"):
        digest.update(np.ascontiguousarray(rows[column].to_numpy()).tobytes())
    for part in texts:
        digest.update(part.tobytes())
    for column in ("clip_id", "split"):
        digest.update("\n".join(rows[column].to_pylist()).encode())
    counts = {split: pc.sum(pc.equal(rows["split"], split)).as_py() or 0 for split in SPLITS}
    return {**counts, "weight": float(np.sum(rows["weight"].to_numpy())), "digest": digest.hexdigest()[:16]}


def _told(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "none"
    return f"{summary['train']} train + {summary['val']} val, weight {summary['weight']:.6g} ({summary['digest']})"


def _why(cache: LatentCache, feed: Feed) -> str:
    """Where the clips of an empty feed went, in one line."""
    ledger, view = cache.ledger(feed.set), cache.view(feed.view)
    splits = {split: pc.sum(pc.equal(ledger["split"], split)).as_py() or 0 for split in SPLITS}
    mine = view.filter(pc.is_in(view["clip_id"], value_set=ledger["clip_id"].combine_chunks()))
    reasons = mine.filter(pc.is_valid(mine["reason"]))["reason"].value_counts().to_pylist()
    told = "; ".join(f"{one['counts']} {one['values']}" for one in reasons) or "no reason given"
    return f"the set keeps {splits['train']} train and {splits['val']} val clips, of which the view leaves out: {told}"
