"""Memory that is used again: a batch lies where an earlier one lay that nobody holds any more.

New memory is cleared by the kernel page by page when it is first written to, which takes longer than to copy a batch
into it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import lru_cache
from threading import Lock

import numpy as np
import torch

from cache.finite import raw

ALIGN = 64  # bytes: a cache line
FREE_BYTES = 256_000_000  # that may wait for another batch
SLACK = 1.5  # a block is taken for a batch that is not smaller than it by more than this


class Block:
    """One piece of memory. It is lent as an array that all views and tensors of it keep alive: when that array is gone,
    nobody can look at the memory any more."""

    def __init__(self, size: int):
        self._bytes = np.empty(size + ALIGN, np.uint8).data
        self._start = -np.frombuffer(self._bytes, np.uint8).ctypes.data % ALIGN
        self._lent: Callable[[], object] = lambda: None
        self.size = size

    @property
    def free(self) -> bool:
        return self._lent() is None

    def lend(self, size: int) -> np.ndarray:
        lent = np.frombuffer(self._bytes, np.uint8, size, self._start)
        self._lent = weakref.ref(lent)
        return lent


class Blocks:
    """Blocks for whoever asks, and those that are free."""

    def __init__(self):
        self._blocks: list[Block] = []
        self._lock = Lock()

    def take(self, size: int) -> np.ndarray:
        """Bytes (size,) uint8, not cleared, that start on a cache line."""
        with self._lock:
            for one in self._blocks:
                if size <= one.size <= SLACK * size and one.free:
                    return one.lend(size)
            found = Block(size + size // 8)  # the next batch may be a little longer
            self._make_room(found.size)
            self._blocks.append(found)
            return found.lend(size)

    def _make_room(self, size: int) -> None:
        """The oldest free blocks go."""
        over = size + sum(one.size for one in self._blocks if one.free) - FREE_BYTES
        kept = []
        for one in self._blocks:
            if over > 0 and one.free:
                over -= one.size
            else:
                kept.append(one)
        self._blocks = kept


_blocks = Blocks()
_pinned = lru_cache(torch.cuda.is_available)


def room_for(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, memoryview]:
    """A tensor that is not filled, and its bytes; in pinned memory where there is a GPU (torch itself uses that again)."""
    size = math.prod(shape) * dtype.itemsize
    if not size or _pinned():
        tensor = torch.empty(shape, dtype=dtype, pin_memory=bool(size))
        return tensor, raw(tensor).data
    block = _blocks.take(size)
    return torch.frombuffer(block, dtype=dtype, count=size // dtype.itemsize).view(shape), block.data


def room(size: int) -> memoryview:
    """Bytes, not filled."""
    return _blocks.take(size).data
