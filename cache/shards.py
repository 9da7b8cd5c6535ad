"""Shards: uncompressed tars of fixed metadata, so that equal samples give equal bytes. A shard is there whole or not.

A sample is `<key>.safetensors` and, beside latents, `<key>.json`. Samples that could not be made are named with their
reasons in a member called `__failed__`, which WebDataset skips.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import xxhash

from cache.fingerprint import CacheError
from cache.members import all_finite
from media import storage

FAILED = "__failed__"
BLOCK_BYTES = 512


class Place(NamedTuple):
    """Where a sample's tensors lie in its tar: offset and bytes of the safetensors member, and its 64-bit XXH3: as sure as a
    CRC for bytes that rot, and a tenth of its cost."""

    key: str
    offset: int
    bytes: int
    xxh3: int


class ShardWriter:
    """Adds samples to an open tar and remembers where they lie. finite: all their numbers are."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
        self.places: list[Place] = []
        self.failed: dict[str, str] = {}
        self.finite = True

    def add(self, key: str, tensors: bytes, facts: dict[str, Any] | None = None) -> None:
        self.places.append(Place(key, self._tar.offset + BLOCK_BYTES, len(tensors), xxhash.xxh3_64_intdigest(tensors)))
        self.finite = self.finite and all_finite(tensors)
        self._member(f"{key}.safetensors", tensors)
        if facts is not None:
            self._member(f"{key}.json", json.dumps(facts, sort_keys=True).encode())

    def fail(self, key: str, reason: str) -> None:
        self.failed[key] = reason

    def close(self) -> None:
        if self.failed:
            self._member(FAILED, json.dumps(self.failed, sort_keys=True).encode())
        self._file.write(bytes(2 * BLOCK_BYTES))  # a tar's end; tarfile would pad to 10,240 bytes

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self._tar.addfile(info, io.BytesIO(data))


@contextmanager
def writing_shard(path: str) -> Iterator[ShardWriter]:
    """A shard that appears at `path` whole when the block ends well, and not at all when it doesn't."""
    with storage.writing(path) as file:
        writer = ShardWriter(file)
        yield writer
        writer.close()


class Found(NamedTuple):
    places: list[Place]
    failed: dict[str, str]
    finite: bool


def scan(path: str) -> Found:
    """What a tar holds, read through once. Raises CacheError for one that is broken in a way a tar can show."""
    places: list[Place] = []
    failed: dict[str, str] = {}
    finite = True
    try:
        with storage.open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                data = _data(tar, member)
                if member.name == FAILED:
                    failed = json.loads(data)
                elif member.name.endswith(".safetensors"):
                    key = member.name.removesuffix(".safetensors")
                    places.append(Place(key, member.offset_data, member.size, xxhash.xxh3_64_intdigest(data)))
                    finite = finite and all_finite(data)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise CacheError(f"{path}: not a whole tar ({error})") from None
    return Found(places, failed, finite)


def complete(found: Found, keys: Iterable[str]) -> bool:
    """Whether every planned sample is in the shard, in order, or is named there as failed. A tar cut at a member's end
    reads without an error, so only the plan can tell."""
    return [place.key for place in found.places] == [key for key in keys if key not in found.failed]


def set_aside(path: str, say: Callable[[str], None]) -> None:
    """Rename a broken file so that it is out of the way and not lost."""
    number = 1
    while storage.exists(aside := f"{path}.broken-{number}"):
        number += 1
    storage.get(path, aside) if not storage.is_remote(path) else storage.write_bytes(aside, storage.read_bytes(path))
    storage.remove(path)
    say(f"{path} is broken: set aside as {storage.name(aside)}, it is made again")


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise CacheError(f"{member.name}: {len(data)} of {member.size} bytes")
    return data
