"""Text states of a batch, which differ in length: few headers differ from one another, and what one says was checked
when it was first read (cache.members).

A sample that is due is read whole and looked at. Of others only the variant that is asked for is read, to its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
import torch

from cache.blocks import ALIGN, room, room_for
from cache.fingerprint import CacheError
from cache.finite import finite
from cache.maps import BLOCK_BYTES, Maps, ends_before
from cache.members import header_of, layout_of, unpack
from cache.places import Looker, Places, patiently
from cache.rows import REPAIR, Column, Like, Plan
from model.text import TextStates

HEAD_BYTES = 1024  # of a member: most often its header


def looker(maps: Maps, column: Column, check: str) -> Looker:
    def inspect(row: int, data: memoryview) -> int:
        plan = planned(data, len(data), column, row)
        for begin, end, dtype in plan.numbers:
            if not finite(np.frombuffer(data[begin:end], np.uint8), dtype):
                raise CacheError(f"{column.name(row)}: its states hold NaN or infinity; {REPAIR}")
        return column.plans.number(plan)

    return Looker(maps, column, check != "never", check == "always", inspect)


def states_of(data: memoryview, column: Column, row: int) -> tuple[TextStates, ...]:
    """One per caption variant, views of the member's bytes."""
    tensors, plan = unpack(data, column.name(row))[0], planned(data, len(data), column, row)
    return tuple(TextStates(tensors["states"][a:b], tensors["pooled"][slot]) for a, b, slot in plan.cuts)


