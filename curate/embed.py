"""Clips -> unit vectors, from their proxies alone: what k-means concepts and semantic copies are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

import pipelines

ENCODE_VERSION = 1  # changes only when the vectors do, for reasons that no setting tells

SCHEMA = pa.schema([("clip_id", pa.string()), ("vector", pa.list_(pa.float32()))])

# Cosines from which two clips are taken for one, by model; `embed.same` overrules them.
# The descriptor's is measured: re-encoded, rescaled, marked and brightened copies of pictures came out at 0.977 or more
# and other pictures below 0.86 (curate/descriptor.py). It only proposes; hashes and pictures decide.
DESCRIPTOR_SAME = 0.97
# A learned model's is a careful guess, not a measurement: a pair above it is dropped without another look. Look at the
# similarities that `curate explain` shows for your footage, then set `embed.same`.
LEARNED_SAME = 0.97

Describe = Callable[[list[np.ndarray]], np.ndarray]  # RGB uint8 (H, W, 3) frames of one clip -> float32 (D,)


def embed(proxies: pa.Table, settings: pipelines.Embed) -> pa.Table:
    """proxies (clip_id, jpegs) -> (clip_id, vector float32 (D,), unit length), in the order of the rows.

    A part of the table at a time is fine: no clip's vector depends on another clip. Raises RecipeError for a model or
    weights that are not there, ValueError for a clip without a proxy.
    """
    from curate.pictures import decode_jpegs

    describe = describer(settings)
    clip_ids = proxies["clip_id"].to_pylist()
    vectors = [describe(decode_jpegs(jpegs.as_py())) for jpegs in proxies["jpegs"]]
    return pa.table({"clip_id": clip_ids, "vector": vectors}, schema=SCHEMA)


def describer(settings: pipelines.Embed) -> Describe:
    """The function that describes one clip. Loading a network happens here, once."""
    if settings.model == "descriptor":
        from curate.descriptor import describe_clip

        return describe_clip
    from curate.embed_clip import load_tower

    return load_tower(settings)


def same(settings: pipelines.Embed) -> float:
    """The cosine in [0, 1] from which two clips are duplicates: the recipe's, else the model's own."""
    if settings.same is not None:
        return settings.same
    return DESCRIPTOR_SAME if settings.model == "descriptor" else LEARNED_SAME


def embed_settings(settings: pipelines.Embed) -> dict[str, Any]:
    """Everything that changes a vector, weights' hash included: what the table's fingerprint is made of.

    `same` is not in it: it judges vectors and changes none.
    """
    plain = {"model": settings.model, "pretrained": settings.pretrained, "encode_version": ENCODE_VERSION}
    if settings.model == "descriptor":
        from curate.descriptor import DESCRIPTOR_VERSION

        return plain | {"descriptor_version": DESCRIPTOR_VERSION}
    from curate.embed_clip import TOWER_VERSION, weights_hash

    return plain | {"tower_version": TOWER_VERSION, "weights": weights_hash(settings)}


def matrix(embeddings: pa.Table, clip_ids: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """embeddings -> (clip_ids, float32 (N, D)) sorted by clip_id; only the given clips, if given.

    Raises ValueError where a given clip has no vector.
    """
    table = embeddings.select(["clip_id", "vector"]).sort_by("clip_id")
    ids = table["clip_id"].to_pylist()
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.reshape(len(ids), -1) if ids else np.zeros((0, 1), np.float32)
    if clip_ids is None:
        return ids, vectors
    row_of = {clip_id: row for row, clip_id in enumerate(ids)}
    wanted = sorted(clip_ids)
    missing = [clip_id for clip_id in wanted if clip_id not in row_of]
    if missing:
        raise ValueError(f"embeddings must hold every clip, {len(missing)} are missing, the first is {missing[0]}")
    return wanted, vectors[[row_of[clip_id] for clip_id in wanted]]
