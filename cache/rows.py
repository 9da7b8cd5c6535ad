"""Where the samples of a bucket lie: numbers in arrays, names on demand, so that a million rows open at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import CacheError
from media import storage

PLACES = pa.schema(
    [field for field in tables.TEXT_INDEX if field.name in ("key", "shard", "offset", "bytes", "crc", "tar")]
)


class Column:
    """Of the latents, or of the texts."""

    def __init__(self, folder: str, bucket: str, table: pa.Table, text: bool):
        self.folder, self.bucket, self.text = folder, bucket, text
        self.keys = table["key"]
        self.shards = table["shard"].to_numpy()
        self.offsets, self.sizes = table["offset"].to_numpy(), table["bytes"].to_numpy()
        self.crcs = table["crc"].to_numpy()
        self.checked = np.zeros(len(table), dtype=bool)
        firsts = np.unique(self.shards, return_index=True)
        self.tars = {int(shard): self._tar(table, int(shard), int(row)) for shard, row in zip(*firsts, strict=True)}

    def _tar(self, table: pa.Table, shard: int, row: int) -> str:
        name = table["tar"][row].as_py() if self.text else tables.shard_name(shard)
        return storage.join(self.folder, self.bucket, name)

    def place(self, row: int) -> tuple[str, int, int, int]:
        """(path of the tar, offset, bytes, checksum)."""
        return (self.tars[int(self.shards[row])], int(self.offsets[row]), int(self.sizes[row]), int(self.crcs[row]))

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
        self.table = tables.read_table(tables.index_path(folder, bucket), tables.INDEX)
        texts = tables.read_table(tables.text_index_path(folder, bucket, text), PLACES)
        if not self.table["key"].equals(texts["key"]) or not self.table["shard"].equals(texts["shard"]):
            raise CacheError(
                f"{bucket}: {len(self.table)} latents but text states of {len(texts)}, or of others; "
                "run `python -m cache.encode_latents`"
            )
        self._clips, self._ticks = (self.table[name].combine_chunks() for name in ("clip_id", "start_tick"))
        self.shape = Bucket.parse(bucket).latent_shape(channels)
        self.latents = Column(folder, bucket, self.table, text=False)
        self.texts = Column(folder, bucket, texts, text=True)

    def identity(self, row: int) -> tuple[str, int]:
        return self.table["clip_id"][row].as_py(), self.table["start_tick"][row].as_py()

    def identities(self, rows: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Clip ids and start ticks."""
        at = pa.array(rows, pa.int64())
        return tuple(self._clips.take(at).to_pylist()), tuple(self._ticks.take(at).to_pylist())

    def files(self, shard: int) -> list[str]:
        if shard not in self.latents.tars:
            raise CacheError(f"{self.latents.bucket}: no shard {shard}, there are {len(self.latents.tars)}")
        return [self.latents.tars[shard], self.texts.tars[shard]]
