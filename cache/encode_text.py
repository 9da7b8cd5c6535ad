"""Captions -> text states -> tars beside the latents: the same keys in the same order.

A tar is named by the fingerprint of its encoder and its captions, so new captions make new tars and the old ones stay
as they are for whoever reads them. States that exist under this encoder are copied, never computed again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import xxhash

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import CacheError
from cache.members import pack, unpack
from cache.shards import Place, complete, scan, set_aside, writing_shard
from media import storage
from model.text import TextEncoder, TextStates
from pipelines import fingerprint

EMPTY = ""  # the caption of a clip that has none
BATCH = 32  # samples whose texts are given to the encoder at once
RECENT = 1024  # captions whose states are kept in memory: neighbours in a set are often described alike


class Stored(NamedTuple):
    """Where the states of one caption lie: a sample of a tar, and its slot there."""

    path: str
    offset: int
    bytes: int
    xxh3: int
    slot: int


class TextCounts(NamedTuple):
    computed: int = 0
    copied: int = 0


class TextWriter:
    """Makes text tars of one encoder in one cache. load: gives the encoder when the first caption must be computed."""

    def __init__(self, folder: str, settings: Mapping[str, Any], load: Callable[[], TextEncoder],
                 captions: Mapping[str, Sequence[str]], say: Callable[[str], None]):  # fmt: skip
        self.folder, self.made_by, self.captions, self.say = folder, fingerprint(settings), captions, say
        self._dtype, self._load, self._encoder = getattr(torch, settings["dtype"]), load, None
        self._own_images = bool(settings["encoder"].get("image_template"))  # an image's states are not a clip's
        self._stored: dict[str, Stored] = {}
        self._lengths: dict[str, int] = {}
        self._recent: OrderedDict[str, TextStates] = OrderedDict()
        self.counts = TextCounts()
        self._finite = True  # the states of the bucket at hand
        for bucket in tables.buckets(folder):
            self._remember(bucket, self._index(bucket).to_pylist())

    def update(self, bucket: str, latents: pa.Table) -> int:
        """Bring a bucket's text states into line with its latents (their index) and the captions. Tars written."""
        old = self._index(bucket).to_pylist()
        before = {row["key"]: row for row in old}
        wanted: dict[int, list[dict[str, Any]]] = {}
        for row in latents.to_pylist():
            wanted.setdefault(row["shard"], []).append(row | {"captions": self._hashes(bucket, row, before)})
        rows, written = [], 0
        path = tables.text_index_path(self.folder, bucket, self.made_by)
        self._finite = not old or tables.all_finite(path)
        for shard, samples in sorted(wanted.items()):
            tar = tables.text_name(shard, self.made_by, samples)
            places = self._places(bucket, tar, samples, before)
            if places is None:
                places, written = self._write(bucket, tar, samples), written + 1
            rows += [one | place._asdict() | {"tar": tar} for one, place in zip(samples, places, strict=True)]
        self._remember(bucket, rows)
        rows = [row | {"lengths": [self._length(one) for one in row["captions"]]} for row in rows]
        table = pa.Table.from_pylist(rows, schema=tables.TEXT_INDEX)
        if rows != old or not old:
            tables.write_index(path, table, self._finite)
        return written

    def _index(self, bucket: str) -> pa.Table:
        return tables.made_table(tables.text_index_path(self.folder, bucket, self.made_by), tables.TEXT_INDEX)

    def _hashes(self, bucket: str, row: dict[str, Any], before: dict[str, dict[str, Any]]) -> list[str]:
        """Hashes of a sample's captions. A clip that the tables have no longer keeps those it was written with."""
        texts = self.captions.get(row["clip_id"])
        held = before[row["key"]]["captions"] if texts is None and row["key"] in before else []
        if held and all(self._known(one) is not None for one in held):
            return held
        return [caption_hash(text, self._image(bucket)) for text in texts or [EMPTY]]

    def _image(self, bucket: str) -> bool:
        """Whether the bucket's captions go through the template for images."""
        return self._own_images and Bucket.parse(bucket).frames == 1

    def _places(self, bucket: str, tar: str, samples: list[dict[str, Any]],
                before: dict[str, dict[str, Any]]) -> list[Place] | None:  # fmt: skip
        """Where the samples lie in a tar that is there already, by its index or else by reading it."""
        path = storage.join(self.folder, bucket, tar)
        if not storage.exists(path):
            return None
        rows = [before.get(one["key"]) for one in samples]
        if all(row is not None and row["tar"] == tar for row in rows):
            return [Place(*(row[name] for name in Place._fields)) for row in rows if row is not None]
        try:
            found = scan(path)
        except CacheError:
            found = None
        if found is None or not complete(found, [one["key"] for one in samples]):
            set_aside(path, self.say)
            return None
        self._finite = self._finite and found.finite
        return found.places

    def _write(self, bucket: str, tar: str, samples: list[dict[str, Any]]) -> list[Place]:
        with writing_shard(storage.join(self.folder, bucket, tar)) as writer:
            for start in range(0, len(samples), BATCH):
                batch = samples[start : start + BATCH]
                states = self._states(batch, self._image(bucket))
                for one in batch:
                    slots = [states[text] for text in dict.fromkeys(one["captions"])]
                    writer.add(one["key"], packed(slots, one["captions"]))
        self._finite = self._finite and writer.finite
        return writer.places

    def _states(self, samples: list[dict[str, Any]], image: bool) -> dict[str, TextStates]:
        """The states of the samples' captions by hash: read where they exist, else computed, each once."""
        texts = {
            caption_hash(text, image): text for one in samples for text in self.captions.get(one["clip_id"]) or [EMPTY]
        }
        wanted = list(dict.fromkeys(text for one in samples for text in one["captions"]))
        found = {one: states for one in wanted if (states := self._known(one)) is not None}
        missing = [one for one in wanted if one not in found]
        if missing:
            found |= dict(zip(missing, self._encode([texts[one] for one in missing], image), strict=True))
        self._recent.update((one, found[one]) for one in missing)
        self._lengths.update((one, len(states.states)) for one, states in found.items())
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        self.counts = TextCounts(self.counts.computed + len(missing), self.counts.copied + len(wanted) - len(missing))
        return found

    def _known(self, caption: str) -> TextStates | None:
        """States made a moment ago, or read from a tar if they are there and whole."""
        if caption in self._recent:
            self._recent.move_to_end(caption)
            return self._recent[caption]
        place = self._stored.get(caption)
        return None if place is None else _load(place)

    def _length(self, caption: str) -> int:
        """Tokens of its states. They are read for it only where an index of an older form did not say."""
        if caption not in self._lengths:
            known = self._known(caption)
            if known is None:
                raise CacheError(f"{self.folder}: states of a caption are gone while they were indexed; run this again")
            self._lengths[caption] = len(known.states)
        return self._lengths[caption]

    def _encode(self, texts: list[str], image: bool) -> list[TextStates]:
        if self._encoder is None:
            self._encoder = self._load()
        return [TextStates(*(part.to(self._dtype).cpu() for part in one)) for one in self._encoder.encode(texts, image)]

    def _remember(self, bucket: str, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            path = storage.join(self.folder, bucket, row["tar"])
            for slot, one in enumerate(dict.fromkeys(row["captions"])):
                self._stored[one] = Stored(path, row["offset"], row["bytes"], row["xxh3"], slot)
            self._lengths.update(zip(row["captions"], row.get("lengths") or ()))


def caption_hash(text: str, image: bool = False) -> str:
    """16 hex digits: equal captions are found by them. image: it goes through a template of its own."""
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"image" if image else b"").hexdigest()


def packed(slots: Sequence[TextStates], captions: Sequence[str]) -> bytes:
    """States of a sample's different captions, valid tokens only, one after another; which variant has which slot."""
    order = list(dict.fromkeys(captions))
    notes = {
        "lengths": ",".join(str(len(one.states)) for one in slots),
        "variants": ",".join(str(order.index(text)) for text in captions),
    }
    return pack(
        {"states": torch.cat([s.states for s in slots]), "pooled": torch.stack([s.pooled for s in slots])}, notes
    )


def unpacked(tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> tuple[TextStates, ...]:
    """The states of every slot. The inverse of packed()."""
    lengths = [int(length) for length in notes["lengths"].split(",")]
    return tuple(
        TextStates(*pair) for pair in zip(torch.split(tensors["states"], lengths), tensors["pooled"], strict=True)
    )


def _load(place: Stored) -> TextStates | None:
    """None when the bytes are gone or are not those that were written: then they are computed again."""
    try:
        data = bytearray(storage.read_range(place.path, place.offset, place.bytes))
    except OSError:
        return None
    return (
        unpacked(*unpack(memoryview(data), place.path))[place.slot]
        if xxhash.xxh3_64_intdigest(data) == place.xxh3
        else None
    )
