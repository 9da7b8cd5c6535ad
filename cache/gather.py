"""Samples of one bucket under each other in one tensor: every byte is read once, from the file to its place.

A bucket's latents have one header, so what it says is read once. A sample that is plainly what the index says (its name,
the bucket's header, its checksum, finite numbers) is read with its header and looked at where it came to lie; any other
one is read and looked at alone, which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from cache.blocks import Kept, rooms_for
from cache.fingerprint import CacheError
from cache.finite import finite
from cache.maps import BLOCK_BYTES, Maps, arrived, ends_before, member_name
from cache.members import header_of, layout_of, unpack
from cache.places import Looker, Places, patiently
from cache.rows import REPAIR, Rows

HEAD_BYTES = 4096  # of a sample: its header and more


class Layout(NamedTuple):
    """What the latents of a bucket have in common: their header, how many bytes follow it, and of each tensor, in the
    order of the file, its name, shape and dtype, and where its bytes lie in the member. packed: they lie one behind the
    other and nothing beside them, as our encoder writes them."""

    header: bytes
    bytes: int
    names: tuple[str, ...]
    like: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    places: tuple[tuple[int, int], ...]
    packed: bool


def looker(maps: Maps, chosen: Rows, check: str) -> Looker:
    return Looker(maps, chosen.latents, check != "never", check == "always", partial(settle, chosen))


def latents(
    maps: Maps, chosen: Rows, rows: Sequence[int] | np.ndarray, clips: Sequence[str], check: str
) -> dict[str, torch.Tensor]:
    """Tensors (B, ...) by name: latent, and whatever lies beside it. Raises CacheError."""
    look = looker(maps, chosen, check)
    return patiently(chosen.latents.bucket, lambda: _latents(chosen, look, look.places(rows, clips)))


def _latents(chosen: Rows, look: Looker, at: Places) -> dict[str, torch.Tensor]:
    if not at.rows:
        raise ValueError("a batch needs a row")
    layout = chosen.layout or _first(chosen, look, at)
    if not at.due and (maps := at.in_memory()) is not None:
        return copied(layout, maps, at.starts)
    made = _rooms(layout, len(at.rows))
    _read(chosen, look, layout, at, made)
    return _named(layout, made)


def copied(layout: Layout, maps: Sequence[memoryview], starts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Samples that were looked at, out of maps that hold them, from these numbers on."""
    made = _rooms(layout, len(starts))
    for (_, room), (begin, end) in zip(made, layout.places):
        size, put = end - begin, 0
        for data, start in zip(maps, starts):
            start += begin
            room[put : (put := put + size)] = data[start : start + size]
    return _named(layout, made)


def _rooms(layout: Layout, count: int) -> list[Kept]:
    return rooms_for(tuple([((count, *shape), dtype) for shape, dtype in layout.like]))


def _named(layout: Layout, made: Sequence[Kept]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, (tensor, _) in zip(layout.names, made)}


def _read(chosen: Rows, look: Looker, layout: Layout, at: Places, made: Sequence[Kept]) -> None:
    """Samples of which some are due, or whose tars have no maps."""
    sizes = [end - begin for begin, end in layout.places]
    rooms = list(zip(*[_cut(room, size, len(at.rows)) for (_, room), size in zip(made, sizes)]))  # for each sample
    if not at.due and layout.packed:
        return _again(look, len(layout.header), at, rooms)
    _fresh(chosen, look, layout, at, rooms)
    if not look.trusts and not all(finite(np.frombuffer(room, np.uint8), tensor.dtype) for tensor, room in made):
        for i in at.due:
            look.read(at, i)
    for i in at.due:
        at.looked(i)


def _cut(room: memoryview, size: int, count: int) -> list[memoryview]:
    return [room[i * size : (i + 1) * size] for i in range(count)]


def _again(look: Looker, header: int, at: Places, rooms: Sequence[Sequence[memoryview]]) -> None:
    """Samples that were looked at, to their place: out of the map of a tar that has one."""
    for i, (data, start, stop, room) in enumerate(zip(at.maps(), at.starts, at.stops, rooms)):
        if data is None:
            tar = at.tar(i)
            if not tar.read(room, start + header, stop - start - header):
                raise ends_before(look.column, at.rows[i], tar.size)
            continue
        start += header
        for piece in room:
            piece[:] = data[start : (start := start + len(piece))]


