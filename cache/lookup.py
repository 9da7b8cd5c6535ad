"""Samples found by clip and start among a million, without a Python object for any of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ID_CHARS = 16  # a clip id is 16 hex digits
_NIBBLES = np.zeros(256, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

Ints = NDArray[np.int64]


class Identities(NamedTuple):
    """Of N samples: clip ids as the numbers that they are in hex (N,) uint64, start ticks (N,) int64."""

    clips: NDArray[np.uint64]
    ticks: Ints


def identities(table: pa.Table) -> Identities:
    """Of the columns clip_id and start_tick."""
    return Identities(numbers(table["clip_id"]), table["start_tick"].to_numpy().astype(np.int64, copy=False))


def numbers(ids: pa.ChunkedArray | pa.Array) -> NDArray[np.uint64]:
    """Ids of 16 hex digits (N,) -> uint64 (N,). Raises ValueError for other ids."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    parts = [_numbers(chunk.cast(pa.binary()).cast(pa.binary(ID_CHARS))) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _numbers(ids: pa.Array) -> NDArray[np.uint64]:
    raw = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * ID_CHARS : (ids.offset + len(ids)) * ID_CHARS]
    digits = _NIBBLES[raw.reshape(-1, ID_CHARS)]
    pairs = np.ascontiguousarray((digits[:, ::2] << 4) | digits[:, 1::2])
    return pairs.view(">u8").ravel().astype(np.uint64)


def find(held: Identities, wanted: Identities) -> Ints:
    """Where each wanted sample (M,) is among those held (N,); -1 for one that is not. Of equal ones the last is meant:
    a sample that was encoded again (another crop, say) lies in a later shard."""
    if not len(held.clips):
        return np.full(len(wanted.clips), -1)
    order = np.lexsort((held.ticks, held.clips))  # stable: of equal ones the last stays last
    clips, ticks = held.clips[order], held.ticks[order]
    at = np.searchsorted(clips, wanted.clips, side="right") - 1
    while (back := (at >= 0) & (clips[at] == wanted.clips) & (ticks[at] > wanted.ticks)).any():
        at -= back  # a clip has few samples in a bucket: one step for each
    there = (at >= 0) & (clips[at] == wanted.clips) & (ticks[at] == wanted.ticks)
    return np.where(there, order[at], -1)
