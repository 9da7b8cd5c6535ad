"""One file in child processes: in one pass, or, where it is long, in parts side by side that become one video again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import groupby
from pathlib import Path

from curate.isolate import Cost, Isolated, Scanned, Spool, Task
from curate.segments import agreed, may_be_long, one_film, one_row
from media import storage
from pipelines import Curate


def scan(task: Task, child: Isolated, spool: Path, beat: Callable[[int], None]) -> Scanned:
    """As `Isolated.scan`; a long video in up to `child.threads` processes at a time. The rows are the same."""
    settings = child.settings
    if child.threads > 1 and may_be_long(task.bytes, settings) and not storage.is_remote(task.path):
        parts = child.parts(task.path, spool)
        if parts:
            scanned = _in_parts(task, parts, settings, child.threads, spool, beat)
            if scanned.video:
                return scanned
            again = child.scan(task, spool, beat)
            return again._replace(cost=again.cost.plus(scanned.cost))
    return child.scan(task, spool, beat)


def _in_parts(task: Task, parts: list[tuple[float, float]], settings: Curate, workers: int, spool: Path,
              beat: Callable[[int], None]) -> Scanned:  # fmt: skip
    """The video from its parts; with an empty row where they do not fit together."""

    def one(number: int) -> Scanned:
        folder = spool / f"part-{number}"
        folder.mkdir(exist_ok=True)
        with Isolated(settings, 1) as child:
            return child.scan(task._replace(part=parts[number]), folder, beat)

    with ThreadPoolExecutor(workers) as pool:
        scanned = list(pool.map(one, range(len(parts))))
    videos = [part.video for part in scanned]
    spent = reduce(Cost.plus, (part.cost for part in scanned))
    if not agreed(videos):
        return Scanned({}, spool, spent)
    _join(scanned, [video["piece"]["entered"] for video in videos], task.want, spool)
    return Scanned(one_row(videos), spool, spent)


def _join(scanned: list[Scanned], entered: list[int | None], want: list[str], folder: Path) -> None:
    """Write the rows of all parts into one spool, in the batches in which one pass hands them over: clips by the shot, other
    rows one by one."""
    for stale in folder.glob("*.arrow"):
        stale.unlink()
    spool = Spool(folder)
    for table in want:
        if table == "clips":
            parts = [[row for batch in part.batches(table) for row in batch.to_pylist()] for part in scanned]
            for _, shot in groupby(one_film(parts, entered), key=lambda row: row["shot_start_tick"]):
                spool.add(table, list(shot))
            continue
        for part in scanned:
            for batch in part.batches(table):
                for row in batch.to_pylist():
                    spool.add(table, [row])
    spool.close()