class Texts(Sequence[tuple[TextStates, ...]]):
    """Text states of a batch: of each sample one per caption variant, made when they are asked for."""

    def __init__(self, maps: Maps, column: Column, rows: Sequence[int], clips: Sequence[str], check: str):
        self._look, self._column = looker(maps, column, check), column
        self._places, self._read = patiently(column.bucket, lambda: self._looked_at(rows, clips))

    def _looked_at(self, rows: Sequence[int], clips: Sequence[str]) -> tuple[Places, dict[int, memoryview]]:
        """Where they lie, and the bytes of those that were due."""
        places = self._look.places(rows, clips)
        sizes = [BLOCK_BYTES + places.stops[i] - places.starts[i] for i in places.due]
        space, found, at = room(sum(size + -size % ALIGN for size in sizes)), {}, 0
        for i, size in zip(places.due, sizes):
            found[i] = self._look.read(places, i, space[at : at + size])
            at += size + -size % ALIGN
        return places, found

    def __len__(self) -> int:
        return len(self._places.rows)

    @overload
    def __getitem__(self, at: int) -> tuple[TextStates, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[tuple[TextStates, ...], ...]: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(*at.indices(len(self))))
        i, places = range(len(self))[at], self._places
        data = self._read[i] if i in self._read else places.tars[i].map[places.starts[i] : places.stops[i]]
        return states_of(data, self._column, places.rows[i])

    def padded(self, variants: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one variant of each sample (the first): states (B, L, D) padded with zeros to the longest, mask (B, L),
        pooled (B, P), in the stored dtype."""
        plans = [self._plan(i) for i in range(len(self))]
        like = self._alike(plans)
        cuts = [plan.cuts[variants[i] if variants else 0] for i, plan in enumerate(plans)]
        longest = max(1, *(stop - start for start, stop, _ in cuts))
        states, tokens = room_for((len(self), longest, like.width), like.dtype)
        pooled, vectors = room_for((len(self), like.pooled_width), like.pooled_dtype)
        token, width = like.width * like.dtype.itemsize, like.pooled_width * like.pooled_dtype.itemsize
        at, zeros = 0, _zeros(longest * token)
        for i, (plan, (start, stop, slot)) in enumerate(zip(plans, cuts)):
            end = at + (stop - start) * token
            vector = (plan.pooled + slot * width, vectors[i * width : (i + 1) * width])
            self._fill(i, vector, (plan.states + start * token, tokens[at:end]))
            at += longest * token
            tokens[end:at] = zeros[: at - end]
        lengths = np.array([stop - start for start, stop, _ in cuts])
        return states, torch.from_numpy(np.arange(longest) < lengths[:, None]), pooled

    def _plan(self, i: int) -> Plan:
        """Of sample i, remembered if it was looked at, else from its header."""
        places = self._places
        row, tar, size = places.rows[i], places.tars[i], places.stops[i] - places.starts[i]
        if (known := self._column.plans.of(tar.looked[row - tar.first])) is not None:
            return known
        head = self._read.get(i)
        if head is None:
            self._fill(i, (0, head := memoryview(bytearray(min(HEAD_BYTES, size)))))
            if (whole := 8 + int.from_bytes(head[:8], "little")) > len(head):  # of many captions
                self._fill(i, (0, head := memoryview(bytearray(min(whole, size)))))
        return planned(head, size, self._column, row)

    def _fill(self, i: int, *parts: tuple[int, memoryview]) -> None:
        """Each with bytes of member i from its number on."""
        if (data := self._read.get(i)) is not None:
            for at, into in parts:
                into[:] = data[at : at + len(into)]
            return
        tar, first = self._places.tars[i], self._places.starts[i]
        for at, into in parts:
            if not tar.read((into,), first + at, len(into)):
                raise ends_before(self._column, self._places.rows[i], tar.size)

    def _alike(self, plans: Sequence[Plan]) -> Like:
        """What all samples are like. Raises CacheError naming one that is not."""
        first = plans[0].like
        for row, plan in zip(self._places.rows, plans):
            if plan.like is not first and plan.like != first:
                raise CacheError(f"{self._column.name(row)}: its states are not like the others'; {REPAIR}")
        return first


def planned(data: memoryview, size: int, column: Column, row: int) -> Plan:
    """data: the start of a member of `size` bytes. Raises CacheError for what is no member of text states."""
    header = header_of(data)
    try:
        return _plan(header, size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if len(data) == size:
            unpack(data, column.name(row))  # knows better what is wrong, if it is the safetensors
        raise CacheError(f"{column.name(row)}: no text states ({error}); {REPAIR}") from None


@lru_cache(maxsize=65536)
def _plan(header: bytes, size: int) -> Plan:
    """Of a member of `size` bytes. Equal captions are stored once: the note `variants` says which slot each variant
    has."""
    layout, notes = layout_of(header, size)
    found = {name: (dtype, shape, len(header) + at) for name, dtype, shape, _, at in layout}
    (dtype, (count, width), states), (pooled_dtype, (slots, pooled_width), pooled) = found["states"], found["pooled"]
    ends = np.cumsum([0, *map(int, notes["lengths"].split(","))]).tolist()
    cuts = tuple((ends[slot], ends[slot + 1], slot) for slot in map(int, notes["variants"].split(",")))
    if any(not 0 <= start <= stop <= count or not 0 <= slot < slots for start, stop, slot in cuts):
        raise ValueError(f"its notes speak of {ends[-1]} states, there are {count}")
    numbers = sorted(
        ((len(header) + at, len(header) + at + n * of.itemsize, of) for _, of, _, n, at in layout),
        key=lambda one: one[0],
    )
    return Plan(states, pooled, cuts, _like(dtype, width, pooled_dtype, pooled_width), _joined(numbers))


def _joined(numbers: list[tuple[int, int, torch.dtype]]) -> tuple[tuple[int, int, torch.dtype], ...]:
    """Neighbours of one dtype are looked at in one go."""
    found: list[tuple[int, int, torch.dtype]] = []
    for begin, end, dtype in numbers:
        if found and found[-1][1:] == (begin, dtype):
            begin = found.pop()[0]
        found.append((begin, end, dtype))
    return tuple(found)


_like = lru_cache(Like)  # all samples of a bucket are like one object


@lru_cache(maxsize=4)
def _zeros(size: int) -> memoryview:
    return memoryview(bytes(size))
