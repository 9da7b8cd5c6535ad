"""Samples of one bucket under each other in one tensor: every byte is copied once, from the map to its place.

A bucket's latents have one header, so what it says is read once; text states differ in length, and few headers differ
from one another. What a header says was checked when it was first read (cache.members).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from cache.fingerprint import CacheError
from cache.maps import Mapped, Maps, arrived, look
from cache.members import header_of, places_of, unpack
from cache.rows import REPAIR, Column, Rows
from cache.shelf import Removed
from model.text import TextStates

TRIES = 5


class Members(NamedTuple):
    """Safetensors in maps: sample i is bytes [starts[i], stops[i]) of mapped[i]; fresh: those whose content nobody has
    looked at yet."""

    rows: list[int]
    mapped: list[Mapped]
    starts: list[int]
    stops: list[int]
    fresh: list[int]

    def data(self, i: int) -> memoryview:
        return self.mapped[i].buffer[self.starts[i] : self.stops[i]]

    def looked_at(self) -> None:
        for i in self.fresh:
            self.mapped[i].looked[self.rows[i] - self.mapped[i].first] = 1


def members(maps: Maps, column: Column, rows: Sequence[int], check: str) -> Members:
    """Where these rows lie, fetched if they come from a store, and looked at if they were not. Raises CacheError."""
    for _ in range(TRIES):
        try:
            return _members(maps, column, rows, check)
        except Removed:  # the shelf made room while we read: it is fetched again
            continue
    raise CacheError(f"{column.bucket}: the shelf is too small for a batch, give it more with shelf_bytes")


def _members(maps: Maps, column: Column, rows: Sequence[int], check: str) -> Members:
    at = np.asarray(rows, np.int64)
    if len(at) and not (at.min() >= 0 and at.max() < len(column.shards)):
        raise IndexError(f"{column.bucket}: row {at.max() if at.max() > 0 else at.min()} of {len(column.shards)}")
    shards, starts = column.shards[at].tolist(), column.offsets[at].tolist()
    stops = (column.offsets[at] + column.sizes[at]).tolist()
    tars = {shard: maps.tar(column, shard) for shard in set(shards)}
    _ask(tars, zip(shards, starts, stops))
    numbers, mapped = at.tolist(), [tars[shard] for shard in shards]
    fresh = [i for i, (row, one) in enumerate(zip(numbers, mapped)) if not one.looked[row - one.first]]
    for i in fresh if check != "always" else range(len(numbers)):
        _look(maps, mapped[i], column, numbers[i], starts[i], stops[i], check)
    return Members(numbers, mapped, starts, stops, fresh)


def _ask(tars: Mapping[int, Mapped], places: Iterable[tuple[int, int, int]]) -> None:
    """Ask for all of a batch at once, before the first of it is waited for."""
    if any(one.fetch is not None and not one.fetch.here for one in tars.values()):
        for shard, start, stop in places:
            if (fetch := tars[shard].fetch) is not None:
                fetch.want(start, stop)


def _look(maps: Maps, mapped: Mapped, column: Column, row: int, start: int, stop: int, check: str) -> None:
    if mapped.fetch is not None and not mapped.fetch.here:
        arrived(mapped, column, row, start, stop)
    try:
        look(mapped, column, row, start, stop, sums=check != "never")
    except CacheError:
        if mapped.fetch is not None:
            maps.drop(column, int(column.shards[row]))
        raise


class Layout(NamedTuple):
    """What the latents of a bucket have in common: their header, and of each tensor its name, one sample of it (on no
    device: only shape and dtype count), and where its bytes lie in the member."""

    header: bytes
    names: tuple[str, ...]
    like: tuple[torch.Tensor, ...]
    places: tuple[tuple[int, int], ...]


def latents(maps: Maps, chosen: Rows, rows: Sequence[int], check: str) -> dict[str, torch.Tensor]:
    """Tensors (B, ...) by name: latent, and whatever lies beside it. Raises CacheError."""
    held = members(maps, chosen.latents, rows, check)
    for i in held.fresh:
        settle(chosen, held, i)
    layout = chosen.layout if held.rows else None
    if layout is None:
        raise ValueError("a batch needs a row")
    found = {}
    for name, like, (begin, end) in zip(layout.names, layout.like, layout.places):
        found[name] = _room_for(like, len(held.rows))
        parts = [one.bytes[at + begin : at + end] for one, at in zip(held.mapped, held.starts)]
        np.concatenate(parts, out=_raw(found[name]).reshape(-1))
    if held.fresh:
        _finite(found, chosen.latents, held)
        held.looked_at()
    return found


def settle(chosen: Rows, held: Members, i: int) -> None:
    """Sample i has the tensors of its bucket, or CacheError."""
    data, row, layout = held.data(i), held.rows[i], chosen.layout
    if layout is not None and bytes(data[: len(layout.header)]) == layout.header:
        return
    tensors = checked(chosen, row, unpack(data, chosen.latents.name(row))[0])
    header, names = header_of(data), tuple(tensors)
    found = Layout(header, names, tuple(one.to("meta") for one in tensors.values()), places_of(header, names))
    with chosen.lock:  # of several threads the first one says what the others are held to
        chosen.layout = chosen.layout or found
    if chosen.layout.header != header:
        raise CacheError(f"{chosen.latents.name(row)}: holds other tensors than the samples before; {REPAIR}")


def checked(chosen: Rows, row: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    latent = tensors.get("latent")
    if latent is None or tuple(latent.shape) != chosen.shape:
        got = None if latent is None else tuple(latent.shape)
        raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {REPAIR}")
    return tensors


def _finite(found: dict[str, torch.Tensor], column: Column, held: Members) -> None:
    """Raises CacheError naming a sample that holds NaN."""
    if not all(bool(tensor.sum(dtype=torch.float32).isfinite()) for tensor in found.values()):
        for i, row in enumerate(held.rows):
            must_be_finite({name: tensor[i] for name, tensor in found.items()}, column.name(row))


def must_be_finite(tensors: Mapping[str, torch.Tensor], where: object) -> None:
    """A sum is finite only if every number is (latents and states are far from overflowing it). Raises CacheError."""
    for name, tensor in tensors.items():
        if not bool(tensor.sum(dtype=torch.float32).isfinite()) and not bool(tensor.isfinite().all()):
            raise CacheError(f"{where}: {name} holds NaN or infinity; {REPAIR}")


def _room_for(like: torch.Tensor, count: int) -> torch.Tensor:
    """(count, *like.shape), not filled, in pinned memory where there is a GPU."""
    return torch.empty((count, *like.shape), dtype=like.dtype, pin_memory=torch.cuda.is_available())


class Texts(Sequence[tuple[TextStates, ...]]):
    """Text states of a batch: of each sample one per caption variant, views of the map, made when they are asked for."""

    def __init__(self, maps: Maps, column: Column, rows: Sequence[int], check: str):
        self._column, self._held = column, members(maps, column, rows, check)
        for i in self._held.fresh:
            for states in self[i]:
                must_be_finite(states._asdict(), column.name(self._held.rows[i]))
        self._held.looked_at()

    def __len__(self) -> int:
        return len(self._held.rows)

    @overload
    def __getitem__(self, at: int) -> tuple[TextStates, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[tuple[TextStates, ...], ...]: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(*at.indices(len(self))))
        return text_states(self._held.data(at), self._column.name(self._held.rows[at]))

    def padded(self, variants: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one variant of each sample (the first): states (B, L, D) padded with zeros to the longest, mask (B, L),
        pooled (B, P), in the stored dtype. Copied once, from the map to their place."""
        held, first = self._held, self[0][0]
        plans = [_plan(header_of(self._held.data(i))) for i in range(len(self))]
        cuts = [plan.cuts[variants[i] if variants else 0] for i, plan in enumerate(plans)]
        lengths = [stop - start for start, stop, _ in cuts]
        longest = max(1, *lengths)
        states = _room_for(first.states.new_empty(longest, first.states.shape[1]), len(self))
        pooled = _room_for(first.pooled, len(self))
        token, width = _raw(states).shape[1] // longest, _raw(pooled).shape[1]
        zeros, parts, vectors = _zeros(longest * token), [], []
        for one, at, plan, (start, stop, slot) in zip(held.mapped, held.starts, plans, cuts):
            begin, vector = at + plan.states, at + plan.pooled + slot * width
            parts.append(one.bytes[begin + start * token : begin + stop * token])
            parts.append(zeros[: (longest - stop + start) * token])
            vectors.append(one.bytes[vector : vector + width])
        np.concatenate(parts, out=_raw(states).reshape(-1))
        np.concatenate(vectors, out=_raw(pooled).reshape(-1))
        return states, torch.arange(longest) < torch.tensor(lengths)[:, None], pooled


