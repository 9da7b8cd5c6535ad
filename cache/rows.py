"""Where the samples of a bucket lie: numbers in arrays, names on demand, so that a million rows open at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.columns import coded, to_arrow, to_numpy, whole
from cache.fingerprint import CacheError
from cache.lookup import ID_CHARS, Identities, characters, identities
from media import storage

if TYPE_CHECKING:
    from cache.gather import Layout

REPAIR = "run `python -m cache.verify`, it says what to do"
HEADER_BYTES = 512  # of a tar, before each member
PLANS = 4096  # of text states that are remembered


class Tar(NamedTuple):
    """A shard's tar: rows [first, stop) of the index lie in it, the last one of them ends at `bytes`."""

    path: str
    first: int
    stop: int
    bytes: int


class Names:
    """Of a bucket's samples, in the order of the latents; text states lie in it as well, under the same keys. Each
    column is read when it is first asked for."""

    def __init__(self, path: str):
        self._path = path

    @cached_property
    def who(self) -> pa.Table:
        return _read(self._path, ["clip_id", "start_tick"])

    @cached_property
    def clips(self) -> pa.Array:
        return whole(self.who["clip_id"])

    @cached_property
    def _fixed(self) -> np.ndarray | None:
        """The clips' characters (N,) S16, not copied; None where an id is not 16 characters."""
        try:
            return characters(self.clips).view(f"S{ID_CHARS}")
        except ValueError:
            return None

    def of(self, at: np.ndarray) -> tuple[str, ...]:
        """Clips of rows."""
        if self._fixed is None:
            return tuple(self.clips.take(to_arrow(at)).to_pylist())
        return tuple([one.decode() for one in self._fixed[at].tolist()])

    @cached_property
    def ticks(self) -> np.ndarray:
        return to_numpy(self.who["start_tick"])

    @cached_property
    def keys(self) -> pa.Array:
        """Names in the tars; of few samples, or of one that something is wrong with: most are the clip's id."""
        return whole(_read(self._path, ["key"])["key"])


class Like(NamedTuple):
    """Of states (L, width) and pooled (slots, pooled_width)."""

    dtype: torch.dtype
    width: int
    pooled_dtype: torch.dtype
    pooled_width: int


class Plan(NamedTuple):
    """Where in a member its states and its pooled vectors start; the cuts of its variants: first and last row of their
    states, and their slot; numbers: bytes [begin, end) and dtype of each stretch of tensors."""

    states: int
    pooled: int
    cuts: tuple[tuple[int, int, int], ...]
    like: Like
    numbers: tuple[tuple[int, int, torch.dtype], ...]


class Plans:
    """The plans of text states that were looked at, by numbers from 2 on. Only so many: captions of several variants have
    about as many as there are samples."""

    def __init__(self):
        self._plans: list[Plan] = []
        self._numbers: dict[int, int] = {}  # by id(): a plan lives as long as it is in the list
        self._lock = Lock()

    def number(self, plan: Plan) -> int:
        """1 for one that is not remembered."""
        found = self._numbers.get(id(plan))
        if found is None:
            with self._lock:
                if len(self._plans) >= PLANS:
                    return 1
                self._plans.append(plan)
                found = self._numbers[id(plan)] = len(self._plans) + 1
        return found

    def of(self, number: int) -> Plan | None:
        return self._plans[number - 2] if number > 1 else None


class Column:
    """Of the latents, or of the texts. finite: whoever wrote the index has seen that all numbers are.

    Raises CacheError for an index that no encoder wrote."""

    def __init__(self, folder: str, bucket: str, path: str, text: bool, names: Names):
        self.bucket, self.text, self.names, self.plans = bucket, text, names, Plans()
        table = _read(path, ["shard", "offset", "bytes", "xxh3", *(["tar"] if text else [])])
        self.finite = tables.says_finite(table)
        self.shards, self.offsets, self.sizes, self.sums = (
            to_numpy(table[name]) for name in ("shard", "offset", "bytes", "xxh3")
        )
        firsts = np.concatenate([[0], np.flatnonzero(self.shards[1:] != self.shards[:-1]) + 1])[: len(table)]
        if len(table) and (np.any(np.diff(self.shards[firsts]) <= 0) or min(self.offsets.min(), self.sizes.min()) < 0):
            raise CacheError(f"{path}: not an index of this cache; {REPAIR}")
        ends = np.maximum.reduceat(self.offsets + self.sizes, firsts) if len(firsts) else firsts
        stops, prefix = [*firsts[1:].tolist(), len(table)], storage.join(folder, bucket, "")
        codes, tars = coded(table["tar"]) if text and len(table) else (self.shards, [])
        self.tars: dict[int, Tar] = {}
        for first, stop, end in zip(firsts.tolist(), stops, ends.tolist()):
            shard = int(self.shards[first])
            name = tars[codes[first]] if text else tables.shard_name(shard)
            self.tars[shard] = Tar(prefix + name, first, stop, end)

    def place(self, row: int) -> tuple[str, int, int, int]:
        """(path of the tar, offset, bytes, checksum)."""
        return (
            self.tars[int(self.shards[row])].path,
            int(self.offsets[row]),
            int(self.sizes[row]),
            int(self.sums[row]),
        )

    def needs(self, rows: Sequence[int]) -> list[tuple[str, int, int]]:
        """(path of the tar, start, stop) of each row's sample and the tar's header before it."""
        at = np.asarray(rows, np.int64)
        starts, sizes = self.offsets[at], self.sizes[at]
        begins = np.maximum(starts - HEADER_BYTES, 0).tolist()
        paths = [self.tars[shard].path for shard in self.shards[at].tolist()]
        return list(zip(paths, begins, (starts + sizes).tolist()))

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
        key = self.column.names.keys[self.row].as_py()
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
        self._names = Names(self._path)
        self.latents = Column(folder, bucket, self._path, False, self._names)
        self.texts = Column(folder, bucket, tables.text_index_path(folder, bucket, text), True, self._names)
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
    def mean_bytes(self) -> float:
        """Of a sample, its text states among them."""
        return (int(self.latents.sizes.sum()) + int(self.texts.sizes.sum())) / max(1, len(self))

    @cached_property
    def identities(self) -> Identities:
        """Of every row, as numbers."""
        return identities(self._names.who)

    def names(self, rows: Sequence[int] | np.ndarray) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Clip ids and start ticks. Raises IndexError."""
        at = np.asarray(rows, np.int64)
        mine = at.tolist()
        if mine and not (min(mine) >= 0 and max(mine) < len(self)):
            raise IndexError(f"{self.latents.bucket}: row {max(mine) if max(mine) > 0 else min(mine)} of {len(self)}")
        return self._names.of(at), tuple(self._names.ticks[at].tolist())

    def tar(self, column: Column, shard: int) -> Tar:
        if shard not in column.tars:
            raise CacheError(f"{column.bucket}: no shard {shard}, there are {len(column.tars)}")
        return column.tars[shard]


def _read(path: str, names: list[str]) -> pa.Table:
    """An index that is not there is that of no samples."""
    try:
        return tables.read_columns(path, names)
    except FileNotFoundError:
        schema = pa.schema([tables.TEXT_INDEX.field(name) for name in names])
        return schema.empty_table()
