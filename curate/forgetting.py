"""Takedown and tidying: tombstones that every reader honours at once, and `gc`, which rewrites what holds them.

Nothing is removed unasked: `gc` says what it would do and does it with --yes.
"""

from __future__ import annotations

import json
import sys
import time

import pyarrow.compute as pc
import pyarrow.parquet as pq

import commands
from curate.tables import ORDER, Tables, part_notes, read_part, write_part
from media import storage
from pipelines import Recipe, RecipeError


def forget(recipe: Recipe, what: str) -> int:
    """Write a tombstone for a clip id, a video id or a file of the footage. Raises RecipeError for anything else."""
    tables = Tables(recipe)
    kind, identity = resolve(tables, what)
    stone = {"kind": kind, "id": identity, "asked_for": what, "time": time.time()}
    path = storage.join(tables.workspace, "forgotten", f"{kind}-{identity}.json")
    with commands.hold(tables.workspace, "curate"):
        storage.write_bytes(path, json.dumps(stone).encode())
    print(
        f"forgotten: {kind.removesuffix('s')} {identity}; "
        "run `curate` to make the sets without it, `curate gc --yes` to rewrite the tables"
    )
    return 0


def resolve(tables: Tables, what: str) -> tuple[str, str]:
    """("clips" | "videos", id) of what a user names."""
    files = tables.files()
    path = storage.absolute(what)
    matches = files.filter(pc.or_(pc.equal(files["path"], path), pc.equal(files["video_id"], what)))
    if matches.num_rows:
        return "videos", matches["video_id"][-1].as_py()
    clips = tables.read("clips", ["clip_id"])
    if pc.any(pc.equal(clips["clip_id"], what)).as_py():
        return "clips", what
    raise RecipeError(f"{what}: neither a clip id, a video id, nor a file of the footage in {tables.workspace}")


def collect(recipe: Recipe, yes: bool) -> int:
    """Remove tables of settings that the recipe no longer names, and rewrite parts that hold forgotten rows."""
    tables = Tables(recipe)
    with commands.hold(tables.workspace, "curate"):
        stale = stale_folders(tables)
        holding = parts_with_forgotten(tables)
        for folder in stale:
            print(f"{'removed' if yes else 'would remove'} {folder}", file=sys.stderr)
            if yes:
                storage.remove(folder)
        for name, path in holding:
            print(f"{'rewrote' if yes else 'would rewrite'} {path}", file=sys.stderr)
            if yes:
                rewrite(tables, name, path)
    print(f"{len(stale)} folders, {len(holding)} parts{'' if yes else '; `curate gc --yes` does it'}")
    return 0


def stale_folders(tables: Tables) -> list[str]:
    """Folders of tables and sets whose fingerprint the recipe no longer has. Latents are the cache's own to collect."""
    current = {tables.folder(name) for name in tables.settings}
    names = {storage.name(folder).rsplit("-", 1)[0] for folder in current}
    found = []
    for folder in storage.folders(tables.workspace):
        known = folder.rsplit("-", 1)[0] in names or folder.startswith(("scores.", "embeddings"))
        path = storage.join(tables.workspace, folder)
        if known and path not in current:
            found.append(path)
    sets = storage.join(tables.workspace, "sets")
    live = {tables.ledger_path(name).rsplit("/", 1)[0] for name in tables.recipe.sets}
    return found + [path for name in storage.folders(sets) if (path := storage.join(sets, name)) not in live]


def parts_with_forgotten(tables: Tables) -> list[tuple[str, str]]:
    """(table, part) of every part of the current tables that holds a forgotten or superseded row."""
    found = []
    for name in tables.settings:
        for path in tables.parts(name):
            keys = [key for key in tables.schema(name).names if key in ORDER and key != "path"]
            part = read_part(path, keys)
            if tables.alive(part).num_rows != part.num_rows:
                found.append((name, path))
    return found


def rewrite(tables: Tables, name: str, path: str) -> None:
    """The part without its forgotten rows, row group by row group."""
    notes = {key: value for key, value in part_notes(path).items() if key != "ARROW:schema"}
    if name in ("concepts", "captions", "videos", "clips"):
        write_part(path, tables.alive(read_part(path)), notes)
        return
    with storage.open_read(path) as source, storage.writing(path) as out:
        file = pq.ParquetFile(source)
        with pq.ParquetWriter(out, tables.schema(name), compression="zstd") as writer:
            for group in range(file.num_row_groups):
                writer.write_table(tables.alive(file.read_row_group(group)))
