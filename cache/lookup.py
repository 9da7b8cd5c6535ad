"""Samples found by clip and start among a million, without a Python object for any of them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cache.columns import to_numpy, whole

ID_CHARS = 16  # a clip id is 16 hex digits
BLOCK = 1 << 14
Ints = NDArray[np.int64]


class Identities:
    """Of N samples: clip ids, as numbers (N,) uint64 or as the column of hex digits that they are in a table, and start
    ticks (N,) int64."""

    def __init__(self, ids: NDArray[np.uint64] | pa.ChunkedArray, ticks: Ints):
        self._ids, self.ticks = ids, ticks

    @cached_property
    def clips(self) -> NDArray[np.uint64]:
        """As numbers."""
        return self._ids if isinstance(self._ids, np.ndarray) else numbers(self._ids)

    @cached_property
    def words(self) -> NDArray[np.uint64]:
        """As words (N, W) that are in order where the ids are: the digits as they are written, or the numbers."""
        if isinstance(self._ids, np.ndarray):
            return self._ids[:, None]
        return characters(whole(self._ids)).astype(np.uint64).reshape(-1, ID_CHARS // 8)

    def chosen(self, mask: NDArray[np.bool_]) -> Identities:
        return self if mask.all() else Identities(self.clips[mask], self.ticks[mask])


def identities(table: pa.Table) -> Identities:
    """Of the columns clip_id and start_tick."""
    return Identities(table["clip_id"], to_numpy(table["start_tick"]).astype(np.int64, copy=False))


def numbers(ids: pa.ChunkedArray | pa.Array) -> NDArray[np.uint64]:
    """Ids of 16 hex digits (N,) -> uint64 (N,). Raises ValueError for other ids."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    parts = [_numbers(characters(chunk)) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def characters(ids: pa.Array) -> NDArray[np.uint64]:
    """All ids' characters, eight in a word (2 N,) big-endian, not copied. Raises ValueError."""
    ids = ids.cast(pa.string()) if ids.type != pa.string() else ids
    _, places, characters = ids.buffers()
    offsets = np.frombuffer(places, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    if ids.null_count or (offsets[1:] - offsets[:-1] != ID_CHARS).any():
        raise ValueError(f"clip ids have {ID_CHARS} hex digits, here is another one")
    return np.frombuffer(characters, ">u8", 2 * len(ids), int(offsets[0]))


def _numbers(raw: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Eight digits at a time: characters -> their values in 8 bytes -> pairs in 4 -> fours in 2 -> one number."""
    found = np.empty(len(raw), np.uint64)
    for at in range(0, len(raw), BLOCK):  # of words, as many as the processor's cache holds
        some = raw[at : at + BLOCK].astype(np.uint64)
        letters = (some >> 6) & 0x0101010101010101
        some = (some & 0x0F0F0F0F0F0F0F0F) + letters * 9
        for shift, kept in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0xFFFFFFFF)):
            some = (some | some >> shift) & kept
        found[at : at + BLOCK] = some
    return np.bitwise_or(found[::2] << np.uint64(32), found[1::2])


def find(held: Identities, wanted: Identities) -> Ints:
    """Where each wanted sample (M,) is among those held (N,); -1 for one that is not. Of equal ones the last is meant:
    a sample that was encoded again (another crop, say) lies in a later shard."""
    if not len(held.ticks):
        return np.full(len(wanted.ticks), -1)
    if np.array_equal(held.ticks, wanted.ticks) and np.array_equal(held.words, wanted.words) and _ascending(held):
        return np.arange(len(held.ticks))  # every sample is wanted, and there is one of each
    order = np.lexsort((held.ticks, held.clips))  # stable: of equal ones the last stays last
    clips, ticks = held.clips[order], held.ticks[order]
    at = np.searchsorted(clips, wanted.clips, side="right") - 1
    while (back := (at >= 0) & (clips[at] == wanted.clips) & (ticks[at] > wanted.ticks)).any():
        at -= back  # a clip has few samples in a bucket: one step for each
    there = (at >= 0) & (clips[at] == wanted.clips) & (ticks[at] == wanted.ticks)
    return np.where(there, order[at], -1)


def _ascending(held: Identities) -> bool:
    """Strictly, so that none is there twice."""
    more = np.zeros(len(held.ticks) - 1, bool)
    same = ~more
    for column in (*held.words.T, held.ticks):
        more |= same & (column[1:] > column[:-1])
        same &= column[1:] == column[:-1]
    return bool(more.all())
