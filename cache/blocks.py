"""Memory that is used again: a batch lies where an earlier one lay that nobody holds any more.

New memory is cleared by the kernel page by page when it is first written to, which takes longer than to copy a batch
into it: 15 MB take 6.9 ms in pages of 4 kB and 1.6 ms in huge ones, which are asked for where the system has them.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import count
from threading import Lock

import numpy as np
import torch

from cache.finite import raw

ALIGN = 64  # bytes: a cache line
HUGE_BYTES = 1 << 21  # a huge page, on most machines
FREE_BYTES = 256_000_000  # that may wait for another batch
SMALL_BYTES = 1 << 20  # few sizes of smaller blocks: few blocks, which stay in the processor's cache
AS_WIDE = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

Wanted = tuple[tuple[tuple[int, ...], torch.dtype], ...]  # shapes and dtypes
Kept = tuple[torch.Tensor, memoryview]  # a tensor that is not filled, and its bytes


class Block:
    """One piece of memory. It is lent as an array that all views and tensors of it keep alive: when that array is gone,
    nobody can look at the memory any more."""

    def __init__(self, size: int):
        self._bytes, self._start = _memory(size)
        self.lent: Callable[[], object] = lambda: None
        self.size, self.used = size, 0

    @property
    def free(self) -> bool:
        return self.lent() is None

    def lend(self, size: int) -> np.ndarray:
        lent = np.frombuffer(self._bytes, np.uint8, size, self._start)
        self.lent = weakref.ref(lent)
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
    """Blocks for whoever asks, and those that are free, by their sizes."""

    def __init__(self):
        self._blocks: dict[int, list[Block]] = {}  # of a size the one that was lent last comes last
        self._lock = Lock()
        self._clock = count()

    def take(self, size: int) -> np.ndarray:
        """Bytes (size,) uint8, not cleared, that start on a cache line."""
        whole = _rounded(size)
        with self._lock:
            alike = self._blocks.get(whole) or self._blocks.setdefault(whole, [])
            for one in reversed(alike):
                if one.lent() is None:
                    alike.remove(one)
                    break
            else:
                self._make_room(whole)
                one = Block(whole)
            alike.append(one)
            one.used = next(self._clock)
            return one.lend(size)

    def _make_room(self, size: int) -> None:
        """The free blocks that were lent longest ago go."""
        free = sorted((one for some in self._blocks.values() for one in some if one.free), key=lambda one: one.used)
        over = size + sum(one.size for one in free) - FREE_BYTES
        for one in free:
            if over > 0:
                over -= one.size
                self._blocks[one.size].remove(one)


def _rounded(size: int) -> int:
    """Few sizes, so that a batch that is a little longer finds a block: powers of two, of large ones eighths of them."""
    step = 1 << max((size - 1).bit_length() - (4 if size > SMALL_BYTES else 0), 12)
    return -(-size // step) * step


_blocks = Blocks()
_pinned = lru_cache(torch.cuda.is_available)


def room_for(shape: tuple[int, ...], dtype: torch.dtype) -> Kept:
    """A tensor that is not filled, and its bytes; in pinned memory where there is a GPU (torch itself uses that again)."""
    return rooms_for(((shape, dtype),))[0]


def rooms_for(wanted: Wanted) -> list[Kept]:
    """Several of them side by side in one block."""
    cuts, size = _cuts(wanted)
    if _pinned() or not size:
        tensors = [torch.empty(shape, dtype=dtype, pin_memory=_pinned() and 0 not in shape) for shape, dtype in wanted]
        return [(one, raw(one).data) for one in tensors]
    block, found = _blocks.take(size), []
    data = block.data
    for start, stop, shape, same, dtype in cuts:
        # NumPy gives the shape: torch takes three times as long for it. The array keeps the block.
        found.append((torch.from_numpy(np.ndarray(shape, same, block, start)).view(dtype), data[start:stop]))
    return found


@lru_cache(maxsize=4096)
def _cuts(wanted: Wanted) -> tuple[list[tuple[int, int, tuple[int, ...], type, torch.dtype]], int]:
    """Of each tensor its bytes [start, stop) in a block, its shape, a type of NumPy's as wide, and its own; and
    bytes of the block, 0 where a tensor is empty."""
    found, at = [], 0
    for shape, dtype in wanted:
        size, same = math.prod(shape) * dtype.itemsize, AS_WIDE[dtype.itemsize]
        if not size:
            return [], 0
        found.append((at, at + size, shape, same, dtype))
        at += size + -size % ALIGN
    return found, at


def room(size: int) -> memoryview:
    """Bytes, not filled."""
    return _blocks.take(size).data