def _fresh(chosen: Rows, look: Looker, layout: Layout, at: Places, rooms: Sequence[Sequence[memoryview]]) -> None:
    """Read to their place samples of which some are due, and look at them but for that their numbers are finite, which
    is cheaper to ask of all at once."""
    head = memoryview(bytearray(BLOCK_BYTES + len(layout.header)))
    size, sums, known = len(head) + layout.bytes, look.column.sums[at.rows].tolist(), xxhash.xxh3_64(layout.header)
    for i, (row, clip, start, stop, room) in enumerate(zip(at.rows, at.clips, at.starts, at.stops, rooms)):
        tar = at.tar(i)
        arrived(tar, look.column, row, start, stop)
        plain = layout.packed and look.sums and stop - start + BLOCK_BYTES == size and start >= BLOCK_BYTES
        if plain and tar.read_summed(room, start - BLOCK_BYTES, digest := known.copy(), head):
            before = bytes(head)
            named = before.startswith(member_name(clip)) and before.endswith(layout.header)
            if named and digest.intdigest() == sums[i]:
                chosen.layout = chosen.layout or layout
                continue
        data = look.read(at, i)
        for piece, (begin, end) in zip(room, layout.places):
            piece[:] = data[begin:end]


def settle(chosen: Rows, row: int, data: memoryview) -> int:
    """1: the sample has the tensors of its bucket, all of them finite, or CacheError."""
    layout = chosen.layout
    if layout is None or data[: len(layout.header)] != layout.header:
        layout = _layout(chosen, row, data)
    for name, (_, dtype), (begin, end) in zip(layout.names, layout.like, layout.places):
        if not finite(np.frombuffer(data[begin:end], np.uint8), dtype):
            raise CacheError(f"{chosen.latents.name(row)}: {name} holds NaN or infinity; {REPAIR}")
    return 1


def _first(chosen: Rows, look: Looker, at: Places) -> Layout:
    """The bucket's layout by the header of a first sample, whose checksum is checked when it is read. Raises CacheError."""
    if look.sums:
        head = look.head(at, 0, HEAD_BYTES)[min(BLOCK_BYTES, at.starts[0]) :]
        try:
            return _described(chosen, at.rows[0], header_of(head), at.stops[0] - at.starts[0])
        except (CacheError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # read whole, it says what is wrong
    look.read(at, 0)
    return chosen.layout  # type: ignore[return-value] (known now)


def _layout(chosen: Rows, row: int, data: memoryview) -> Layout:
    """Of a sample, which says what the bucket's is if it is the first one. Raises CacheError if others say otherwise."""
    unpack(data, chosen.latents.name(row))
    header = header_of(data)
    found = _described(chosen, row, header, len(data))
    with chosen.lock:  # of several threads the first one says what the others are held to
        chosen.layout = chosen.layout or found
    if chosen.layout.header != header:
        raise CacheError(f"{chosen.latents.name(row)}: holds other tensors than the samples before; {REPAIR}")
    return found


def _described(chosen: Rows, row: int, header: bytes, size: int) -> Layout:
    """What a header says of a member of `size` bytes. Raises CacheError for another latent, ValueError and its like for
    what is no header."""
    parts, _ = layout_of(header, size)
    checked(chosen, row, {name: torch.empty(shape, dtype=dtype, device="meta") for name, dtype, shape, _, _ in parts})
    found = sorted((at, at + count * dtype.itemsize, name, dtype, shape) for name, dtype, shape, count, at in parts)
    names = tuple(name for _, _, name, _, _ in found)
    like = tuple((tuple(shape), dtype) for _, _, _, dtype, shape in found)
    places = tuple((len(header) + begin, len(header) + end) for begin, end, _, _, _ in found)
    packed = [len(header), *(end for _, end in places)] == [*(begin for begin, _ in places), size]
    return Layout(header, size - len(header), names, like, places, packed)


def checked(chosen: Rows, row: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    latent = tensors.get("latent")
    if latent is None or tuple(latent.shape) != chosen.shape:
        got = None if latent is None else tuple(latent.shape)
        raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {REPAIR}")
    return tensors
