"""Footage -> videos with a content id -> units of work, assigned for good when first seen.

`files/` remembers (path, bytes, tag) -> video id, so that a run without news hashes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import xxhash

from curate.tables import SCHEMAS, part_name, read_part, typed, write_part
from media import storage
from pipelines import RecipeError

WHOLE_BYTES = 16_000_000  # a file below this is hashed whole, a larger one by its head, middle and tail
SLICE_BYTES = 4_000_000


class File(NamedTuple):
    """One path of footage. alias: the same bytes stand under another path that came first."""

    path: str
    bytes: int
    tag: str
    video_id: str
    unit: int
    alias: bool


def footage(patterns: tuple[str, ...]) -> list[storage.Entry]:
    """Every regular file that the recipe's footage names, by path. Raises RecipeError for a pattern that names none."""
    found: dict[str, storage.Entry] = {}
    for pattern in patterns:
        paths = storage.expand(storage.absolute(pattern))
        entries = [entry for path in paths for entry in storage.find(path)]
        if not entries:
            raise RecipeError(f"footage: {pattern}: no such file or folder, or it is empty; name yours with --footage")
        found |= {entry.path: entry for entry in entries}
    return [found[path] for path in sorted(found)]


def video_id(entry: storage.Entry) -> str:
    """16 hex digits of content: size and xxh3 of head, middle and tail (of everything below 16 MB)."""
    digest = xxhash.xxh3_64(str(entry.bytes).encode())
    with storage.open_read(entry.path) as file:
        if entry.bytes < WHOLE_BYTES:
            digest.update(file.read())
            return digest.hexdigest()
        for start in (0, entry.bytes // 2, entry.bytes - SLICE_BYTES):
            file.seek(start)
            digest.update(file.read(SLICE_BYTES))
    return digest.hexdigest()


def assign(workspace: str, entries: list[storage.Entry], unit_videos: int, hashed: Callable[[], None]) -> list[File]:
    """Every file ever seen, new ones added: hashed (with a call of hashed() each), put into new units, written down."""
    known = read_files(workspace)
    seen = {(file.path, file.bytes, file.tag) for file in known}
    new = [entry for entry in entries if (entry.path, entry.bytes, entry.tag) not in seen]
    if new:
        added = list(_placed(known, new, unit_videos, hashed))
        _write(workspace, added)
        known += added
    return known


def read_files(workspace: str) -> list[File]:
    rows: list[File] = []
    for entry in storage.find(storage.join(workspace, "files"), ".parquet"):
        rows += [File(**row) for row in read_part(entry.path).to_pylist()]
    return rows


def _placed(known: list[File], new: list[storage.Entry], unit_videos: int, hashed: Callable[[], None]):
    unit_of = {file.video_id: file.unit for file in known}
    first_path = {file.video_id: file.path for file in reversed(known)}
    unit, room = max(unit_of.values(), default=-1) + 1, unit_videos
    for entry in new:
        identity = video_id(entry)
        hashed()
        if identity not in unit_of:
            unit, room = (unit, room - 1) if room else (unit + 1, unit_videos - 1)
            unit_of[identity] = unit
        alias = first_path.setdefault(identity, entry.path) != entry.path  # else it is new, or was only touched
        yield File(entry.path, entry.bytes, entry.tag, identity, unit_of[identity], alias)


def _write(workspace: str, added: list[File]) -> None:
    folder = storage.join(workspace, "files")
    number = len(storage.find(folder, ".parquet"))
    rows = [file._asdict() for file in added]
    write_part(storage.join(folder, part_name(number)), typed(rows, SCHEMAS["files"]))


def sources(files: list[File], gone: set[str]) -> dict[int, list[File]]:
    """unit -> its videos (aliases left out), each under the newest path that still holds it; gone ones are left out."""
    newest_id = {file.path: file.video_id for file in files}
    chosen: dict[str, File] = {}
    for file in files:
        if newest_id[file.path] == file.video_id and file.video_id not in gone:
            chosen.setdefault(file.video_id, file)
    units: dict[int, list[File]] = {}
    for file in chosen.values():
        units.setdefault(file.unit, []).append(file)
    return dict(sorted(units.items()))
