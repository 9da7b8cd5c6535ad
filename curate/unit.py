"""One job of a unit of videos: its scan, or one table made from its proxies; the part of each table appears whole.

The same function runs in a thread (on_local) and in a Ray actor (on_ray): it takes and returns plain data.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.isolate import Cost, Isolated, Scanned, Task
from curate.scan_parts import scan_all
from curate.tables import Tables, read_part, typed
from media import storage
from pipelines import Curate, Recipe, check

SCAN = "scan"
BATCH_CLIPS = 64  # clips whose proxies are held at once


class Job(NamedTuple):
    """stage: SCAN, or the table that is made. recipe: resolved, as JSON data; files: File tuples, aliases left out; tables: whose
    parts are made; threads: processes that files, or parts of a long one, are scanned in, or threads of a decoder."""

    stage: str
    unit: int
    recipe: dict[str, Any]
    files: list[tuple[Any, ...]]
    tables: list[str]
    threads: int

    @property
    def key(self) -> tuple[str, int]:
        return self.stage, self.unit


class Done(NamedTuple):
    """What a job gave and cost. clips: rows measured; video_s: seconds of footage in the unit; frames: of the source; decoded:
    those and what was decoded twice; kernel_s, cpu_s: wall and CPU seconds inside decoding and measuring, of all its
    processes; seconds: wall, all told."""

    stage: str
    unit: int
    videos: int
    clips: int
    video_s: float
    frames: int
    decoded: int
    kernel_s: float
    cpu_s: float
    seconds: float
    written: list[str]


Beat = Callable[[str, int], None]  # (what happened: "video" | "alive" | a note to show, how many)


class Decoder:
    """The child process that a worker decodes in, kept from one job to the next. Use as a context."""

    def __init__(self) -> None:
        self._child: Isolated | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, settings: Curate, threads: int) -> Isolated:
        if self._child is None or (self._child.settings, self._child.threads) != (settings, threads):
            self.close()
            self._child = Isolated(settings, threads)
        return self._child

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


def run(job: Job, beat: Beat, decoder: Decoder) -> Done:
    """Make the parts of one job. Raises OSError when the workspace cannot be written."""
    tables, started = Tables(check(job.recipe)), time.monotonic()
    done = _scan(tables, job, beat, decoder) if job.stage == SCAN else _derive(tables, job, beat)
    return done._replace(seconds=time.monotonic() - started)


# ---------------------------------------------------------------------------------------------------------------- scan


class _Parts:
    """The parts of a unit that are being written: local files that move into place together with `commit`."""

    def __init__(self, tables: Tables, unit: int, names: set[str], folder: Path):
        self.tables, self.unit, self.folder = tables, unit, folder
        self.writers = {name: self._open(name) for name in names}

    def _open(self, name: str) -> pq.ParquetWriter:
        return pq.ParquetWriter(str(self.folder / f"{name}.parquet"), self.tables.schema(name), compression="zstd")

    def add(self, scanned: Scanned) -> int:
        """How many clips were measured."""
        measured = 0
        for name in self.writers.keys() - {"videos"}:
            count = 0
            for batch in scanned.batches(name):
                self.writers[name].write_batch(batch)
                count += pc.sum(pc.equal(batch["status"], "ok")).as_py() if name == "clips" else len(batch)
            measured = max(measured, count)
        return measured

    def commit(self) -> None:
        """`videos` comes last: a unit with that part has all the others."""
        for name in sorted(self.writers, key=lambda one: one == "videos"):
            self.writers[name].close()
            self.tables.write_settings(name)
            storage.put(str(self.folder / f"{name}.parquet"), self.tables.part(name, self.unit))


def _scan(tables: Tables, job: Job, beat: Beat, decoder: Decoder) -> Done:
    rows: list[dict[str, Any]] = []
    cost, clips = Cost(), 0
    want = sorted(set(job.tables) - {"videos"})
    child = decoder.child(tables.recipe.curate, job.threads)
    with tempfile.TemporaryDirectory(dir=_scratch(tables), prefix=".unit-") as scratch:
        spool = Path(scratch, "spool")
        spool.mkdir()
        parts = _Parts(tables, job.unit, set(job.tables), Path(scratch))
        tasks = [Task(video_id, path, size, tag, want) for path, size, tag, video_id, *_ in job.files]
        for task, scanned in zip(tasks, scan_all(tasks, child, spool, lambda _: beat("alive", 1)), strict=True):
            clips += parts.add(scanned)
            rows.append({name: getattr(task, name) for name in ("video_id", "path", "bytes", "tag")} | scanned.video)
            cost = cost.plus(scanned.cost)
            beat("video", 1)
        if "videos" in job.tables:
            parts.writers["videos"].write_table(typed(rows, tables.schema("videos")))
        parts.commit()
    frames, video_s = (sum(row.get(name) or 0 for row in rows) for name in ("frames_decoded", "duration_s"))
    return Done(SCAN, job.unit, len(rows), clips, float(video_s), frames, cost.decoded, cost.kernel_s, cost.cpu_s, 0.0,
                job.tables)  # fmt: skip


def _scratch(tables: Tables) -> str | None:
    """Temporary files lie in a local workspace itself (a rename then moves them), else where the system keeps them."""
    if storage.is_remote(tables.workspace):
        return None
    os.makedirs(tables.workspace, exist_ok=True)
    return tables.workspace


# -------------------------------------------------------------------------------------------------------------- derive


def _derive(tables: Tables, job: Job, beat: Beat) -> Done:
    """A part made from other parts of the same unit, a batch of rows at a time: nothing is decoded."""
    name, source = job.stage, tables.part("proxies", job.unit)
    spans, clips, kernel_s, cpu_s = _spans(tables, job.unit), 0, 0.0, 0.0
    with (
        storage.writing(tables.part(name, job.unit)) as out,
        pq.ParquetWriter(out, tables.schema(name), compression="zstd") as writer,
        storage.open_read(source) as file,
    ):
        video_of = dict(zip(spans["clip_id"].to_pylist(), spans["video_id"].to_pylist(), strict=True))
        for rows in by_video(pq.ParquetFile(file).iter_batches(BATCH_CLIPS), video_of):
            wall, cpu = time.monotonic(), time.thread_time()
            made = _measured(tables.recipe, name, rows)
            kernel_s, cpu_s, clips = (
                kernel_s + time.monotonic() - wall,
                cpu_s + time.thread_time() - cpu,
                clips + len(rows),
            )
            writer.write_table(made)
            beat("alive", 1)
    tables.write_settings(name)
    kept = spans.filter(pc.equal(spans["status"], "ok"))
    video_s = pc.sum(pc.subtract(kept["end_s"], kept["start_s"])).as_py() or 0.0
    return Done(name, job.unit, 0, clips, video_s, 0, 0, kernel_s, cpu_s, 0.0, [name])


def _spans(tables: Tables, unit: int) -> pa.Table:
    return read_part(tables.part("clips", unit), ["clip_id", "video_id", "status", "start_s", "end_s"])


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
