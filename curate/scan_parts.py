"""One file in child processes: in one pass, or, where it is long, in parts side by side that become one video again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.isolate import Isolated, Scanned, Task
from curate.segments import agreed, may_be_long, one_film, one_row
from curate.tables import SCHEMAS, typed
from media import storage
from pipelines import Curate


def scan(task: Task, child: Isolated, spool: Path, beat: Callable[[int], None]) -> Scanned:
    """As `Isolated.scan`; a long video in up to `child.threads` processes at a time. The rows are the same."""
    settings = child.settings
    if child.threads > 1 and may_be_long(task.bytes, settings) and not storage.is_remote(task.path):
        parts = child.parts(task.path, spool)
        if parts:
            scanned = _in_parts(task, parts, settings, child.threads, spool, beat)
            if scanned is not None:
                return scanned
    return child.scan(task, spool, beat)


def _in_parts(task: Task, parts: list[tuple[float, float]], settings: Curate, workers: int, spool: Path,
              beat: Callable[[int], None]) -> Scanned | None:  # fmt: skip
    """The video from its parts; None where they do not fit together."""

    def one(number: int) -> Scanned:
        folder = spool / f"part-{number}"
        folder.mkdir(exist_ok=True)
        with Isolated(settings, 1) as child:
            return child.scan(task._replace(part=parts[number]), folder, beat)

    with ThreadPoolExecutor(workers) as pool:
        scanned = list(pool.map(one, range(len(parts))))
    videos = [part.video for part in scanned]
    if not agreed(videos):
        return None
    if "clips" in task.want:
        _renumber(scanned, [video["piece"]["entered"] for video in videos])
    spools = tuple(part.spools[0] for part in scanned)
    return Scanned(one_row(videos), spools, sum(part.seconds for part in scanned))


def _renumber(scanned: list[Scanned], entered: list[int | None]) -> None:
    """Write the clips of all parts anew, all into the first part's spool."""
    rows: list[list[dict[str, Any]]] = []
    for part in scanned:
        rows.append([row for batch in part.batches("clips") for row in batch.to_pylist()])
        (part.spools[0] / "clips.arrow").unlink(missing_ok=True)
    path = scanned[0].spools[0] / "clips.arrow"
    with pa.ipc.new_stream(str(path), SCHEMAS["clips"]) as writer:
        writer.write_table(typed(one_film(rows, entered), SCHEMAS["clips"]))
