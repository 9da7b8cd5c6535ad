"""Where the samples of a bucket lie: numbers in arrays, names on demand, so that a million rows open at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import CacheError
from cache.lookup import Identities, identities
from media import storage

if TYPE_CHECKING:
    from cache.gather import Layout


class Tar(NamedTuple):
    """A shard's tar: rows [first, stop) of the index lie in it, the last one of them ends at `bytes`."""

    path: str
    first: int
    stop: int
    bytes: int


class Column:
    """Of the latents, or of the texts. Raises CacheError for an index that no encoder wrote."""

    def __init__(self, folder: str, bucket: str, path: str, text: bool):
        self.bucket, self.text, self._names = bucket, text, tables.index_path(folder, bucket)
        table = _read(path, ["shard", "offset", "bytes", "xxh3", *(["tar"] if text else [])])
        self.shards, self.offsets, self.sizes, self.sums = (
            table[name].to_numpy() for name in ("shard", "offset", "bytes", "xxh3")
        )
        if len(table) and (np.any(np.diff(self.shards) < 0) or min(self.offsets.min(), self.sizes.min()) < 0):
            raise CacheError(f"{path}: not an index of this cache; {REPAIR}")
        firsts = np.flatnonzero(np.diff(self.shards, prepend=-1)) if len(table) else np.zeros(0, np.int64)
        ends = np.maximum.reduceat(self.offsets + self.sizes, firsts) if len(firsts) else firsts
        stops = [*firsts[1:].tolist(), len(table)]
        self.tars: dict[int, Tar] = {}
        for first, stop, end in zip(firsts.tolist(), stops, ends.tolist()):
            shard = int(self.shards[first])
            name = table["tar"][first].as_py() if text else tables.shard_name(shard)
            self.tars[shard] = Tar(storage.join(folder, bucket, name), first, stop, end)

    @cached_property
    def keys(self) -> pa.Array:
        """Of the latents: text states lie in the same order under the same names, or are not these."""
        return _whole(_read(self._names, ["key"])["key"])

    def keys_of(self, rows: np.ndarray) -> list[str]:
        return self.keys.take(pa.array(rows)).to_pylist() if len(rows) else []

    def place(self, row: int) -> tuple[str, int, int, int]:
        """(path of the tar, offset, bytes, checksum)."""
        return (
            self.tars[int(self.shards[row])].path,
            int(self.offsets[row]),
            int(self.sizes[row]),
            int(self.sums[row]),
        )

    def version(self, tar: Tar) -> str:
        """What tells this tar from one of the same name that was rewritten: its checksums, all in one."""
        return f"{int(np.bitwise_xor.reduce(self.sums[tar.first : tar.stop])):016x}"

    def name(self, row: int) -> Name:
        return Name(self, row)


class Name(NamedTuple):
    """A sample as errors call it; written out only then."""

    column: Column
    row: int

    def __str__(self) -> str:
        key = self.column.keys[self.row].as_py()
        return f"{self.column.bucket}/{key} ({'text states' if self.column.text else 'latent'})"

    def __format__(self, spec: str) -> str:
        return str(self)


class Rows:
    """A bucket's samples. Raises CacheError when the index of texts is not that of the latents."""

    def __init__(self, folder: str, bucket: str, text: str, channels: int):
        self._path = tables.index_path(folder, bucket)
        self.lock = Lock()
        self.layout: Layout | None = None  # of its latents, known when one of them was read
        self.shape = Bucket.parse(bucket).latent_shape(channels)
        self.latents = Column(folder, bucket, self._path, text=False)
        self.texts = Column(folder, bucket, tables.text_index_path(folder, bucket, text), text=True)
        if not np.array_equal(self.latents.shards, self.texts.shards):
            raise CacheError(
                f"{bucket}: {len(self)} latents but text states of {len(self.texts.shards)}, or of others; "
                "run `python -m cache.encode_latents`"
            )

    def __len__(self) -> int:
        return len(self.latents.shards)

    @cached_property
    def table(self) -> pa.Table:
        return tables.read_table(self._path, tables.INDEX)

    @cached_property
    def _who(self) -> pa.Table:
        return _read(self._path, ["clip_id", "start_tick"])

    @cached_property
    def identities(self) -> Identities:
        """Of every row, as numbers."""
        return identities(self._who)

    def names(self, rows: Sequence[int] | np.ndarray) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Clip ids and start ticks."""
        clips, ticks = self._called
        at = np.asarray(rows, np.int64)
        return tuple(clips.take(pa.array(at)).to_pylist()), tuple(ticks[at].tolist())

    @cached_property
    def _called(self) -> tuple[pa.Array, np.ndarray]:
        return _whole(self._who["clip_id"]), self._who["start_tick"].to_numpy()

    def tar(self, column: Column, shard: int) -> Tar:
        if shard not in column.tars:
            raise CacheError(f"{column.bucket}: no shard {shard}, there are {len(column.tars)}")
        return column.tars[shard]


REPAIR = "run `python -m cache.verify`, it says what to do"


def _read(path: str, names: list[str]) -> pa.Table:
    """An index that is not there is that of no samples."""
    try:
        return tables.read_columns(path, names)
    except FileNotFoundError:
        schema = pa.schema([tables.TEXT_INDEX.field(name) for name in names])
        return schema.empty_table()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """In one piece: to take rows of many chunks costs a hundred times as much."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
