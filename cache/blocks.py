"""Memory that is used again: a batch lies where an earlier one lay that nobody holds any more.

New memory is cleared by the kernel page by page when it is first written to, which takes longer than to copy a batch
into it: 15 MB take 6.9 ms in pages of 4 kB and 1.6 ms in huge ones, which are asked for where the system has them.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock

import numpy as np
import torch

from cache.finite import raw

ALIGN = 64  # bytes: a cache line
HUGE_BYTES = 1 << 21  # a huge page, on most machines
FREE_BYTES = 256_000_000  # that may wait for another batch
SLACK = 1.5  # a block is taken for a batch that is not smaller than it by more than this
SMALL_BYTES = 1_000_000  # of smaller blocks any is taken that is large enough: few that stay in the processor's cache

Kept = tuple[torch.Tensor, memoryview]  # a tensor that is not filled, and its bytes


class Block:
    """One piece of memory. It is lent as an array that all views and tensors of it keep alive: when that array is gone,
    nobody can look at the memory any more."""

    def __init__(self, size: int):
        self._bytes, self._start = _memory(size)
        self._lent: Callable[[], object] = lambda: None
        self.size = size

    @property
    def free(self) -> bool:
        return self._lent() is None

    def lend(self, size: int) -> np.ndarray:
        lent = np.frombuffer(self._bytes, np.uint8, size, self._start)
        self._lent = weakref.ref(lent)
        return lent


def _memory(size: int) -> tuple[memoryview | mmap.mmap, int]:
    """At least `size` bytes, and where in them a cache line starts; for much of it a huge page, where there are such. What
    is left over is not worth one if it fills less than a half."""
    huge = (size + HUGE_BYTES // 2) // HUGE_BYTES * HUGE_BYTES
    if not huge or not hasattr(mmap, "MADV_HUGEPAGE"):
        found = np.empty(size + ALIGN, np.uint8).data
        return found, -np.frombuffer(found, np.uint8).ctypes.data % ALIGN
    found = mmap.mmap(-1, max(size, huge) + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -np.frombuffer(found, np.uint8).ctypes.data % HUGE_BYTES
    with suppress(OSError):  # a kernel without them
        found.madvise(mmap.MADV_HUGEPAGE, start, huge)
    return found, start


class Blocks:
    """Blocks for whoever asks, and those that are free."""

    def __init__(self):
        self._blocks: list[Block] = []  # the one that was lent last comes last
        self._lock = Lock()

    def take(self, size: int) -> np.ndarray:
        """Bytes (size,) uint8, not cleared, that start on a cache line."""
        most = max(SLACK * size, SMALL_BYTES)
        with self._lock:
            for at in range(len(self._blocks) - 1, -1, -1):
                one = self._blocks[at]
                if size <= one.size <= most and one.free:
                    self._blocks.append(self._blocks.pop(at))
                    return one.lend(size)
            found = Block(size + size // 8)  # the next batch may be a little longer
            self._make_room(found.size)
            self._blocks.append(found)
            return found.lend(size)

    def _make_room(self, size: int) -> None:
        """The free blocks that were lent longest ago go."""
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


def room_for(shape: tuple[int, ...], dtype: torch.dtype) -> Kept:
    """A tensor that is not filled, and its bytes; in pinned memory where there is a GPU (torch itself uses that again)."""
    return rooms_for([(shape, dtype)])[0]


def rooms_for(wanted: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Kept]:
    """Several of them side by side in one block."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
    if _pinned() or 0 in sizes:
        tensors = [torch.empty(shape, dtype=dtype, pin_memory=_pinned() and 0 not in shape) for shape, dtype in wanted]
        return [(one, raw(one).data) for one in tensors]
    block, found, at = _blocks.take(sum(size + -size % ALIGN for size in sizes)), [], 0
    for size, (shape, dtype) in zip(sizes, wanted):
        mine = block[at : at + size]
        found.append((_tensor(mine, shape, dtype), mine.data))
        at += size + -size % ALIGN
    return found


def _tensor(data: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Of these bytes. NumPy gives the shape: torch takes three times as long for it."""
    same = _SAME.get(dtype)
    if same is None:
        return torch.frombuffer(data, dtype=dtype).view(shape)
    found = torch.from_numpy(data.view(same).reshape(shape))
    return found if found.dtype == dtype else found.view(dtype)


# Types of NumPy with the same bytes.
_SAME = {torch.bfloat16: np.int16, torch.float16: np.float16, torch.float32: np.float32, torch.bool: np.bool_}


def room(size: int) -> memoryview:
    """Bytes, not filled."""
    return _blocks.take(size).data