class Plan(NamedTuple):
    """Where in a member its states and its pooled vectors start, and the cuts of its variants."""

    states: int
    pooled: int
    cuts: tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=65536)
def _plan(header: bytes) -> Plan:
    """Of a header that unpack() has accepted."""
    parsed = json.loads(header[8:])
    notes = parsed["__metadata__"]
    states, pooled = (len(header) + parsed[name]["data_offsets"][0] for name in ("states", "pooled"))
    return Plan(states, pooled, _cuts(notes["lengths"], notes["variants"]))


@lru_cache(maxsize=4)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def text_states(data: memoryview, where: object) -> tuple[TextStates, ...]:
    """Equal captions are stored once: the note `variants` says which slot each variant has. Raises CacheError."""
    tensors, notes = unpack(data, where)
    try:
        states, pooled = tensors["states"], tensors["pooled"]
        cuts = _cuts(notes["lengths"], notes["variants"])
    except (KeyError, ValueError) as error:
        raise CacheError(f"{where}: no text states ({error}); {REPAIR}") from None
    if any(stop > len(states) or slot >= len(pooled) for _, stop, slot in cuts):
        raise CacheError(f"{where}: its notes speak of {cuts[-1][1]} states, there are {len(states)}; {REPAIR}")
    return tuple(TextStates(states[start:stop], pooled[slot]) for start, stop, slot in cuts)


@lru_cache(maxsize=65536)
def _cuts(lengths: str, variants: str) -> tuple[tuple[int, int, int], ...]:
    """For each variant the first and the last row of its states, and its slot."""
    ends = np.cumsum([0, *map(int, lengths.split(","))]).tolist()
    return tuple((ends[slot], ends[slot + 1], slot) for slot in map(int, variants.split(",")))


def _raw(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(len(tensor), -1).view(torch.uint8).numpy()
