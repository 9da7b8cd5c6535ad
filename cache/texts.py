"""Text states of a batch, which differ in length: few headers differ from one another, and what one says was checked
when it was first read (cache.members).

A sample that is due is read whole and looked at. Of others only the variant that is asked for is read, to its place; and
of one that is due too, if it is known which, the other variants then only pass by the checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
import torch
import xxhash

from cache.blocks import ALIGN, room, room_for
from cache.fingerprint import CacheError
from cache.finite import finite
from cache.maps import BLOCK_BYTES, Maps, arrived, ends_before, member_name
from cache.members import header_of, layout_of, unpack
from cache.places import Looker, Places, patiently
from cache.rows import REPAIR, Column, Like, Plan
from model.text import TextStates

HEAD_BYTES = 1024  # of a member: most often its header

NO_TEXT = (0, 0, 0)  # a cut of no state

Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Chosen = Sequence[int | None]  # of each sample a caption variant, or no text
Variants = Chosen | Callable[[list[int]], Chosen]  # or what chooses, told how many each sample has


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
    """Text states of a batch: of each sample one per caption variant, made when they are asked for. variants: those that
    padded() gives if it is not asked for others; what is due is then read to its place."""

    def __init__(self, maps: Maps, column: Column, rows: Sequence[int], clips: Sequence[str], check: str,
                 variants: Variants | None = None):  # fmt: skip
        self._look, self._column = looker(maps, column, check), column
        self._made: tuple[Chosen, Padded] | None = None
        self._heads: dict[int, memoryview] = {}  # of samples that are due: the tar's header, and theirs
        if variants is not None and self._look.trusts:
            self._made = patiently(column.bucket, lambda: self._put(rows, clips, variants))
            return
        self._places, self._read = patiently(column.bucket, lambda: self._looked_at(rows, clips))
        if variants is not None:
            self._made = self._taken(variants)

    def _put(self, rows: Sequence[int], clips: Sequence[str], variants: Variants) -> tuple[Chosen, Padded]:
        """One variant of each in its place, those that were due looked at."""
        self._places, self._read = self._look.places(rows, clips), {}
        self._heads = {i: self._look.head(self._places, i, HEAD_BYTES) for i in self._places.due}
        made = self._taken(variants)
        self._heads = {}
        return made

    def _taken(self, variants: Variants) -> tuple[Chosen, Padded]:
        plans = self._plans()
        chosen = list(variants([len(plan.cuts) for plan in plans]) if callable(variants) else variants)
        return chosen, self._padded(plans, chosen)

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

    def counts(self) -> list[int]:
        """Caption variants of each sample."""
        return [len(plan.cuts) for plan in self._plans()]

    def padded(self, variants: Chosen | None = None) -> Padded:
        """Of one variant of each sample (those that it was made for, else the first): states (B, L, D) padded with zeros
        to the longest, at least 1, mask (B, L), pooled (B, P), in the stored dtype. None is no text: no state, and a
        pooled vector of zeros."""
        if self._made and (variants is None or self._made[0] == list(variants)):
            return self._made[1]
        return self._taken(variants if variants is not None else [0] * len(self))[1]

    def _padded(self, plans: Sequence[Plan], variants: Chosen) -> Padded:
        like = self._alike(plans)
        cuts = [NO_TEXT if one is None else plan.cuts[one] for plan, one in zip(plans, variants, strict=True)]
        longest = max(1, *(stop - start for start, stop, _ in cuts))
        states, tokens = room_for((len(self), longest, like.width), like.dtype)
        pooled, vectors = room_for((len(self), like.pooled_width), like.pooled_dtype)
        token, width = like.width * like.dtype.itemsize, like.pooled_width * like.pooled_dtype.itemsize
        row, zeros = longest * token, _zeros((longest * token).bit_length())
        places = [(plan.states + start * token, (stop - start) * token, plan.pooled + slot * width)
                  for plan, (start, stop, slot) in zip(plans, cuts)]  # fmt: skip
        maps = None if self._read or self._heads else self._places.in_memory()
        if maps is not None:
            at = put = 0
            for data, first, (begin, size, vector) in zip(maps, self._places.starts, places):
                begin, vector, end = begin + first, vector + first, at + size
                tokens[at:end] = data[begin : begin + size]
                tokens[end : (at := at + row)] = zeros[: row - size]
                vectors[put : (put := put + width)] = data[vector : vector + width]
        else:
            for i, (plan, source, (begin, size, vector)) in enumerate(zip(plans, self._sources(), places)):
                at, into = i * row, vectors[i * width : (i + 1) * width]
                self._put_one(i, plan, source, (vector, into), (begin, tokens[at : at + size]))
                tokens[at + size : at + row] = zeros[: row - size]
        for i, variant in enumerate(variants):
            if variant is None:
                vectors[i * width : (i + 1) * width] = bytes(width)
        lengths = np.array([stop - start for start, stop, _ in cuts])
        return states, torch.from_numpy(np.arange(longest) < lengths[:, None]), pooled

    def _put_one(
        self, i: int, plan: Plan, source: tuple[memoryview, int] | None, *parts: tuple[int, memoryview]
    ) -> None:
        """Parts of sample i, from memory that holds it or from the file."""
        if source is not None:
            data, first = source
            for begin, into in parts:
                into[:] = data[first + begin : first + begin + len(into)]
        elif i in self._heads:
            self._fill_due(i, plan, *parts)
        else:
            self._fill(i, *parts)

    def _sources(self) -> list[tuple[memoryview, int] | None]:
        """Of each sample memory that holds it, and where it starts there; None where it must be read."""
        at, read, heads = self._places, self._read, self._heads
        return [
            (read[i], 0) if i in read else None if data is None or stop > tar.size or i in heads else (data, start)
            for i, (data, tar, start, stop) in enumerate(zip(at.maps(), at.tars, at.starts, at.stops))
        ]

    def _plans(self) -> list[Plan]:
        of = self._column.plans.of
        known = [] if self._heads else [of(number) for number in self._places.numbers]
        if not known or None in known:
            return [self._plan(i) for i in range(len(self))]
        return known  # type: ignore[return-value] (none is None)

    def _plan(self, i: int) -> Plan:
        """Of sample i, remembered if it was looked at, else from its header."""
        places = self._places
        row, size = places.rows[i], places.stops[i] - places.starts[i]
        if not self._heads and (known := self._column.plans.of(places.numbers[i])) is not None:
            return known
        head = self._heads[i][min(BLOCK_BYTES, places.starts[i]) :] if i in self._heads else self._read.get(i)
        if head is None:
            self._fill(i, (0, head := memoryview(bytearray(min(HEAD_BYTES, size)))))
        if (whole := 8 + int.from_bytes(head[:8], "little")) > len(head):  # of many captions
            self._fill(i, (0, head := memoryview(bytearray(min(whole, size)))))
        return planned(head, size, self._column, row)

    def _fill(self, i: int, *parts: tuple[int, memoryview]) -> None:
        """Each with bytes of member i from its number on."""
        tar, first = self._places.tars[i], self._places.starts[i]
        for at, into in parts:
            if not tar.read((into,), first + at, len(into)):
                raise ends_before(self._column, self._places.rows[i], tar.size)

    def _fill_due(self, i: int, plan: Plan, *parts: tuple[int, memoryview]) -> None:
        """The same for one that is due: all of it is read, its parts to their place, and looked at."""
        at, head = self._places, self._heads[i]
        row, tar, start, size = at.rows[i], at.tars[i], at.starts[i], at.stops[i] - at.starts[i]
        arrived(tar, self._column, row, start, start + size)
        before = min(BLOCK_BYTES, start)
        named, head = head[:before].tobytes().startswith(member_name(at.clips[i])), head[before:]
        begins = min(8 + int.from_bytes(head[:8], "little"), len(head))
        digest = xxhash.xxh3_64(head[:begins])
        if named:
            buffers = _around(sorted(parts, key=lambda one: one[0]), begins, size)
            if tar.read_summed(buffers, start + begins, digest) and digest.intdigest() == int(self._column.sums[row]):
                return at.looked(i, self._column.plans.number(plan))
        data = self._look.read(at, i)  # names what is wrong, if anything is
        for begin, into in parts:
            into[:] = data[begin : begin + len(into)]

    def _alike(self, plans: Sequence[Plan]) -> Like:
        """What all samples are like. Raises CacheError naming one that is not."""
        first = plans[0].like
        for row, plan in zip(self._places.rows, plans):
            if plan.like is not first and plan.like != first:
                raise CacheError(f"{self._column.name(row)}: its states are not like the others'; {REPAIR}")
        return first


def _around(parts: Sequence[tuple[int, memoryview]], start: int, stop: int) -> list[memoryview]:
    """Buffers for bytes [start, stop) of a member: the parts, and room for what lies between them."""
    found = []
    for at, into in (*parts, (stop, memoryview(bytearray()))):
        if at > start:
            found.append(memoryview(bytearray(at - start)))
        found.append(into)
        start = at + len(into)
    return found


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


@lru_cache
def _zeros(bits: int) -> memoryview:
    """As many as a number of so many bits can count: few sizes, so that they stay in the processor's cache."""
    return memoryview(bytes(1 << bits))
