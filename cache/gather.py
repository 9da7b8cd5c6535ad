"""Samples of one bucket under each other in one tensor: every byte is copied once, from the map to its place.

A bucket's latents have one header, so what it says is read once; text states differ in length, and few headers differ
from one another. What a header says was checked when it was first read (cache.members).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from cache.fingerprint import CacheError
from cache.finite import finite, raw
from cache.maps import Mapped, Maps, arrived, look
from cache.members import header_of, layout_of, places_of, unpack
from cache.rows import REPAIR, Column, Rows
from cache.shelf import Removed
from model.text import TextStates

TRIES = 5


class Members(NamedTuple):
    """Safetensors in maps: sample i is bytes [starts[i], stops[i]) of mapped[i]."""

    rows: list[int]
    mapped: list[Mapped]
    starts: list[int]
    stops: list[int]

    def data(self, i: int) -> memoryview:
        return self.mapped[i].buffer[self.starts[i] : self.stops[i]]

    def bytes(self, i: int, begin: int, end: int) -> np.ndarray:
        return self.mapped[i].bytes[self.starts[i] + begin : self.starts[i] + end]


Inspect = Callable[[Members, int], None]  # raises CacheError for what sample i holds


def members(maps: Maps, column: Column, rows: Sequence[int], check: str, inspect: Inspect) -> Members:
    """Where these rows lie, fetched if they come from a store, and looked at if they were not. Raises CacheError."""
    for _ in range(TRIES):
        try:
            return _members(maps, column, rows, check, inspect)
        except Removed:  # the shelf made room while we read: it is fetched again
            continue
    raise CacheError(f"{column.bucket}: the shelf is too small for a batch, give it more with shelf_bytes")


def _members(maps: Maps, column: Column, rows: Sequence[int], check: str, inspect: Inspect) -> Members:
    at = np.asarray(rows, np.int64)
    if len(at) and not (at.min() >= 0 and at.max() < len(column.shards)):
        raise IndexError(f"{column.bucket}: row {at.max() if at.max() > 0 else at.min()} of {len(column.shards)}")
    shards, starts = column.shards[at].tolist(), column.offsets[at].tolist()
    stops = (column.offsets[at] + column.sizes[at]).tolist()
    tars = {shard: maps.tar(column, shard) for shard in set(shards)}
    _ask(tars, zip(shards, starts, stops))
    held = Members(at.tolist(), [tars[shard] for shard in shards], starts, stops)
    fresh = (not one.looked[row - one.first] or check == "always" for row, one in zip(held.rows, held.mapped))
    due = [i for i, wanted in enumerate(fresh) if wanted]
    for i in due:
        _look(maps, held, column, i, check, inspect)
    return held


def _ask(tars: Mapping[int, Mapped], places: Iterable[tuple[int, int, int]]) -> None:
    """Ask for all of a batch at once, before the first of it is waited for."""
    if any(one.fetch is not None and not one.fetch.here for one in tars.values()):
        for shard, start, stop in places:
            if (fetch := tars[shard].fetch) is not None:
                fetch.want(start, stop)


def _look(maps: Maps, held: Members, column: Column, i: int, check: str, inspect: Inspect) -> None:
    """All that is due for a sample at once, while its bytes are in the processor's cache."""
    mapped, row, start, stop = held.mapped[i], held.rows[i], held.starts[i], held.stops[i]
    if mapped.fetch is not None and not mapped.fetch.here:
        arrived(mapped, column, row, start, stop)
    try:
        look(mapped, column, row, start, stop, sums=check != "never")
        inspect(held, i)
    except CacheError:
        if mapped.fetch is not None:
            maps.drop(column, int(column.shards[row]))
        raise
    mapped.looked[row - mapped.first] = 1


class Layout(NamedTuple):
    """What the latents of a bucket have in common: their header, and of each tensor its name, one sample of it (on no
    device: only shape and dtype count), and where its bytes lie in the member."""

    header: bytes
    names: tuple[str, ...]
    like: tuple[torch.Tensor, ...]
    places: tuple[tuple[int, int], ...]


def latents(maps: Maps, chosen: Rows, rows: Sequence[int], check: str) -> dict[str, torch.Tensor]:
    """Tensors (B, ...) by name: latent, and whatever lies beside it. Raises CacheError."""
    held = members(maps, chosen.latents, rows, check, partial(settle, chosen))
    layout = chosen.layout if held.rows else None
    if layout is None:
        raise ValueError("a batch needs a row")
    found = {}
    for name, like, (begin, end) in zip(layout.names, layout.like, layout.places):
        found[name] = _room_for((len(held.rows), *like.shape), like.dtype)
        np.concatenate([held.bytes(i, begin, end) for i in range(len(held.rows))], out=raw(found[name]))
    return found


def settle(chosen: Rows, held: Members, i: int) -> None:
    """Sample i has the tensors of its bucket, all of them finite, or CacheError."""
    layout = chosen.layout
    if layout is None or held.bytes(i, 0, len(layout.header)).tobytes() != layout.header:
        layout = _layout(chosen, held, i)
    for name, like, (begin, end) in zip(layout.names, layout.like, layout.places):
        if not finite(held.bytes(i, begin, end), like.dtype):
            raise CacheError(f"{chosen.latents.name(held.rows[i])}: {name} holds NaN or infinity; {REPAIR}")


