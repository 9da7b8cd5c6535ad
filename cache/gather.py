"""Samples of one bucket under each other in one tensor: every byte is copied once, from the map to its place.

A bucket's latents have one header, so what it says is read once; text states differ in length, and few headers differ
from one another. What a header says was checked when it was first read (cache.members).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from cache.fingerprint import CacheError
from cache.maps import Mapped, Maps, arrived, look
from cache.members import copy_plan, header_of, unpack
from cache.rows import REPAIR, Column, Rows
from cache.shelf import Removed
from model.text import TextStates

TRIES = 5


class Member(NamedTuple):
    """A sample's safetensors in a map: bytes [start, stop); fresh: nobody has looked at what is in it."""

    row: int
    mapped: Mapped
    start: int
    stop: int
    fresh: bool

    @property
    def data(self) -> memoryview:
        return self.mapped.buffer[self.start : self.stop]


def members(maps: Maps, column: Column, rows: Sequence[int], check: str) -> list[Member]:
    """Where these rows lie, fetched if they come from a store, and looked at if they were not. Raises CacheError."""
    for _ in range(TRIES):
        try:
            return _members(maps, column, rows, check)
        except Removed:  # the shelf made room while we read: it is fetched again
            continue
    raise CacheError(f"{column.bucket}: the shelf is too small for a batch, give it more with shelf_bytes")


def _members(maps: Maps, column: Column, rows: Sequence[int], check: str) -> list[Member]:
    at = np.asarray(rows, np.int64)
    if len(at) and not (at.min() >= 0 and at.max() < len(column.shards)):
        raise IndexError(f"{column.bucket}: row {at.max() if at.max() > 0 else at.min()} of {len(column.shards)}")
    shards, starts = column.shards[at].tolist(), column.offsets[at].tolist()
    stops = (column.offsets[at] + column.sizes[at]).tolist()
    tars = {shard: maps.tar(column, shard) for shard in set(shards)}
    _ask(tars, zip(shards, starts, stops))
    found = []
    for row, shard, start, stop in zip(at.tolist(), shards, starts, stops):
        mapped = tars[shard]
        fresh = not mapped.looked[row - mapped.first]
        if fresh or check == "always":
            _look(maps, mapped, column, row, start, stop, check)
        found.append(Member(row, mapped, start, stop, fresh))
    return found


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


def latents(maps: Maps, chosen: Rows, rows: Sequence[int], check: str) -> dict[str, torch.Tensor]:
    """Tensors (B, ...) by name: latent, and whatever lies beside it. Raises CacheError."""
    column, header, found = chosen.latents, b"", {}
    copies: list[tuple[np.ndarray, int, int]] = []
    fresh: list[Member] = []
    for at, one in enumerate(members(maps, column, rows, check)):
        if one.fresh or not header:
            data = one.data
            if not header or bytes(data[: len(header)]) != header:
                tensors = checked(chosen, one.row, unpack(data, column.name(one.row))[0])
                found = found or {name: _room_for(tensor, len(rows)) for name, tensor in tensors.items()}
                _must_be_alike(column, one.row, tensors, found)
                header = header_of(data)
                copies = [(target, begin, begin + target.shape[1]) for target, begin in copy_plan(header, found)]
            fresh += [one] if one.fresh else []
        source, start = one.mapped.bytes, one.start
        for target, begin, end in copies:
            target[at] = source[start + begin : start + end]
    _finite(found, column, rows, fresh)
    return found


def _must_be_alike(column: Column, row: int, tensors: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: one.shape[1:] for name, one in found.items()}:
        raise CacheError(f"{column.name(row)}: holds other tensors than the samples before; {REPAIR}")


def checked(chosen: Rows, row: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    latent = tensors.get("latent")
    if latent is None or tuple(latent.shape) != chosen.shape:
        got = None if latent is None else tuple(latent.shape)
        raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {REPAIR}")
    return tensors


def _finite(found: dict[str, torch.Tensor], column: Column, rows: Sequence[int], fresh: list[Member]) -> None:
    """Of samples that are read for the first time; after it they were looked at. Raises CacheError naming one of NaN."""
    if fresh and not all(bool(tensor.sum(dtype=torch.float32).isfinite()) for tensor in found.values()):
        for at, row in enumerate(rows):
            must_be_finite({name: tensor[at] for name, tensor in found.items()}, column.name(int(row)))
    for one in fresh:
        one.mapped.looked[one.row - one.mapped.first] = 1


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
        self._column, self._members = column, members(maps, column, rows, check)
        for one in self._members:
            if one.fresh:
                where = self._column.name(one.row)
                for states in self._states(one):
                    must_be_finite(states._asdict(), where)
                one.mapped.looked[one.row - one.mapped.first] = 1

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, at):  # type: ignore[no-untyped-def, override]
        if isinstance(at, slice):
            return tuple(self._states(one) for one in self._members[at])
        return self._states(self._members[at])

    def __iter__(self) -> Iterator[tuple[TextStates, ...]]:
        return map(self._states, self._members)

    def padded(self, variants: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one variant of each sample (the first): states (B, L, D) padded with zeros to the longest, mask (B, L),
        pooled (B, P), in the stored dtype. Copied once, from the map to their place."""
        first = self._states(self._members[0])[0]
        plans = [_plan(self._header(one)) for one in self._members]
        cuts = [plan.cuts[variants[i] if variants else 0] for i, plan in enumerate(plans)]
        lengths = [stop - start for start, stop, _ in cuts]
        states = _room_for(first.states.new_empty(max(1, *lengths), first.states.shape[1]), len(self))
        pooled = _room_for(first.pooled, len(self))
        to_states, to_pooled = _raw(states), _raw(pooled)
        token, width = to_states.shape[1] // states.shape[1], to_pooled.shape[1]
        for at, (one, plan, (start, stop, slot)) in enumerate(zip(self._members, plans, cuts)):
            source, begin = one.mapped.bytes, one.start + plan.states
            size, row = (stop - start) * token, to_states[at]
            row[:size] = source[begin + start * token : begin + stop * token]
            row[size:] = 0
            begin = one.start + plan.pooled + slot * width
            to_pooled[at] = source[begin : begin + width]
        return states, torch.arange(states.shape[1]) < torch.tensor(lengths)[:, None], pooled

    def _header(self, one: Member) -> bytes:
        buffer, start = one.mapped.buffer, one.start
        return bytes(buffer[start : start + 8 + int.from_bytes(buffer[start : start + 8], "little")])

    def _states(self, one: Member) -> tuple[TextStates, ...]:
        return text_states(one.data, self._column.name(one.row))


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
