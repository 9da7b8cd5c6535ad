"""Reading a latent cache: samples by row number, from a memory map or from shards fetched whole.

    cache = open_cache(recipe)
    rows = cache.index("17x256x256-24fps")              # one row per sample, in the order of the shards
    with cache.fetch("17x256x256-24fps", shards=[0, 1]):  # does nothing for a local cache
        samples = cache.read("17x256x256-24fps", [5, 2, 9])

Tensors are views of the map: nothing is copied until they are batched. Every sample's checksum is checked when this
process reads it for the first time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache import batches, gather, order, texts
from cache import index as tables
from cache.batches import Sample
from cache.columns import whole
from cache.fingerprint import CacheError, NoCache, cache_folder, differences, latent_settings, text_settings
from cache.maps import Maps
from cache.members import unpack
from cache.padded import Variants
from cache.places import Looker, patiently
from cache.rows import Rows
from cache.shelf import Shelf, Window
from cache.warm import warm
from media import storage
from pipelines import Recipe, fingerprint

SHELF_BYTES = 32_000_000_000
Check = Literal["first", "always", "never"]


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
        self.maps = Maps(self._shelf, shelf_bytes)
        self._open: dict[str, Rows] = {}
        self.pools: dict[object, list[order.Pool]] = {}  # of the last epoch, see cache.batches
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
        return np.cumsum([len(self.rows(bucket)) for bucket in self.buckets])

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
              workers: int = 2, variant: int | None = None) -> Iterator[batches.Batch]:  # fmt: skip
        """An epoch's batches, each of one bucket: of a view's samples, or of those that a set keeps, by their weights.

        batch: samples each; tokens: instead, a budget that each bucket fills. Ranks share the batches out; start: of a
        rank's own, how many were taken before. The order depends on none of these, nor on where the cache lies.
        variant: of the captions, if it is known that batch.texts.padded() will be asked for this one.
        """
        with tables.fetched_together(self._tables(view) if self.remote else ()):
            chosen = order.steps(batches.pools(self, view, set_name, split, batch, tokens), seed, epoch)

        def load(step: order.Step) -> batches.Batch:
            return self.gather(step.bucket, step.rows, None if variant is None else [variant] * len(step.rows))

        return batches.stream(self, chosen[rank::world][start:], workers, load)

    def _tables(self, view: str) -> list[str]:
        """Whatever an epoch of a view reads before its first shard."""
        unread = [bucket for bucket in self._counted if bucket not in self._open]
        return [
            tables.view_path(self.folder, view),
            *(tables.index_path(self.folder, bucket) for bucket in unread),
            *(tables.text_index_path(self.folder, bucket, self.text) for bucket in unread),
        ]

    def view(self, view: str) -> pa.Table:
        """clip_id, start_tick, bucket (null), reason (null): every clip of the sets that stages feed to the view."""
        return self._view(view, tables.VIEW.names).cast(tables.VIEW)

    def view_version(self, view: str) -> object:
        """What tells a view's table from a later one of its name; None where it takes a request to know."""
        return None if self.remote else tables.version(tables.view_path(self.folder, view))

    def placed(self, view: str) -> pa.Table:
        """clip_id, start_tick, bucket (as codes) of the clips of a view that have a bucket."""
        rows = self._view(view, ["clip_id", "start_tick", "bucket"])
        return rows.filter(pc.is_valid(rows["bucket"])) if rows["bucket"].null_count else rows

    def _view(self, view: str, names: list[str]) -> pa.Table:
        path = tables.view_path(self.folder, view)
        try:
            return tables.read_columns(path, names)
        except FileNotFoundError:
            what = f"{path}: view '{view}' is not encoded yet, run `python -m cache.encode_latents`"
            raise CacheError(what) from None

    def ledger(self, set_name: str) -> pa.Table:
        """clip_id, weight, split of the clips that the set keeps; forgotten clips are not among them, at once."""
        from curate.tables import Tables

        if self.recipe is None:
            raise CacheError("a cache opened by its path knows no sets: use open_cache(recipe)")
        rows = Tables(self.recipe).ledger(set_name)
        return rows.filter(rows["kept"]).select(["clip_id", "weight", "split"])

    def index(self, bucket: str) -> pa.Table:
        """clip_id, start_tick, shard, offset, bytes, xxh3, key: one row per sample, in the order of the shards."""
        return self.rows(bucket).table

    def text_lengths(self, bucket: str) -> pa.Array:
        """Tokens of the text states of each sample's caption variants: lists, in the order of index(bucket)."""
        path = tables.text_index_path(self.folder, bucket, self.text)
        return whole(tables.read_columns(path, ["lengths"])["lengths"])

    def read(self, bucket: str, rows: Sequence[int]) -> list[Sample]:
        """Samples of these rows, in this order. Raises CacheError, naming the sample, rather than give wrong data."""
        chosen = self.rows(bucket)
        clips, ticks = chosen.names(rows)
        latents = _views(gather.looker(self.maps, chosen, self.check), rows, clips)
        states = _views(texts.looker(self.maps, chosen.texts, self.check), rows, clips)
        return [_sample(chosen, *one) for one in zip(rows, clips, ticks, latents, states)]

    def gather(self, bucket: str, rows: Sequence[int], variants: Variants | None = None) -> batches.Batch:
        """Samples of these rows stacked: each tensor is copied once, to its place. variants: of each sample's captions
        the one that texts.padded() gives, which is then read to its place too; None for no text; or what chooses them,
        told how many each sample has. Raises CacheError."""
        chosen, at = self.rows(bucket), np.asarray(rows, np.int64)
        clips, ticks = chosen.names(at)
        found = None
        if variants is not None and chosen.layout is not None and clips and self.check != "always":
            found = warm(self.maps, chosen, chosen.layout, at, variants)
        states = texts.Texts(self.maps, chosen.texts, at, clips, self.check, variants, found and found.texts)
        stacked = found.tensors if found else gather.latents(self.maps, chosen, at, clips, self.check)
        latent, logvar = stacked.pop("latent"), stacked.pop("logvar", None)
        return batches.Batch(bucket, clips, ticks, latent, states, stacked, logvar)

    def fetch(self, bucket: str, shards: Sequence[int], rows: Sequence[int] = ()) -> Window:
        """Keep shards (latents and texts) on the shelf while the window is open, and fetch them: what these rows need at
        once, in this order; the rest when the window's rest() is called or waited for."""
        chosen = self.rows(bucket)
        columns = (chosen.latents, chosen.texts) if self.remote else ()
        files = [self.maps.wanted(column, int(s)) for s in shards for column in columns]
        return Window(self._shelf, files, [part for column in columns for part in column.needs(rows)])

    def rows(self, bucket: str) -> Rows:
        """Where the samples of a bucket lie, in arrays."""
        if (found := self._open.get(bucket)) is not None:
            return found
        with self._lock:
            if bucket not in self._open:
                self._open[bucket] = Rows(self.folder, bucket, self.text, self.channels)
            return self._open[bucket]


def _views(look: Looker, rows: Sequence[int], clips: Sequence[str]) -> list[memoryview]:
    """Bytes of samples, in the map."""
    return patiently(look.column.bucket, lambda: list(look.views(look.places(rows, clips))))


def _sample(chosen: Rows, row: int, clip: str, tick: int, latents: memoryview, states: memoryview) -> Sample:
    tensors = gather.checked(chosen, row, unpack(latents, chosen.latents.name(row))[0])
    latent, logvar = tensors.pop("latent"), tensors.pop("logvar", None)
    return Sample(clip, tick, latent, texts.states_of(states, chosen.texts, row), tensors, logvar)


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