def _layout(chosen: Rows, held: Members, i: int) -> Layout:
    """Of sample i, which says what the bucket's is if it is the first one. Raises CacheError if others say otherwise."""
    data, row = held.data(i), held.rows[i]
    tensors = checked(chosen, row, unpack(data, chosen.latents.name(row))[0])
    header, names = header_of(data), tuple(tensors)
    found = Layout(header, names, tuple(one.to("meta") for one in tensors.values()), places_of(header, names))
    with chosen.lock:  # of several threads the first one says what the others are held to
        chosen.layout = chosen.layout or found
    if chosen.layout.header != header:
        raise CacheError(f"{chosen.latents.name(row)}: holds other tensors than the samples before; {REPAIR}")
    return found


def checked(chosen: Rows, row: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    latent = tensors.get("latent")
    if latent is None or tuple(latent.shape) != chosen.shape:
        got = None if latent is None else tuple(latent.shape)
        raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {REPAIR}")
    return tensors


def _room_for(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Not filled, in pinned memory where there is a GPU."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


class Texts(Sequence[tuple[TextStates, ...]]):
    """Text states of a batch: of each sample one per caption variant, views of the map, made when they are asked for."""

    def __init__(self, maps: Maps, column: Column, rows: Sequence[int], check: str):
        self._column = column
        self._held = members(maps, column, rows, check, self._inspect)
        self._plans = [self._plan(self._held, i) for i in range(len(self))]

    def _inspect(self, held: Members, i: int) -> None:
        for begin, end, dtype in self._plan(held, i).numbers:
            if not finite(held.bytes(i, begin, end), dtype):
                raise CacheError(f"{self._column.name(held.rows[i])}: its states hold NaN or infinity; {REPAIR}")

    def _plan(self, held: Members, i: int) -> Plan:
        return _planned(held.data(i), self._column.name(held.rows[i]))

    def __len__(self) -> int:
        return len(self._held.rows)

    @overload
    def __getitem__(self, at: int) -> tuple[TextStates, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[tuple[TextStates, ...], ...]: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(*at.indices(len(self))))
        tensors, plan = unpack(self._held.data(at), self._column.name(self._held.rows[at]))[0], self._plans[at]
        return tuple(TextStates(tensors["states"][a:b], tensors["pooled"][slot]) for a, b, slot in plan.cuts)

    def padded(self, variants: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one variant of each sample (the first): states (B, L, D) padded with zeros to the longest, mask (B, L),
        pooled (B, P), in the stored dtype. Copied once, from the map to their place."""
        held, plans = self._held, self._plans
        like = self._alike()
        cuts = [plan.cuts[variants[i] if variants else 0] for i, plan in enumerate(plans)]
        lengths = [stop - start for start, stop, _ in cuts]
        longest = max(1, *lengths)
        states = _room_for((len(self), longest, like.width), like.dtype)
        pooled = _room_for((len(self), like.pooled_width), like.pooled_dtype)
        token, width = like.width * like.dtype.itemsize, like.pooled_width * like.pooled_dtype.itemsize
        zeros, parts, vectors = _zeros(longest * token), [], []
        for one, at, plan, (start, stop, slot) in zip(held.mapped, held.starts, plans, cuts):
            begin, vector = at + plan.states, at + plan.pooled + slot * width
            parts.append(one.bytes[begin + start * token : begin + stop * token])
            parts.append(zeros[: (longest - stop + start) * token])
            vectors.append(one.bytes[vector : vector + width])
        np.concatenate(parts, out=raw(states))
        np.concatenate(vectors, out=raw(pooled))
        return states, torch.arange(longest) < torch.tensor(lengths)[:, None], pooled

    def _alike(self) -> Like:
        """What all samples are like. Raises CacheError naming one that is not."""
        for row, plan in zip(self._held.rows, self._plans):
            if plan.like != self._plans[0].like:
                raise CacheError(f"{self._column.name(row)}: its states are not like the others'; {REPAIR}")
        return self._plans[0].like


class Like(NamedTuple):
    """Of states (L, width) and pooled (slots, pooled_width)."""

    dtype: torch.dtype
    width: int
    pooled_dtype: torch.dtype
    pooled_width: int


class Plan(NamedTuple):
    """Where in a member its states and its pooled vectors start; the cuts of its variants: first and last row of their
    states, and their slot; numbers: bytes [begin, end) and
    dtype of each stretch of tensors."""

    states: int
    pooled: int
    cuts: tuple[tuple[int, int, int], ...]
    like: Like
    numbers: tuple[tuple[int, int, torch.dtype], ...]


def _planned(data: memoryview, where: object) -> Plan:
    """Raises CacheError for what is no member of text states."""
    header = header_of(data)
    try:
        return _plan(header, len(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        unpack(data, where)  # knows better what is wrong, if it is the safetensors
        raise CacheError(f"{where}: no text states ({error}); {REPAIR}") from None


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
    return Plan(states, pooled, cuts, Like(dtype, width, pooled_dtype, pooled_width), _joined(numbers))


def _joined(numbers: list[tuple[int, int, torch.dtype]]) -> tuple[tuple[int, int, torch.dtype], ...]:
    """Neighbours of one dtype are looked at in one go."""
    found: list[tuple[int, int, torch.dtype]] = []
    for begin, end, dtype in numbers:
        if found and found[-1][1:] == (begin, dtype):
            begin = found.pop()[0]
        found.append((begin, end, dtype))
    return tuple(found)


@lru_cache(maxsize=4)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)
