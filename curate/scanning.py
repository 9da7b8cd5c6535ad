"""New footage -> parts of the tables that are made per unit: what is lacking becomes jobs, on Ray or in this process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import commands
import compat
from curate import stages, unit, units
from curate.tables import SCHEMAS, Tables, forgotten, part_notes, typed, write_part
from curate.tally import Tally
from media import storage

if TYPE_CHECKING:
    from curate.on_local import Here
    from curate.on_ray import Cluster


def listed(tables: Tables, entries: list[storage.Entry], as_json: bool) -> list[units.File]:
    progress = commands.Progress("new files", len(entries), as_json)
    files = units.assign(tables.workspace, entries, tables.recipe.curate.unit_videos, progress.add)
    if progress.done:
        progress.close()
    return files


def scan(tables: Tables, files: list[units.File], local: bool, workers: int, as_json: bool,
         check: Callable[[], None]) -> Tally:  # fmt: skip
    """Make what is lacking, and say at the end what each stage cost. Raises Lost when a job was given up."""
    tally = Tally()
    by_unit = units.sources(files, forgotten(tables.workspace)["videos"])
    if stages.missing(tables, list(by_unit)):
        _run(tables, by_unit, local, workers, as_json, check, tally)
    _write_aliases(tables, files)
    return tally


def _run(tables: Tables, by_unit: dict[int, list[units.File]], local: bool, workers: int, as_json: bool,
         check: Callable[[], None], tally: Tally) -> None:  # fmt: skip
    started = time.monotonic()
    with _executor(tables, local, workers) as executor:
        room = executor.room()
        jobs = stages.jobs(tables, by_unit, room)
        gpu = executor.gpu_workers() if any(stages.uses_gpu(job.stage, tables.recipe) for job in jobs) else 0
        schedule = stages.Schedule(jobs, tables.recipe, gpu)
        videos = sum(len(job.files) for job in jobs)
        progress = commands.Progress("videos" if videos else "parts", videos or len(jobs), as_json)
        try:
            for done in executor.run(schedule, _beat(progress), check):
                must_lie_here(tables, done)
                tally.add(done)
                progress.add(0 if videos else 1, frames=tally.decoded, waiting=schedule.waiting)
        finally:  # an interrupted run says what it cost, too
            progress.close()
            tally.close(schedule, time.monotonic() - started, room.slots, executor.stored_bytes)
            _tell(tables, tally, as_json)
    if schedule.deaths:
        sweep(tables.workspace)  # what the dead left half written
    schedule.check()


def must_lie_here(tables: Tables, done: unit.Done) -> None:
    """Raises RuntimeError where a worker's parts are not: on another machine, which does not share the workspace."""
    for name in done.written[:1]:
        if not storage.exists(path := tables.part(name, done.unit)):
            raise RuntimeError(
                f"{path}: a worker wrote it and it is not here; put the workspace where all machines reach it (a shared "
                "disk, s3://)"
            )


def _tell(tables: Tables, tally: Tally, as_json: bool) -> None:
    """The table of stages, for people or for machines, and a file that keeps it."""
    if not tally.stages:
        return
    path = storage.join(tables.workspace, "report", "stages.json")
    storage.write_bytes(path, json.dumps(tally.facts(), indent=1).encode())
    if as_json:
        print(json.dumps({"what": "stages"} | tally.facts()), flush=True)
        return
    for line in tally.lines():
        print(line, file=sys.stderr)


def _executor(tables: Tables, local: bool, workers: int) -> Here | Cluster:
    if local:
        from curate.on_local import Here

        return Here(tables.recipe, workers)
    if not os.environ.get("RAY_ADDRESS"):
        compat.keep_ray_on_loopback()
    from curate.on_ray import Cluster

    return Cluster(tables.recipe)


def _beat(progress: commands.Progress) -> unit.Beat:
    def beat(what: str, count: int) -> None:
        if what == "video":
            progress.add(count)
        elif what == "alive":
            progress.add(0)
        else:
            print(f"\n{what}", file=sys.stderr)

    return beat


def _write_aliases(tables: Tables, files: list[units.File]) -> None:
    """Files whose bytes stand under another path are rows of `videos` too: nothing that was given goes unmentioned."""
    first = {file.video_id: file.path for file in reversed(files)}
    newest = {file.path: file for file in files}
    rows = [
        {"video_id": file.video_id, "path": file.path, "bytes": file.bytes, "tag": file.tag, "status": "alias"}
        | {"reason": f"same content as {first[file.video_id]}"}
        for file in newest.values()
        if file.alias
    ]
    path = storage.join(tables.folder("videos"), "aliases.parquet")
    if rows and part_notes(path).get("rows") != str(len(rows)):
        write_part(path, typed(rows, SCHEMAS["videos"]), {"rows": str(len(rows))})


def sweep(workspace: str) -> None:
    """Take away what a killed run left half written: scratch folders and temporary files, never a part."""
    if storage.is_remote(workspace):
        return
    for folder, inner, names in os.walk(workspace):
        for name in [one for one in inner if one.startswith(".unit-")]:
            storage.remove(os.path.join(folder, name))
            inner.remove(name)
        for name in names:
            if name.startswith(".") and name.endswith(".part") and "latents-" not in folder and "runs" not in folder:
                storage.remove(os.path.join(folder, name))
