"""`python -m cache.gc`: what of the caches nobody needs any more. It lists; with `--remove` it removes.

Stale are caches of other settings than the recipe's, text tars that no index names, files that were set aside, and
samples of clips that were forgotten (`curate forget`) or were superseded: their shards are rewritten without them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import typer

import commands
from cache import index as tables
from cache.fingerprint import cache_folder, latent_settings
from cache.forgotten import forgotten_clips
from cache.shards import writing_shard
from cache.state import BucketState
from media import storage
from pipelines import Recipe, load


class Stale(NamedTuple):
    """A folder or file (path), or the samples of a shard (path, keys), and why nobody needs it."""

    path: str
    bytes: int
    why: str
    bucket: str | None = None
    keys: tuple[str, ...] = ()


def stale(recipe: Recipe) -> Iterator[Stale]:
    """Everything that --remove would remove."""
    workspace, ours = storage.absolute(recipe.workspace), cache_folder(recipe, latent_settings(recipe))
    for name in storage.folders(workspace):
        folder = storage.join(workspace, name)
        if name.startswith("latents-") and folder != ours:
            yield Stale(folder, _size(folder), "a cache of other settings than this recipe's")
    for bucket in tables.buckets(ours):
        yield from _stale_files(ours, bucket)
        yield from _stale_samples(ours, bucket, forgotten_clips(workspace))


def remove(recipe: Recipe, found: list[Stale]) -> None:
    """Remove what stale() found. Raises commands.Busy while an encoder works on the recipe's cache."""
    folder = cache_folder(recipe, latent_settings(recipe))
    with commands.hold(folder, "encode"):
        for one in found:
            if one.keys:
                _rewrite(folder, one)
            else:
                storage.remove(one.path)


def _stale_files(folder: str, bucket: str) -> Iterator[Stale]:
    entries = storage.find(storage.join(folder, bucket))
    named: set[str] = set()
    for entry in entries:
        if storage.name(entry.path).startswith("index.text-") and entry.path.endswith(".parquet"):
            named |= set(tables.read_table(entry.path, tables.TEXT_INDEX)["tar"].to_pylist())
    for entry in entries:
        name = storage.name(entry.path)
        if ".broken-" in name:
            yield Stale(entry.path, entry.bytes, "was set aside as broken")
        elif ".text-" in name and name.endswith(".tar") and name not in named:
            yield Stale(entry.path, entry.bytes, "text states of older captions")


def _stale_samples(folder: str, bucket: str, gone: set[str]) -> Iterator[Stale]:
    index = tables.read_table(tables.index_path(folder, bucket), tables.INDEX).to_pylist()
    live = {row["key"] for row in index}
    failed = set(tables.read_table(tables.failed_path(folder, bucket), tables.FAILED)["key"].to_pylist())
    by_shard: dict[int, list[str]] = {}
    for row in tables.read_table(tables.plan_path(folder, bucket), tables.PLAN).to_pylist():
        if row["clip_id"] in gone or (row["key"] not in live and row["key"] not in failed):
            by_shard.setdefault(row["shard"], []).append(row["key"])
    sizes = {row["key"]: row["bytes"] for row in index}
    for shard, keys in sorted(by_shard.items()):
        path = storage.join(folder, bucket, tables.shard_name(shard))
        if storage.exists(path):
            why = f"{len(keys)} samples of forgotten clips or superseded ones"
            yield Stale(path, sum(sizes.get(key, 0) for key in keys), why, bucket, tuple(keys))


def _rewrite(folder: str, one: Stale) -> None:
    """Make a shard again without these samples, its text tars too. A kill at any point leaves tables that don't know
    the shard, so that the next encoder takes up the new tar, or sets the old one aside and makes it again."""
    assert one.bucket is not None
    state = BucketState(folder, one.bucket, lambda line: None)
    shard = next(row["shard"] for row in state.plan.to_pylist() if row["key"] in one.keys)
    rows = [row for row in state.rows_of(shard) if row["key"] not in one.keys]
    data = {row["key"]: storage.read_range(one.path, row["offset"], row["bytes"]) for row in rows}
    facts = _facts(one.path)
    failed = state.drop_shard(shard, set(one.keys))
    if not rows and not failed:
        storage.remove(one.path)
    else:
        with writing_shard(one.path) as writer:
            for row in rows:
                writer.add(row["key"], data[row["key"]], facts[row["key"]])
            for key, reason in failed.items():
                writer.fail(key, reason)
        state.add(shard, writer.places, writer.failed, writer.finite)
    state.save()
    _rewrite_texts(folder, one)


def _rewrite_texts(folder: str, one: Stale) -> None:
    """Text tars of the shard without these samples, for each encoder; the old tars go."""
    assert one.bucket is not None
    for entry in storage.find(storage.join(folder, one.bucket), ".parquet"):
        encoder = storage.name(entry.path).removeprefix("index.text-").removesuffix(".parquet")
        if encoder == storage.name(entry.path).removesuffix(".parquet"):
            continue
        index = tables.read_table(entry.path, tables.TEXT_INDEX).to_pylist()
        touched = {row["tar"] for row in index if row["key"] in one.keys}
        kept = [row for row in index if row["key"] not in one.keys]
        for tar in touched:
            _rewrite_text_tar(folder, one.bucket, encoder, tar, [row for row in kept if row["tar"] == tar])
        finite = tables.all_finite(entry.path)
        tables.write_index(entry.path, pa.Table.from_pylist(kept, schema=tables.TEXT_INDEX), finite)
        for tar in touched:
            storage.remove(storage.join(folder, one.bucket, tar))


def _rewrite_text_tar(folder: str, bucket: str, encoder: str, tar: str, rows: list[dict[str, Any]]) -> None:
    """Write these rows of a tar to one of their own, and change the rows to say so."""
    if not rows:
        return
    path, name = storage.join(folder, bucket, tar), tables.text_name(rows[0]["shard"], encoder, rows)
    with writing_shard(storage.join(folder, bucket, name)) as writer:
        for row in rows:
            writer.add(row["key"], storage.read_range(path, row["offset"], row["bytes"]))
    for row, place in zip(rows, writer.places, strict=True):
        row.update(place._asdict(), tar=name)


def _facts(path: str) -> dict[str, dict[str, Any]]:
    """Key -> the JSON member of each sample of a tar."""
    with storage.open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        members = [member for member in tar if member.name.endswith(".json")]
        return {member.name.removesuffix(".json"): json.load(tar.extractfile(member)) for member in members}  # type: ignore[arg-type]


def _size(path: str) -> int:
    return sum(entry.bytes for entry in storage.find(path))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe: Annotated[str | None, typer.Option(help="Recipe in pipelines.yaml.")] = None,
    config: Annotated[str | None, typer.Option(help="Another pipelines.yaml.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Where the caches are.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any key of the recipe: key=value.")] = None,
    really: Annotated[bool, typer.Option("--remove", help="Remove what is listed.")] = False,
) -> None:
    """List, and on request remove, what of the caches nobody needs any more."""
    chosen = load(config, recipe, tuple(sets or ()), workspace=workspace)
    found = list(stale(chosen))
    for one in found:
        print(f"{one.bytes / 1e6:10.1f} MB  {one.path}: {one.why}")
    if not found:
        print("nothing is stale")
        return
    if really:
        remove(chosen, found)
    total = sum(one.bytes for one in found) / 1e6
    print(f"{total:.1f} MB {'removed' if really else 'can go: run again with --remove'}")


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
