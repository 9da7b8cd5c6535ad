"""The tables of a latent cache and where its files lie.

latents-<fp8>/cache.json                        settings, fingerprints, counts
latents-<fp8>/views/<view>.parquet              ledger: each clip's bucket, or the reason why it has none
latents-<fp8>/<bucket>/shards.parquet           plan: which samples are in which shard; written before any shard
latents-<fp8>/<bucket>/shard-00000.tar          latents, their index in index.parquet
latents-<fp8>/<bucket>/shard-00000.text-<fp8>.tar    text states, their index in index.text-<fp8>.parquet

Beside an index and a view lies the same table as cache.beside writes it, for readers of a local cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cache import beside, ranges
from cache.fingerprint import CacheError
from media import storage
from pipelines import fingerprint

TABLES_AT_ONCE = 16

_text, _tick, _size = pa.string(), pa.int64(), pa.int64()

PLAN = pa.schema(
    {"shard": pa.int32(), "key": _text, "clip_id": _text, "start_tick": _tick}
    | {side: pa.int32() for side in ("crop_left", "crop_top", "crop_right", "crop_bottom")}
)
INDEX = pa.schema(
    {"clip_id": _text, "start_tick": _tick, "shard": pa.int32(), "offset": _size, "bytes": _size}
    | {"xxh3": pa.uint64(), "key": _text}
)
# tar: the file's name; captions: one hash per variant, equal texts have equal hashes; lengths: their states, tokens.
TEXT_INDEX = pa.schema(
    {**{field.name: field.type for field in INDEX}, "tar": _text}
    | {"captions": pa.list_(_text), "lengths": pa.list_(pa.int32())}
)
FAILED = pa.schema({"key": _text, "clip_id": _text, "start_tick": _tick, "shard": pa.int32(), "reason": _text})
VIEW = pa.schema({"clip_id": _text, "start_tick": _tick, "bucket": _text, "reason": _text})
OPENED_BY_READERS = tuple(set(schema.names) for schema in (INDEX, TEXT_INDEX, VIEW))
FINITE = {b"finite": b"all"}  # of an index: all numbers of its samples were looked at when they were written


class OldTable(CacheError):
    """A table of another version of this project."""


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
    """The table at path; an absent one is empty. Raises OldTable for one without these columns."""
    source = _source(path)
    return schema.empty_table() if source is None else _columns(path, source, schema.names).cast(schema)


def read_columns(path: str, names: Sequence[str]) -> pa.Table:
    """Some columns of a table, each in one piece and nothing of it in Python: a million rows take milliseconds.

    Raises FileNotFoundError, and OldTable for a table without one of them.
    """
    if not storage.is_remote(path) and (found := beside.read(path, names)) is not None:
        return found
    source = _source(path)
    if source is None:
        raise FileNotFoundError(path)
    return _columns(path, source, names).combine_chunks()


def version(path: str) -> tuple[int, int, int] | None:
    """What tells a local file from one that replaced it."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    return there.st_mtime_ns, there.st_size, there.st_ino


def made_table(path: str, schema: pa.Schema) -> pa.Table:
    """For whoever writes it: a table of an older form counts as absent, it is made again from the tars."""
    try:
        return read_table(path, schema)
    except OldTable:
        return schema.empty_table()


def _source(path: str) -> Any:
    """Something Parquet can be read from; None where there is nothing. From a store it is fetched whole, at once."""
    if not storage.is_remote(path):
        return path if os.path.exists(path) else None
    try:
        return pa.BufferReader(_bytes(path))
    except FileNotFoundError:
        return None


_together: ContextVar[dict[str, Future[bytes]]] = ContextVar("tables that are being fetched", default={})  # noqa: B039 (never written to)


@contextmanager
def fetched_together(paths: Sequence[str]) -> Iterator[None]:
    """Tables of a store are all asked for now and wait for one latency; in this context each is fetched once, however
    often it is read."""
    with ThreadPoolExecutor(max(1, min(TABLES_AT_ONCE, len(paths))), thread_name_prefix="tables") as pool:
        token = _together.set({path: pool.submit(_fetched, path) for path in paths})
        try:
            yield
        finally:
            _together.reset(token)


def _bytes(path: str) -> bytes:
    held = _together.get().get(path)
    return _fetched(path) if held is None else held.result()


def _fetched(path: str) -> bytes:
    """From a web server without its client, which takes longer to start than a table to fetch."""
    return ranges.read_whole(path) if path.startswith(("http://", "https://")) else storage.read_bytes(path)


def _columns(path: str, source: Any, names: Sequence[str]) -> pa.Table:
    """memory_map: Parquet reads without copying the file first; a name that fills a shard is read as a code."""
    codes = [name for name in names if name in ("tar", "bucket")]
    with pq.ParquetFile(source, memory_map=True, read_dictionary=codes) as file:
        there = file.schema_arrow.names
        if missing := [name for name in names if name not in there]:
            raise OldTable(
                f"{path}: has no column {', '.join(missing)}, it was written by another version; "
                "run `python -m cache.encode_latents`: it reads the tars again and encodes nothing that is there"
            )
        small = file.metadata.num_rows < 100_000  # where waking threads costs more than they do
        return file.read(columns=list(names), use_threads=not small).select(list(names))


def write_table(path: str, table: pa.Table) -> None:
    """Whole or not at all. Ids and checksums never repeat: a dictionary of them would only cost time to read."""
    repeated = [name for name in table.column_names if name not in ("clip_id", "key", "xxh3", "offset", "captions")]
    data = pa.BufferOutputStream()
    pq.write_table(table, data, compression="zstd", use_dictionary=repeated)  # type: ignore[arg-type] (names are fine)
    written = data.getvalue()
    storage.write_bytes(path, written)
    if set(table.column_names) in OPENED_BY_READERS and not storage.is_remote(path):
        beside.write(path, table.drop_columns(["captions"]) if "captions" in table.column_names else table, written)


def write_index(path: str, table: pa.Table, finite: bool) -> None:
    """finite: all numbers of its samples were looked at; a reader whose checksum is right need not look again."""
    write_table(path, table.replace_schema_metadata(FINITE if finite else None))


def says_finite(table: pa.Table) -> bool:
    return (table.schema.metadata or {}).get(b"finite") == FINITE[b"finite"]


def all_finite(path: str) -> bool:
    """Whether an index says so; that of no samples does."""
    try:
        return says_finite(read_columns(path, ["clip_id"]))
    except (FileNotFoundError, OldTable):
        return True


def read_json(path: str) -> dict[str, Any] | None:
    try:
        return json.loads(_bytes(path))
    except FileNotFoundError:
        return None


def write_json(path: str, data: dict[str, Any]) -> None:
    storage.write_bytes(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def buckets(folder: str) -> list[str]:
    """Names of the buckets of a cache, sorted."""
    return [name for name in storage.folders(folder) if name[:1].isdigit()]
