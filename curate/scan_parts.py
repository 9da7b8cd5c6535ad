"""Files in child processes: a long one in parts side by side that become one video again, others each in one pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import reduce
from itertools import groupby
from pathlib import Path
from queue import Queue

from curate.isolate import Cost, Isolated, Scanned, Spool, Task
from curate.segments import agreed, may_be_long, one_film, one_row
from media import storage
from pipelines import Curate


def scan_all(tasks: list[Task], child: Isolated, folder: Path, beat: Callable[[int], None]) -> Iterator[Scanned]:
    """Every file, in order, in up to `child.threads` processes at a time: a long video in parts, then the others side by side.

    What is handed out lies in `folder` only until the next one is asked for.
    """
    workers = min(child.threads, len(tasks))
    spools = [folder / f"file-{k}" for k in range(len(tasks))]
    for spool in spools:
        spool.mkdir()
    if workers < 2:
        made = (scan(task, child, spool, beat) for task, spool in zip(tasks, spools, strict=True))
    else:
        made = _side_by_side(tasks, child, workers, spools, beat)
    for scanned, spool in zip(made, spools, strict=True):
        yield scanned
        shutil.rmtree(spool)


def _side_by_side(tasks: list[Task], child: Isolated, workers: int, spools: list[Path],
                  beat: Callable[[int], None]) -> Iterator[Scanned]:  # fmt: skip
    long = {k: parts for k, task in enumerate(tasks) if (parts := _parts(task, child, spools[k]))}
    first = {k: _long(tasks[k], parts, child, spools[k], beat) for k, parts in long.items()}
    with ExitStack() as stack:
        idle: Queue[Isolated] = Queue()
        for _ in range(workers):
            idle.put(stack.enter_context(Isolated(child.settings, max(1, child.threads // workers))))

        def one(k: int) -> Scanned:
            mine = idle.get()
            try:
                return mine.scan(tasks[k], spools[k], beat)
            finally:
                idle.put(mine)

        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        others = {k: pool.submit(one, k) for k in range(len(tasks)) if k not in long}
        for k in range(len(tasks)):
            yield first[k] if k in first else others[k].result()


def scan(task: Task, child: Isolated, spool: Path, beat: Callable[[int], None]) -> Scanned:
    """As `Isolated.scan`; a long video in up to `child.threads` processes at a time. The rows are the same."""
    parts = _parts(task, child, spool)
    return _long(task, parts, child, spool, beat) if parts else child.scan(task, spool, beat)


def _parts(task: Task, child: Isolated, spool: Path) -> list[tuple[float, float]]:
    if child.threads < 2 or not may_be_long(task.bytes, child.settings) or storage.is_remote(task.path):
        return []
    return child.parts(task.path, spool)


def _long(task: Task, parts: list[tuple[float, float]], child: Isolated, spool: Path,
          beat: Callable[[int], None]) -> Scanned:  # fmt: skip
    scanned = _in_parts(task, parts, child.settings, child.threads, spool, beat)
    if scanned.video:
        return scanned
    again = child.scan(task, spool, beat)
    return again._replace(cost=again.cost.plus(scanned.cost))


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
