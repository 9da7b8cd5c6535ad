"""The tables of a latent cache and where its files lie.

latents-<fp8>/cache.json                        settings, fingerprints, counts
latents-<fp8>/views/<view>.parquet              ledger: each clip's bucket, or the reason why it has none
latents-<fp8>/<bucket>/shards.parquet           plan: which samples are in which shard; written before any shard
latents-<fp8>/<bucket>/shard-00000.tar          latents, their index in index.parquet
latents-<fp8>/<bucket>/shard-00000.text-<fp8>.tar    text states, their index in index.text-<fp8>.parquet
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from media import storage
from pipelines import fingerprint

_text, _tick, _size = pa.string(), pa.int64(), pa.int64()

PLAN = pa.schema(
    {"shard": pa.int32(), "key": _text, "clip_id": _text, "start_tick": _tick}
    | {side: pa.int32() for side in ("crop_left", "crop_top", "crop_right", "crop_bottom")}
)
INDEX = pa.schema(
    {"clip_id": _text, "start_tick": _tick, "shard": pa.int32(), "offset": _size, "bytes": _size}
    | {"crc": pa.uint32(), "key": _text}
)
# tar: the file's name; captions: one hash per variant, equal texts have equal hashes.
TEXT_INDEX = pa.schema({**{field.name: field.type for field in INDEX}, "tar": _text, "captions": pa.list_(_text)})
FAILED = pa.schema({"key": _text, "clip_id": _text, "start_tick": _tick, "shard": pa.int32(), "reason": _text})
VIEW = pa.schema({"clip_id": _text, "start_tick": _tick, "bucket": _text, "reason": _text})


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.tar"


def text_name(shard: int, encoder: str, samples: Sequence[Mapping[str, Any]] = ()) -> str:
    """A text tar's name: it covers the encoder (its fingerprint) and the keys and captions of the samples, so that a
    tar never changes under its name."""
    made_by = fingerprint([encoder, [[one["key"], one["captions"]] for one in samples]])
    return f"shard-{shard:05d}.text-{made_by}.tar"


def plan_path(folder: str, bucket: str) -> str:
    return storage.join(folder, bucket, "shards.parquet")


def index_path(folder: str, bucket: str) -> str:
    return storage.join(folder, bucket, "index.parquet")


def failed_path(folder: str, bucket: str) -> str:
    return storage.join(folder, bucket, "failed.parquet")


def text_index_path(folder: str, bucket: str, text_fingerprint: str) -> str:
    return storage.join(folder, bucket, f"index.text-{text_fingerprint}.parquet")


def view_path(folder: str, view: str) -> str:
    return storage.join(folder, "views", f"{view}.parquet")


def read_table(path: str, schema: pa.Schema) -> pa.Table:
    """The table at path; an absent one is empty."""
    if not storage.exists(path):
        return schema.empty_table()
    with storage.open_read(path) as file:
        return pq.read_table(file, columns=schema.names).select(schema.names).cast(schema)


def write_table(path: str, table: pa.Table) -> None:
    """Whole or not at all."""
    with storage.writing(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_json(path: str) -> dict[str, Any] | None:
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else None


def write_json(path: str, data: dict[str, Any]) -> None:
    storage.write_bytes(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def buckets(folder: str) -> list[str]:
    """Names of the buckets of a cache, sorted."""
    return [name for name in storage.folders(folder) if name[:1].isdigit()]
