"""One unit of videos: scanned, measured from proxies, embedded; the part of each table appears whole.

The same function runs in a thread (on_local) and in a Ray task (on_ray): it takes and returns plain data.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curate.isolate import Isolated, Scanned, Task
from curate.scan_parts import scan
from curate.tables import Tables, read_part, typed
from media import storage
from pipelines import Recipe, check

FROM_PASS = (
    "clips",
    "proxies",
    "hashes",
)  # tables that only a decode can fill; scores of pass signals come beside them


BATCH_CLIPS = 64  # clips whose proxies are held at once


class Job(NamedTuple):
    """A unit and the tables it still lacks. recipe: resolved, as JSON data; files: File tuples, aliases left out; threads:
    of the decoder, or processes that a long video is scanned in."""

    unit: int
    recipe: dict[str, Any]
    files: list[tuple[Any, ...]]
    missing: list[str]
    threads: int


class Done(NamedTuple):
    """What a unit cost and gave: videos scanned, source frames decoded, seconds of work."""

    unit: int
    videos: int
    frames: int
    seconds: float
    written: list[str]


Beat = Callable[[str, int], None]  # (what happened: "video" | "alive" | a note to show, how many)


def run(job: Job, beat: Beat) -> Done:
    """Fill the missing parts of one unit. Raises OSError when the workspace cannot be written."""
    tables = Tables(check(job.recipe))
    started = time.monotonic()
    scanned = {name for name in job.missing if _needs_pass(name, tables)}
    frames = _scan(tables, job, scanned, beat) if scanned else 0
    derived = [name for name in job.missing if name not in scanned]
    for name in derived:
        _derive(tables, name, job)
    videos = len(job.files) if scanned else 0
    return Done(job.unit, videos, frames, time.monotonic() - started, job.missing)


def tables_per_unit(tables: Tables) -> list[str]:
    """Every table that has one part per unit, in the order in which they are made."""
    return ["clips", "proxies", "hashes", *(f"scores.{name}" for name in tables.signals), "videos", "embeddings"]


def missing(tables: Tables, units: list[int]) -> dict[int, list[str]]:
    """unit -> tables whose part is not there; units that lack nothing are left out."""
    lacking: dict[int, list[str]] = {}
    for name in tables_per_unit(tables):
        there = {storage.name(path) for path in tables.parts(name)}
        for unit in units:
            if storage.name(tables.part(name, unit)) not in there:
                lacking.setdefault(unit, []).append(name)
    return lacking


def _needs_pass(name: str, tables: Tables) -> bool:
    if name.startswith("scores."):
        from curate.signals import SIGNALS

        return SIGNALS[name.removeprefix("scores.")].source == "pass"
    return name in FROM_PASS or name == "videos"


# ---------------------------------------------------------------------------------------------------------------- scan


class _Parts:
    """The parts of a unit that are being written: local files that move into place together with `commit`."""

    def __init__(self, tables: Tables, unit: int, names: set[str], folder: Path):
        self.tables, self.unit, self.folder = tables, unit, folder
        self.writers = {name: self._open(name) for name in names}

    def _open(self, name: str) -> pq.ParquetWriter:
        return pq.ParquetWriter(str(self.folder / f"{name}.parquet"), self.tables.schema(name), compression="zstd")

    def add(self, scanned: Scanned) -> None:
        for name in self.writers.keys() - {"videos"}:
            for batch in scanned.batches(name):
                self.writers[name].write_batch(batch)

    def commit(self) -> None:
        """`videos` comes last: a unit with that part has all the others."""
        for name in sorted(self.writers, key=lambda one: one == "videos"):
            self.writers[name].close()
            self.tables.write_settings(name)
            storage.put(str(self.folder / f"{name}.parquet"), self.tables.part(name, self.unit))


def _scan(tables: Tables, job: Job, names: set[str], beat: Beat) -> int:
    rows, frames = [], 0
    want = sorted(names - {"videos"})
    with (
        tempfile.TemporaryDirectory(dir=_scratch(tables), prefix=".unit-") as scratch,
        Isolated(tables.recipe.curate, job.threads) as child,
    ):
        spool = Path(scratch, "spool")
        spool.mkdir()
        parts = _Parts(tables, job.unit, names, Path(scratch))
        for file in job.files:
            path, size, tag, video_id = file[:4]
            task = Task(video_id, path, size, tag, want)
            scanned = scan(task, child, spool, lambda _frames: beat("alive", 1))
            parts.add(scanned)
            row = {"video_id": video_id, "path": path, "bytes": size, "tag": tag} | scanned.video
            rows.append(row)
            frames += row.get("frames_decoded") or 0
            beat("video", 1)
        if "videos" in names:
            parts.writers["videos"].write_table(typed(rows, tables.schema("videos")))
        parts.commit()
    return frames


def _scratch(tables: Tables) -> str | None:
    """Temporary files lie in a local workspace itself (a rename then moves them), else where the system keeps them."""
    if storage.is_remote(tables.workspace):
        return None
    os.makedirs(tables.workspace, exist_ok=True)
    return tables.workspace


# -------------------------------------------------------------------------------------------------------------- derive


def _derive(tables: Tables, name: str, job: Job) -> None:
    """A part made from other parts of the same unit, a batch of rows at a time: nothing is decoded."""
    source = tables.part("proxies", job.unit)
    with (
        storage.writing(tables.part(name, job.unit)) as out,
        pq.ParquetWriter(out, tables.schema(name), compression="zstd") as writer,
        storage.open_read(source) as file,
    ):
        for rows in by_video(pq.ParquetFile(file).iter_batches(BATCH_CLIPS), _video_of(tables, job.unit)):
            writer.write_table(_measured(tables.recipe, name, rows))
    tables.write_settings(name)


def _video_of(tables: Tables, unit: int) -> dict[str, str]:
    clips = read_part(tables.part("clips", unit), ["clip_id", "video_id"])
    return dict(zip(clips["clip_id"].to_pylist(), clips["video_id"].to_pylist(), strict=True))


def by_video(batches: Iterable[pa.RecordBatch], video_of: dict[str, str]) -> Iterator[pa.Table]:
    """Rows of `proxies`, a video's side by side -> tables of whole videos with a `video_id`, of BATCH_CLIPS rows or little more.

    A video of more clips than that comes in pieces: what holds for its clips together is judged by each piece alone.
    """
    held: list[pa.Table] = []
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        videos = [video_of[clip_id] for clip_id in rows["clip_id"].to_pylist()]
        rows = rows.append_column("video_id", pa.array(videos, pa.string()))
        table = pa.concat_tables([*held, rows])
        last = table["video_id"].to_pylist()
        cut = last.index(last[-1])  # the last video may go on in the next batch
        cut = cut if cut or len(table) < 2 * BATCH_CLIPS else len(table)
        if cut:
            yield table.slice(0, cut)
        held = [table.slice(cut)] if cut < len(table) else []
    yield from held


def _measured(recipe: Recipe, name: str, proxies: pa.Table) -> pa.Table:
    if name == "embeddings":
        from curate.embed import embed

        return embed(proxies, recipe.curate.embed)
    from curate.signals import SIGNALS

    signal = name.removeprefix("scores.")
    measure = SIGNALS[signal].from_proxies
    if measure is None:
        raise ValueError(f"signal '{signal}' works in the decode pass, not on proxies")
    return measure(proxies, getattr(recipe.curate.signals, signal))
