"""Text states of a batch, which differ in length: few headers differ from one another, and what one says was checked
when it was first read (cache.members).

A sample that is due is read whole and looked at. Of others only the variant that is asked for is read, to its place; and
of one that is due too, if it is known which, the other variants then only pass by the checksum. Those of cache.warm were
all looked at before; where they lie is asked only if another variant is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, overload

import numpy as np
import torch
import xxhash

from cache.blocks import ALIGN, room
from cache.fingerprint import CacheError
from cache.finite import finite
from cache.maps import BLOCK_BYTES, Maps, arrived, ends_before, member_name
from cache.members import header_of, layout_of, unpack
from cache.padded import Chosen, Made, Padded, Place, Variants, chosen_of
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
    """Text states of a batch: of each sample one per caption variant, made when they are asked for. variants: those that
    padded() gives if it is not asked for others; what is due is then read to its place. made: they are made already."""

    def __init__(self, maps: Maps, column: Column, rows: Sequence[int] | np.ndarray, clips: Sequence[str], check: str,
                 variants: Variants | None = None, made: Made | None = None):  # fmt: skip
        self._maps, self._column, self._rows, self._clips, self._check = maps, column, rows, clips, check
        self._made = made
        self._heads: dict[int, memoryview] = {}  # of samples that are due: the tar's header, and theirs
        if made is None and variants is not None and self._look.trusts:
            self._made = patiently(column.bucket, lambda: self._put(variants))
        elif made is None:
            _ = self._there  # what is wrong with one is told now
            self._made = None if variants is None else self._taken(variants)

    @cached_property
    def _look(self) -> Looker:
        return looker(self._maps, self._column, self._check)

    @cached_property
    def _there(self) -> tuple[Places, dict[int, memoryview]]:
        """Where they lie, and the bytes of those that were due."""
        return patiently(self._column.bucket, self._looked_at)

    @property
    def _places(self) -> Places:
        return self._there[0]

    @property
    def _read(self) -> dict[int, memoryview]:
        return self._there[1]

    def _put(self, variants: Variants) -> Made:
        """One variant of each in its place, those that were due looked at."""
        places = self._look.places(self._rows, self._clips)
        self._there = (places, {})
        self._heads = {i: self._look.head(places, i, HEAD_BYTES) for i in places.due}
        made = self._taken(variants)
        self._heads = {}
        return made

    def _taken(self, variants: Variants) -> Made:
        plans = self._plans()
        chosen = chosen_of(variants, plans)
        return Made(plans, chosen, self._padded(plans, chosen))

    def _looked_at(self) -> tuple[Places, dict[int, memoryview]]:
        places = self._look.places(self._rows, self._clips)
        sizes = [BLOCK_BYTES + places.stops[i] - places.starts[i] for i in places.due]
        space, found, at = room(sum(size + -size % ALIGN for size in sizes)), {}, 0
        for i, size in zip(places.due, sizes):
            found[i] = self._look.read(places, i, space[at : at + size])
            at += size + -size % ALIGN
        return places, found

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> tuple[TextStates, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[tuple[TextStates, ...], ...]: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(*at.indices(len(self))))
        i, places = range(len(self))[at], self._places
        data = self._read[i] if i in self._read else places.tar(i).map[places.starts[i] : places.stops[i]]
        return states_of(data, self._column, places.rows[i])

    def counts(self) -> list[int]:
        """Caption variants of each sample."""
        return [len(plan.cuts) for plan in self._plans()]

    def padded(self, variants: Chosen | None = None) -> Padded:
        """Of one variant of each sample (those that it was made for, else the first): states (B, L, D) padded with zeros
        to the longest, at least 1, mask (B, L), pooled (B, P), in the stored dtype. None is no text: no state, and a
        pooled vector of zeros."""
        if self._made and (variants is None or self._made.chosen == list(variants)):
            return self._made.padded
        return self._taken(variants if variants is not None else [0] * len(self)).padded

    def _padded(self, plans: Sequence[Plan], variants: Chosen) -> Padded:
        to = Place.of(plans, variants, self._column, self._rows)
        maps = None if self._read or self._heads else self._places.in_memory()
        if maps is not None:
            return to.filled(plans, maps, self._places.starts)
        for i, (plan, source, (begin, _, slot)) in enumerate(zip(plans, self._sources(), to.cuts)):
            at, end = i * to.row, i * to.row + to.lengths[i] * to.token
            vector = (plan.pooled + slot * to.width, to.vectors[i * to.width : (i + 1) * to.width])
            self._put_one(i, plan, source, vector, (plan.states + begin * to.token, to.tokens[at:end]))
            to.tokens[end : at + to.row] = to.zeros[: at + to.row - end]
        return to.done()

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
            (read[i], 0) if i in read else None if data is None or i in heads else (data, start)
            for i, (data, start) in enumerate(zip(at.maps(), at.starts))
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
        tar, first = self._places.tar(i), self._places.starts[i]
        for at, into in parts:
            if not tar.read((into,), first + at, len(into)):
                raise ends_before(self._column, self._places.rows[i], tar.size)

    def _fill_due(self, i: int, plan: Plan, *parts: tuple[int, memoryview]) -> None:
        """The same for one that is due: all of it is read, its parts to their place, and looked at."""
        at, head = self._places, self._heads[i]
        row, tar, start, size = at.rows[i], at.tar(i), at.starts[i], at.stops[i] - at.starts[i]
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
