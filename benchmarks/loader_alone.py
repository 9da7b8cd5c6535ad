"""What benchmarks.loader says of dailies alone: waiting, memory, two processes, the first batch of a million rows."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import loader_data as data
from benchmarks.loader_peers import ours
from cache import index as tables

MILLION, ROWS_A_SHARD, WAITED_STEPS, WAITED_S = 1_000_000, 1000, 60, 8


def waiting(folder: Path, kind: data.Kind) -> float:
    """Share of time that a consumer waits who works `step_s` on each sample, after the first batch."""
    batches = iter(ours(str(folder / "dailies"), kind)(0, workers=2))
    next(batches)
    waited, steps = (
        0.0,
        min(WAITED_STEPS, math.ceil(WAITED_S / (kind.step_s * kind.batch)), kind.count // kind.batch - 1),
    )
    started = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
        time.sleep(kind.step_s * kind.batch)
    return round(waited / (time.perf_counter() - started), 5)


def memory(folder: Path, kind: data.Kind) -> str:
    """Private memory after the first and the fourth epoch; maps are shared with the page cache and not in it."""
    held, epochs = [], ours(str(folder / "dailies"), kind)
    for seed in range(4):
        for _ in epochs(seed):
            pass
        lines = Path("/proc/self/status").read_text().splitlines()
        held.append(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon")))
    return f"{held[0]} MB, then {held[-1]} MB"


def two(folder: Path, kind: data.Kind) -> str:
    """Two processes of one epoch at a time: what they saw adds up to every sample once."""
    code = ("import sys\nfrom cache.read import LatentCache\n"
            "cache, size, rank = LatentCache(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])\n"
            "for one in cache.epoch('all', batch=size, rank=rank, world=2):\n"
            "    print(*one.clip_ids, sep='\\n')")  # fmt: skip
    arguments = [sys.executable, "-c", code, str(folder / "dailies"), str(kind.batch)]
    running = [subprocess.Popen([*arguments, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    seen = [process.communicate()[0].split() for process in running]
    whole = sorted([*seen[0], *seen[1]]) == [f"{i:016x}" for i in range(kind.count)]
    return f"{len(seen[0])} + {len(seen[1])} samples, {'disjoint and complete' if whole else 'WRONG'}"


def first_of_a_million(folder: Path) -> dict[str, float]:
    """Seconds from opening a cache to the first batch of given rows, and of an epoch, with tables of a million rows in
    a thousand shards, which are links to one of a few samples."""
    kind = data.KINDS[0]._replace(count=64)
    place, count = folder / "million", np.arange(MILLION)
    data.write_ours(place, kind)
    bucket, ids = kind.bucket.name, pa.array([f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in range(MILLION)]).sort()
    shards = count // ROWS_A_SHARD
    for path, schema in ((tables.index_path(str(place), bucket), tables.INDEX),
                         (tables.text_index_path(str(place), bucket, data.TEXT), tables.TEXT_INDEX)):  # fmt: skip
        table = tables.read_table(path, schema)
        texts = schema is tables.TEXT_INDEX
        name_of = (lambda at: f"text-{at:05d}.tar") if texts else tables.shard_name
        first = place / bucket / (table["tar"][0].as_py() if texts else name_of(0))
        for at in range(texts ^ 1, MILLION // ROWS_A_SHARD):
            os.link(first, place / bucket / name_of(at))
        table = table.take(pa.array(count % kind.count)).set_column(0, "clip_id", ids)
        table = table.set_column(schema.get_field_index("shard"), "shard", pa.array(shards, pa.int32()))
        if texts:
            names = pa.array([name_of(at) for at in range(MILLION // ROWS_A_SHARD)]).take(pa.array(shards))
            table = table.set_column(schema.get_field_index("tar"), "tar", names)
        tables.write_table(path, table)
    view = {"clip_id": ids, "start_tick": pa.array(np.zeros(MILLION, np.int64)),
            "bucket": pa.array([bucket]).take(pa.array(np.zeros(MILLION, np.int64)))}  # fmt: skip
    tables.write_table(
        tables.view_path(str(place), "all"), pa.table({**view, "reason": pa.nulls(MILLION, pa.string())})
    )
    script = ("import sys, time\nimport torch\nfrom cache.read import LatentCache\nstarted = time.perf_counter()\n"
              "cache = LatentCache(sys.argv[1])\n"
              "cache.gather(sys.argv[2], range(5, 800_000, 50_000)) if sys.argv[3] == 'gather' else "
              "next(iter(cache.epoch('all', batch=16, workers=0)))\nprint(time.perf_counter() - started)")  # fmt: skip
    command = [sys.executable, "-c", script, str(place), bucket]
    ways = ("gather", "epoch")
    return {way: round(min(float(subprocess.check_output([*command, way])) for _ in range(3)), 3) for way in ways}
