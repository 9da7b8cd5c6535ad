"""Copies, concepts and ledgers of a whole workspace: reads tables, calls the pure functions, keeps what is frozen."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import concepts as clusters
from curate import copies, keeper, select
from curate.tables import Tables, read_part, sort, write_part
from media import storage


def concepts(tables: Tables, refit: bool) -> pa.Table:
    """The table `concepts` of every clip. Centroids are fitted once and then frozen; refit fits them anew."""
    settings = tables.recipe.curate
    embeddings = tables.read("embeddings")
    found = copies.find_copies(
        tables.read("clips", ["clip_id", "media", "status", "width", "height", "shot_start_s", "shot_end_s"]),
        tables.read("hashes"),
        embeddings,
        settings.embed,
        _keeper_scores(tables),
        lambda: _proxies(tables),
    )
    centroids = None if refit else read_centroids(tables)
    if centroids is None:
        centroids = clusters.fit(embeddings, settings.concepts, found)
        _write_centroids(tables, centroids)
    if not len(centroids):
        return tables.schema("concepts").empty_table()
    return clusters.table(embeddings, centroids, found)


def _proxies(tables: Tables) -> Iterator[pa.Table]:
    yield from tables.iter_parts("proxies")


def _keeper_scores(tables: Tables) -> pa.Table:
    """clip_id, pixels inside the crop, bits per second, and those of `keeper.SCORES` that are measured."""
    known = scored(tables, None)
    pixels = pc.multiply(known["width"], known["height"])
    names = [name for name in keeper.SCORES if name in known.column_names]
    scores = known.select(["clip_id", *names]).append_column("pixels", pixels)
    videos = tables.read("videos", ["video_id", "codec", "bytes", "duration_s", "status"]).to_pylist()
    spent = {row["video_id"]: keeper.spent(row["codec"], row["bytes"], row["duration_s"])
             for row in videos if row["status"] != "alias"}  # fmt: skip
    of_clips = [spent.get(video_id) for video_id in known["video_id"].to_pylist()]
    return scores.append_column("spent", pa.array(of_clips, pa.float64()))


def read_centroids(tables: Tables) -> np.ndarray | None:
    """float32 (K, D), or None before the first fit."""
    path = storage.join(tables.folder("concepts"), "centroids.npy")
    return np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) if storage.exists(path) else None


def _write_centroids(tables: Tables, centroids: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, centroids, allow_pickle=False)
    storage.write_bytes(storage.join(tables.folder("concepts"), "centroids.npy"), buffer.getvalue())


def facts(tables: Tables) -> pa.Table:
    """One row per span with all that a set can judge by."""
    return scored(tables, tables.read("concepts"))


def scored(tables: Tables, concept_table: pa.Table | None) -> pa.Table:
    scores = {name: tables.read(f"scores.{name}") for name in tables.signals}
    return select.facts(tables.read("clips"), scores, concept_table)


def ledgers(tables: Tables, table: pa.Table) -> dict[str, pa.Table]:
    """Every set's ledger. The split of clips that an earlier run knew stays: `splits.parquet` remembers it."""
    path = storage.join(tables.workspace, "splits.parquet")
    previous = read_part(path) if storage.exists(path) else None
    made = select.ledgers(tables.recipe, table, picks(tables), previous)
    if made:
        _remember(path, previous, next(iter(made.values())).select(["clip_id", "split"]))
    return made


def picks(tables: Tables) -> dict[str, set[str]]:
    """The hand-picked clip ids of each set that names a list; none where the list is not there yet."""
    lists = {name: chosen.clips for name, chosen in tables.recipe.sets.items() if chosen.clips}
    return {
        name: select.read_picks(storage.read_bytes(path).decode()) if storage.exists(path) else set()
        for name, path in lists.items()
    }


def _remember(path: str, previous: pa.Table | None, current: pa.Table) -> None:
    if previous is not None:
        gone = previous.filter(pc.invert(pc.is_in(previous["clip_id"], current["clip_id"].combine_chunks())))
        current = pa.concat_tables([current, gone])
    current = sort(current)
    if previous is None or not current.equals(previous):
        write_part(path, current)
