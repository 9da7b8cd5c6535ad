"""Reading a latent cache: samples by row number, from a memory map or from shards fetched whole.

    cache = open_cache(recipe)
    rows = cache.index("17x256x256-24fps")              # one row per sample, in the order of the shards
    with cache.fetch("17x256x256-24fps", shards=[0, 1]):  # does nothing for a local cache
        samples = cache.read("17x256x256-24fps", [5, 2, 9])

Tensors are views of the map: nothing is copied until they are batched. Every sample's checksum is checked when this
process reads it for the first time.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cache import batches, order
from cache import index as tables
from cache.fingerprint import CacheError, NoCache, cache_folder, differences, latent_settings, text_settings
from cache.members import copy_plan, header_of, unpack
from cache.rows import Column, Rows
from cache.shelf import Shelf, Window
from media import storage
from model.text import TextStates
from pipelines import Recipe, fingerprint

SHELF_BYTES = 32_000_000_000
OPEN_MAPS = 256  # mapped shards kept open; file descriptors are the limit
Check = Literal["first", "always", "never"]


class Sample(NamedTuple):
    """latent (C, t, h, w) in the stored dtype; texts: one per caption variant; conditions: name -> tensor."""

    clip_id: str
    start_tick: int
    latent: torch.Tensor
    texts: tuple[TextStates, ...]
    conditions: dict[str, torch.Tensor]
    logvar: torch.Tensor | None = None


def open_cache(recipe: Recipe, check: Check = "first", shelf: str | None = None,
               shelf_bytes: int = SHELF_BYTES) -> LatentCache:  # fmt: skip
    """The cache that the recipe's settings name. shelf: folder for fetched shards (the system's temporary one).

    Raises NoCache (a CacheError) when there is none, with the difference to those that are there.
    """
    wanted, texts = latent_settings(recipe), text_settings(recipe)
    folder = cache_folder(recipe, wanted)
    found = tables.read_json(storage.join(folder, "cache.json"))
    if found is None:
        raise NoCache(_no_cache(recipe, folder, wanted))
    if found["settings"] != wanted:
        raise NoCache(f"{folder} was made by other settings:\n" + "\n".join(differences(wanted, found["settings"])))
    if fingerprint(texts) not in found["text"]:
        others = [line for other in found["text"].values() for line in differences(texts, other)]
        raise NoCache(f"{folder} has no text states of this recipe, run `python -m cache.encode_latents`:\n"
                         + "\n".join(others))  # fmt: skip
    return LatentCache(folder, recipe, fingerprint(texts), check, shelf, shelf_bytes)


class LatentCache:
    """One latents-<fp8> folder with one encoder's text states. Rows of a bucket are numbered as in index(bucket)."""

    def __init__(self, folder: str, recipe: Recipe | None = None, text: str | None = None, check: Check = "first",
                 shelf: str | None = None, shelf_bytes: int = SHELF_BYTES):  # fmt: skip
        found = tables.read_json(storage.join(folder, "cache.json"))
        if found is None:
            raise NoCache(f"{folder}: no latent cache, run `python -m cache.encode_latents`")
        self.folder, self.recipe, self.check = folder, recipe, check
        self.text = text or _only(found["text"], folder)
        self._counted: dict[str, int] = found.get("samples", {})
        self.settings: dict[str, Any] = {"latents": found["settings"], "text": found["text"][self.text]}
        self._shelf = Shelf(shelf or os.path.join(tempfile.gettempdir(), f"dailies-{os.getuid()}"), shelf_bytes)
        self.remote = storage.is_remote(folder)
        self._shelf_bytes = shelf_bytes
        self._open: dict[str, Rows] = {}
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = Lock()

    @property
    def channels(self) -> int:
        return int(self.settings["latents"]["vae"]["channels"])

    @property
    def text_width(self) -> int:
        return int(self.settings["text"]["encoder"]["width"])

    @property
    def pooled_width(self) -> int:
        return int(self.settings["text"]["encoder"]["pooled_width"])

    @cached_property
    def buckets(self) -> list[str]:
        """A plain web server lists no folders: there the buckets are those that cache.json counts."""
        return sorted(self._counted) if self.folder.startswith("http") else tables.buckets(self.folder)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(self.index(bucket)) for bucket in self.buckets])

    def __len__(self) -> int:
        """Samples of all buckets."""
        return int(self._ends[-1]) if self.buckets else 0

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, counted through the buckets by name. Nothing is copied. Raises IndexError."""
        bucket, row = self.locate(number)
        return self.read(bucket, [row])[0]

    def locate(self, number: int) -> tuple[str, int]:
        """(bucket, row) of a sample's number."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        at = number % len(self)
        which = int(np.searchsorted(self._ends, at, side="right"))
        return self.buckets[which], at - (int(self._ends[which - 1]) if which else 0)

    def batch(self, numbers: Sequence[int]) -> batches.Batch:
        """Samples of one bucket by their numbers, stacked. Raises ValueError for samples of several buckets."""
        places = [self.locate(number) for number in numbers]
        if len({bucket for bucket, _ in places}) != 1:
            raise ValueError(f"a batch is of one bucket, got {sorted({bucket for bucket, _ in places})}")
        return self.gather(places[0][0], [row for _, row in places])

    def epoch(self, view: str, set_name: str | None = None, *, batch: int = 1, tokens: int | None = None, seed: int = 0,
              epoch: int = 0, split: str = "train", rank: int = 0, world: int = 1, start: int = 0,
              workers: int = 2) -> Iterator[batches.Batch]:  # fmt: skip
        """An epoch's batches, each of one bucket: of a view's samples, or of those that a set keeps, by their weights.

        batch: samples each; tokens: instead, a budget that each bucket fills. Ranks share the batches out; start: of a
        rank's own, how many were taken before. The order depends on none of these, nor on where the cache lies.
        """
        chosen = order.steps(batches.pools(self, view, set_name, split, batch, tokens), seed, epoch)
        return batches.stream(self, chosen[rank::world][start:], workers, lambda step: self.gather(*step[:2]))

    def view(self, view: str) -> pa.Table:
        """clip_id, start_tick, bucket (null), reason (null): every clip of the sets that stages feed to the view."""
        path = tables.view_path(self.folder, view)
        if not storage.exists(path):
            raise CacheError(f"{path}: view '{view}' is not encoded yet, run `python -m cache.encode_latents`")
        return tables.read_table(path, tables.VIEW)

    def ledger(self, set_name: str) -> pa.Table:
        """clip_id, weight, split of the clips that the set keeps; forgotten clips are not among them, at once."""
        from curate.tables import Tables

        if self.recipe is None:
            raise CacheError("a cache opened by its path knows no sets: use open_cache(recipe)")
        rows = Tables(self.recipe).ledger(set_name)
        return rows.filter(rows["kept"]).select(["clip_id", "weight", "split"])

    def index(self, bucket: str) -> pa.Table:
        """clip_id, start_tick, shard, offset, bytes, crc, key: one row per sample, in the order of the shards."""
        return self._rows(bucket).table

    def read(self, bucket: str, rows: Sequence[int]) -> list[Sample]:
        """Samples of these rows, in this order. Raises CacheError, naming the sample, rather than give wrong data."""
        chosen = self._rows(bucket)
        return [self._sample(chosen, int(row)) for row in rows]

    def gather(self, bucket: str, rows: Sequence[int]) -> batches.Batch:
        """Samples of these rows stacked: each tensor is copied once, to its place. Raises CacheError."""
        chosen = self._rows(bucket)
        stacked = self._stacked(chosen, rows)
        latent, logvar = stacked.pop("latent"), stacked.pop("logvar", None)
        texts = tuple(_texts(*self._member(chosen.texts, int(row))) for row in rows)
        clips, ticks = chosen.identities(rows)
        return batches.Batch(bucket, clips, ticks, latent, texts, stacked, logvar)

    def _stacked(self, chosen: Rows, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Tensors of one name and shape under each other; samples of one header are copied without reading it again."""
        column, header, found = chosen.latents, b"", {}
        copies: list[tuple[np.ndarray, int]] = []
        for at, row in enumerate(rows):
            data = self._data(column, int(row))
            if not header or bytes(data[: len(header)]) != header:
                tensors = self._checked(chosen, int(row), unpack(data, column.name(int(row)))[0])
                if not found:
                    found = {name: batches.room_for(tensor, len(rows)) for name, tensor in tensors.items()}
                if {name: tensor.shape for name, tensor in tensors.items()} != {
                    n: t.shape[1:] for n, t in found.items()
                }:
                    raise CacheError(f"{column.name(int(row))}: holds other tensors than the samples before; {_REPAIR}")
                header = header_of(data)
                copies = copy_plan(header, found)
            for target, offset in copies:
                target[at] = np.frombuffer(data, np.uint8, target.shape[1], offset)
        return found

    def will_need(self, bucket: str, rows: Sequence[int]) -> None:
        """Tell the system which parts of the maps are read soon, so that it reads a cold disk ahead of us."""
        chosen = self._rows(bucket)
        for column in (chosen.latents, chosen.texts):
            for row in () if self.remote else rows:
                path, start, length, _ = column.place(row)
                first = start - start % mmap.PAGESIZE
                mapped: mmap.mmap = self._map(path).obj  # type: ignore[assignment]
                if first + length < len(mapped):
                    mapped.madvise(mmap.MADV_WILLNEED, first, start - first + length)

    def fetch(self, bucket: str, shards: Sequence[int]) -> Window:
        """Start fetching whole shards (latents and texts) and keep them on the shelf while the window is open."""
        chosen = self._rows(bucket)
        return Window(self._shelf, [path for shard in shards for path in chosen.files(int(shard))])

    def _rows(self, bucket: str) -> Rows:
        if bucket not in self._open:
            self._open[bucket] = Rows(self.folder, bucket, self.text, self.channels)
        return self._open[bucket]

    def _sample(self, chosen: Rows, row: int) -> Sample:
        tensors = self._checked(chosen, row, self._member(chosen.latents, row)[0])
        texts, notes = self._member(chosen.texts, row)
        latent, logvar = tensors.pop("latent"), tensors.pop("logvar", None)
        return Sample(*chosen.identity(row), latent, _texts(texts, notes), tensors, logvar)

    def _checked(self, chosen: Rows, row: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latent = tensors.get("latent")
        if latent is None or tuple(latent.shape) != chosen.shape:
            got = None if latent is None else tuple(latent.shape)
            raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {_REPAIR}")
        return tensors

    def _member(self, column: Column, row: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        return unpack(self._data(column, row), column.name(row))

    def _data(self, column: Column, row: int) -> memoryview:
        """A sample's bytes in the map, its checksum checked when it is read for the first time."""
        path, start, length, crc = column.place(row)
        mapped = self._map(path)
        if start + length > len(mapped):
            raise CacheError(f"{column.name(row)}: {path} ends before it ({len(mapped)} bytes); {_REPAIR}")
        data = mapped[start : start + length]
        if self.check == "always" or (self.check == "first" and not column.checked[row]):
            if zlib.crc32(data) != crc:
                raise CacheError(f"{column.name(row)}: its bytes in {path} are not those that were written; {_REPAIR}")
            column.checked[row] = True
        return data

    def _map(self, path: str) -> memoryview:
        with self._lock:
            if path in self._maps:
                self._maps.move_to_end(path)
                return self._maps[path]
        mapped = _mapped(self._shelf, path)
        with self._lock:
            mapped = self._maps.setdefault(path, mapped)
            while len(self._maps) > 1 and self._too_much_mapped():
                self._maps.popitem(last=False)  # unmapped when the last tensor of it is gone
        return mapped

    def _too_much_mapped(self) -> bool:
        """A fetched shard takes room on the disk as long as it is mapped, though the shelf may have let it go."""
        held = sum(map(len, self._maps.values())) if self.remote else 0
        return len(self._maps) > OPEN_MAPS or held > self._shelf_bytes


_REPAIR = "run `python -m cache.verify`, it says what to do"


def _mapped(shelf: Shelf, path: str) -> memoryview:
    """The whole file, mapped copy-on-write: torch wants a writable buffer, the file is never written."""
    try:
        local = shelf.local(path)
        if os.path.getsize(local):
            with open(local, "rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except FileNotFoundError:
        pass
    raise CacheError(f"{path}: a shard of the index is missing or empty; {_REPAIR}")


def _texts(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> tuple[TextStates, ...]:
    """Equal captions are stored once: the note `variants` says which slot each variant has."""
    states, pooled = tensors["states"], tensors["pooled"]
    cuts = _cuts(notes["lengths"], notes["variants"])
    return tuple(TextStates(states[start:stop], pooled[slot]) for start, stop, slot in cuts)


@lru_cache(maxsize=4096)
def _cuts(lengths: str, variants: str) -> tuple[tuple[int, int, int], ...]:
    """For each variant the first and the last row of its states, and its slot."""
    ends = np.cumsum([0, *map(int, lengths.split(","))]).tolist()
    return tuple((ends[slot], ends[slot + 1], slot) for slot in map(int, variants.split(",")))


def _only(texts: dict[str, Any], folder: str) -> str:
    if len(texts) != 1:
        raise CacheError(f"{folder} holds the states of {len(texts)} text encoders ({', '.join(texts)}): name one")
    return next(iter(texts))


def _no_cache(recipe: Recipe, folder: str, wanted: dict[str, Any]) -> str:
    lines = [f"{folder}: no such cache, run `python -m cache.encode_latents`"]
    workspace = storage.absolute(recipe.workspace)
    for name in storage.folders(workspace):
        other = tables.read_json(storage.join(workspace, name, "cache.json")) if name.startswith("latents-") else None
        if other is not None:
            lines += [f"{name} differs:", *(f"  {line}" for line in differences(wanted, other["settings"]))]
    return "\n".join(lines)
