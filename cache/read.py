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
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import CacheError, NoCache, cache_folder, differences, latent_settings, text_settings
from cache.members import unpack
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
        self.settings: dict[str, Any] = {"latents": found["settings"], "text": found["text"][self.text]}
        self._shelf = Shelf(shelf or os.path.join(tempfile.gettempdir(), f"dailies-{os.getuid()}"), shelf_bytes)
        self._open: dict[str, _Rows] = {}
        self._maps: OrderedDict[str, memoryview] = OrderedDict()

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
        return tables.buckets(self.folder)

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

    def fetch(self, bucket: str, shards: Sequence[int]) -> Window:
        """Start fetching whole shards (latents and texts) and keep them on the shelf while the window is open."""
        chosen = self._rows(bucket)
        return Window(self._shelf, [path for shard in shards for path in chosen.files(int(shard))])

    def _rows(self, bucket: str) -> _Rows:
        if bucket not in self._open:
            self._open[bucket] = _Rows(self.folder, bucket, self.text, self.channels)
        return self._open[bucket]

    def _sample(self, chosen: _Rows, row: int) -> Sample:
        tensors, _ = self._member(chosen.latents, row)
        texts, notes = self._member(chosen.texts, row)
        latent = tensors.pop("latent", None)
        if latent is None or tuple(latent.shape) != chosen.shape:
            got = None if latent is None else tuple(latent.shape)
            raise CacheError(f"{chosen.latents.name(row)}: latent must be {chosen.shape}, got {got}; {_REPAIR}")
        logvar = tensors.pop("logvar", None)
        return Sample(*chosen.identity(row), latent, _texts(texts, notes), tensors, logvar)

    def _member(self, column: _Column, row: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        path, start, length, crc = column.place(row)
        mapped = self._map(path)
        if start + length > len(mapped):
            raise CacheError(f"{column.name(row)}: {path} ends before it ({len(mapped)} bytes); {_REPAIR}")
        data = mapped[start : start + length]
        if self.check == "always" or (self.check == "first" and not column.checked[row]):
            if zlib.crc32(data) != crc:
                raise CacheError(f"{column.name(row)}: its bytes in {path} are not those that were written; {_REPAIR}")
            column.checked[row] = True
        return unpack(data, column.name(row))

    def _map(self, path: str) -> memoryview:
        if path in self._maps:
            self._maps.move_to_end(path)
            return self._maps[path]
        self._maps[path] = _mapped(self._shelf, path)
        while len(self._maps) > OPEN_MAPS:
            self._maps.popitem(last=False)  # unmapped when the last tensor of it is gone
        return self._maps[path]


_REPAIR = "run `python -m cache.verify`, it says what to do"


class _Column:
    """Where the latents, or the texts, of a bucket's samples lie: numbers in arrays, names on demand."""

    def __init__(self, folder: str, bucket: str, table: pa.Table, text: bool):
        self.folder, self.bucket, self.text = folder, bucket, text
        self.keys = table["key"]
        self.shards = table["shard"].to_numpy()
        self.offsets, self.sizes = table["offset"].to_numpy(), table["bytes"].to_numpy()
        self.crcs = table["crc"].to_numpy()
        self.checked = np.zeros(len(table), dtype=bool)
        firsts = np.unique(self.shards, return_index=True)
        self.tars = {int(shard): self._tar(table, int(shard), int(row)) for shard, row in zip(*firsts, strict=True)}

    def _tar(self, table: pa.Table, shard: int, row: int) -> str:
        name = table["tar"][row].as_py() if self.text else tables.shard_name(shard)
        return storage.join(self.folder, self.bucket, name)

    def place(self, row: int) -> tuple[str, int, int, int]:
        """(path of the tar, offset, bytes, checksum)."""
        return (self.tars[int(self.shards[row])], int(self.offsets[row]), int(self.sizes[row]), int(self.crcs[row]))

    def name(self, row: int) -> str:
        return f"{self.bucket}/{self.keys[row].as_py()} ({'text states' if self.text else 'latent'})"


class _Rows:
    """A bucket's samples. Raises CacheError when the index of texts is not that of the latents."""

    def __init__(self, folder: str, bucket: str, text: str, channels: int):
        self.table = tables.read_table(tables.index_path(folder, bucket), tables.INDEX)
        texts = tables.read_table(tables.text_index_path(folder, bucket, text), tables.TEXT_INDEX)
        if not self.table["key"].equals(texts["key"]) or not self.table["shard"].equals(texts["shard"]):
            raise CacheError(
                f"{bucket}: {len(self.table)} latents but text states of {len(texts)}, or of others; "
                "run `python -m cache.encode_latents`"
            )
        self.shape = Bucket.parse(bucket).latent_shape(channels)
        self.latents = _Column(folder, bucket, self.table, text=False)
        self.texts = _Column(folder, bucket, texts, text=True)

    def identity(self, row: int) -> tuple[str, int]:
        return self.table["clip_id"][row].as_py(), self.table["start_tick"][row].as_py()

    def files(self, shard: int) -> list[str]:
        if shard not in self.latents.tars:
            raise CacheError(f"{self.latents.bucket}: no shard {shard}, there are {len(self.latents.tars)}")
        return [self.latents.tars[shard], self.texts.tars[shard]]


def _mapped(shelf: Shelf, path: str) -> memoryview:
    """The whole file, mapped copy-on-write: torch wants a writable buffer, the file is never written."""
    try:
        with open(shelf.local(path), "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (FileNotFoundError, ValueError):
        raise CacheError(f"{path}: a shard of the index is missing or empty; {_REPAIR}") from None


def _texts(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> tuple[TextStates, ...]:
    """Equal captions are stored once: the note `variants` says which slot each variant has."""
    slots = [int(slot) for slot in notes["variants"].split(",")]
    lengths = [int(length) for length in notes["lengths"].split(",")]
    states = torch.split(tensors["states"], lengths)
    return tuple(TextStates(states[slot], tensors["pooled"][slot]) for slot in slots)


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
