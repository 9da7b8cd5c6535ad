"""Batches from a cache against what people use instead, in one run on the same bytes.

    python -m benchmarks.loader [--quick] [--kinds image,video,large] [--json loader.json]

Each contestant reads the same latents and text states in its own format through its public API (webdataset, Python's
tarfile, litdata, mosaicml-streaming, one safetensors file a sample, rows of Parquet; a bare memory map is the least it
can cost) and gives batches of stacked latents and padded states, so every byte is touched; the sums of all bytes are
equal, or the run fails. litdata and mosaicml-streaming are not among the project's dependencies; where they are not
installed they are left out and named:

    python -m venv --system-site-packages peers && peers/bin/pip install litdata mosaicml-streaming
    peers/bin/python -m benchmarks.loader

samples/s: shuffled, with 1 and 2 workers (threads of dailies, processes of the others), sequential, and batches of
random samples, all from the page cache, the best of ROUNDS in turns. Everybody is opened anew for each epoch, so dailies
checks every checksum each time; an epoch is short, and with workers it includes starting their processes. kept: dailies
kept open over epochs, as a training keeps it;
dropped: after the files were dropped from the page cache; 50 ms: from a server that waits so long before every answer
(dailies over http and, as they do, over S3). us: CPU time a sample, shuffled, which other load disturbs less. Then: the
share of time a consumer waits that takes samples at the rate of an H200, the first batch from an index of a million
rows, private memory over epochs, and two processes that share an epoch. --quick: images only, one round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import loader_data as data
from benchmarks.loader_peers import LOADERS, at_random, opened, ours
from cache import index as tables
from compat import mend_torchvision

WRITERS = {
    "dailies": data.write_ours, "bare map": data.write_map, "tarfile": data.write_tars,
    "litdata": data.write_litdata, "mosaicml-streaming": data.write_streaming,
    "safetensors files": data.write_safetensors, "parquet rows": data.write_parquet,
}  # fmt: skip
FOLDERS = {"webdataset": "tarfile"}  # reads the tars of another one
OVER_S3 = ("dailies", "litdata", "mosaicml-streaming")
OVER_HTTP = ("dailies", "webdataset", "tarfile", "safetensors files")
ROUNDS, LATENCY_S, MILLION, ROWS_A_SHARD, WAITED_STEPS, FILES_OVER_HTTP = 3, 0.05, 1_000_000, 1000, 60, 200
SHOWN = ("shuffled", "us", "1 worker", "2 workers", "sequential", "random", "dropped", "http", "s3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="image,video,large")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    mend_torchvision()
    torch.set_num_threads(1)
    kinds = ["image"] if asked.quick else asked.kinds.split(",")
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="dailies-loader-") as name:
        folder = Path(name)
        for kind in (kind for kind in data.KINDS if kind.name in kinds):
            found[kind.name] = _kind(folder / kind.name, kind, 1 if asked.quick else ROUNDS)
        found["first batch of 1M rows, s"] = _first_of_a_million(folder)
        print(f"first batch from an index of {MILLION:,} rows: {found['first batch of 1M rows, s']} s")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _kind(folder: Path, kind: data.Kind, rounds: int) -> dict[str, Any]:
    folder.mkdir()
    there = [name for name in LOADERS if _written(folder, name, kind)]
    expected = _sums(data_batches(kind))
    for name in there:
        if (got := _sums(_open(name, folder, kind))) != expected:
            raise SystemExit(f"{name} gave other bytes: {got}, not {expected}")
    rates: dict[str, dict[str, float]] = {name: {} for name in there}
    _warm(folder, kind, rates, rounds)
    os.sync()  # what is not on the disk cannot be dropped
    for name in there:
        _drop(folder / FOLDERS.get(name, name))
        rates[name]["dropped"] = kind.count / _took(partial(_open, name, folder, kind))[0]
    _far(folder, kind, rates)
    megabytes = sum(path.stat().st_size for path in (folder / "bare map").iterdir()) / kind.count / 1e6
    _print(kind, rates, megabytes)
    more = {"waiting": _waiting(folder, kind), "memory": _memory(folder, kind), "two processes": _two(folder, kind)}
    print("  " + ", ".join(f"{name} {value}" for name, value in more.items()), flush=True)
    shutil.rmtree(folder)
    return {"samples/s": rates, "MB a sample": megabytes, **more}


def _warm(folder: Path, kind: data.Kind, rates: dict[str, dict[str, float]], rounds: int) -> None:
    """In turns, so that other load on the machine meets all alike; everybody opens anew for each epoch."""
    cache = opened(str(folder / "dailies"))
    numbers = [np.random.default_rng(at).permutation(kind.count).tolist() for at in range(rounds)]
    readers = {name: at_random(name, str(folder / FOLDERS.get(name, name)), kind) for name in rates}
    _took(partial(_open, "dailies", folder, kind, 99, cache=cache))
    for seed in range(rounds):
        for name, found in rates.items():
            ways: dict[str, Callable[[], Any]] = {
                "shuffled": partial(_open, name, folder, kind, seed),
                "sequential": partial(_open, name, folder, kind, seed, order="sequential"),
            }
            if name == "dailies":
                ways["kept"] = partial(_open, name, folder, kind, seed, cache=cache)
            if name != "bare map":
                ways |= {
                    f"{n} worker{'s' * (n > 1)}": partial(_open, name, folder, kind, seed, workers=n) for n in (1, 2)
                }
            if (read := readers[name]) is not None:
                ways["random"] = partial(_random, read, numbers[seed], kind)
            for way, opened_ in ways.items():
                took_s, cpu_s = _took(opened_)
                found[way] = max(found.get(way, 0.0), kind.count / took_s)
                if way in ("shuffled", "kept"):
                    of = "us" if way == "shuffled" else "kept us"
                    found[of] = min(found.get(of, math.inf), cpu_s / kind.count * 1e6)


def _random(read: Callable[[Any], Any], numbers: list[int], kind: data.Kind) -> Any:
    return (read(numbers[at : at + kind.batch]) for at in range(0, kind.count, kind.batch))


def _far(folder: Path, kind: data.Kind, rates: dict[str, dict[str, float]]) -> None:
    with _Server(folder) as port:
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ALLOW_HTTP": "true"}  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        os.environ |= {"AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url, **keys}
        for way, root, names in (("http", url, OVER_HTTP), ("s3", "s3://b", OVER_S3)):
            for name in (name for name in names if name in rates):
                few = kind if name != "safetensors files" else kind._replace(count=min(kind.count, FILES_OVER_HTTP))
                place = f"{root}/{FOLDERS.get(name, name)}".replace(" ", "%20")
                try:
                    rates[name][way] = few.count / _took(lambda n=name, p=place, k=few: LOADERS[n](p, k, 0))[0]
                except Exception as error:  # peers raise their own types; of dailies a failure ends the run
                    if name == "dailies":
                        raise
                    print(f"{name} is left out over {way}: {str(error).splitlines()[0]}", file=sys.stderr)


def _written(folder: Path, name: str, kind: data.Kind) -> bool:
    if name in FOLDERS:
        return True
    try:
        WRITERS[name](folder / name, kind)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def _open(name: str, folder: Path, kind: data.Kind, seed: int = 0, **more: Any) -> Any:
    return LOADERS[name](str(folder / FOLDERS.get(name, name)), kind, seed, **more)


def data_batches(kind: data.Kind) -> Any:
    """The samples as they were written, one a batch."""
    return ((latent[None], states[None]) for _, latent, states in data.samples(kind))


def _sums(batches: Any) -> tuple[int, int, int]:
    """Samples, and the sums of all numbers' bits of latents and texts: the same in any order, padding adds nothing."""
    count = latents = texts = 0
    for latent, text in batches:
        count += len(latent)
        latents += int(latent.view(torch.int16).sum(dtype=torch.int64))
        texts += int(text.view(torch.int16).sum(dtype=torch.int64))
    return count, latents, texts


def _took(opened: Callable[[], Any]) -> tuple[float, float]:
    """Seconds from opening to the last batch: by the clock, and of this process' CPU time."""
    started, busy = time.perf_counter(), time.process_time()
    for _ in opened():
        pass
    return time.perf_counter() - started, time.process_time() - busy


def _drop(folder: Path) -> None:
    """Drop the files from the page cache: no rights are needed to say that one's own files are not needed."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Server:
    """benchmarks.loader_server for a folder, in a process of its own."""

    def __init__(self, folder: Path):
        command = [sys.executable, "-m", "benchmarks.loader_server", str(folder), str(LATENCY_S)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()


def _waiting(folder: Path, kind: data.Kind) -> float:
    """Share of time that a consumer waits who works `step_s` on each sample, after the first batch."""
    batches = iter(ours(str(folder / "dailies"), kind, 0, workers=2))
    next(batches)
    waited, steps = 0.0, min(WAITED_STEPS, math.ceil(10 / (kind.step_s * kind.batch)), kind.count // kind.batch - 1)
    started = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
        time.sleep(kind.step_s * kind.batch)
    return round(waited / (time.perf_counter() - started), 5)


def _memory(folder: Path, kind: data.Kind) -> str:
    """Private memory after the first and the fourth epoch; maps are shared with the page cache and not in it."""
    held = []
    for seed in range(4):
        _took(partial(ours, str(folder / "dailies"), kind, seed))
        lines = Path("/proc/self/status").read_text().splitlines()
        held.append(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon")))
    return f"{held[0]} MB, then {held[-1]} MB"


def _two(folder: Path, kind: data.Kind) -> str:
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


def _first_of_a_million(folder: Path) -> dict[str, float]:
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


def _print(kind: data.Kind, rates: dict[str, dict[str, float]], megabytes: float) -> None:
    print(f"\n{kind.name}: {kind.count} samples of {megabytes:.3f} MB in batches of {kind.batch}, samples/s (us: CPU)")
    print(f"  {'':<20}" + "".join(f"{way:>11}" for way in SHOWN) + "   of the bare map, CPU")
    for name, one in rates.items():
        cells = "".join(f"{one[way]:11.1f}" if way in one else f"{'-':>11}" for way in SHOWN)
        print(f"  {name:<20}{cells}   {rates['bare map']['us'] / one['us']:.2f}", flush=True)
    ours = rates["dailies"]
    print(f"  an epoch with workers includes starting them, processes of all but dailies; a dailies that is kept open has "
          f"checked its checksums: {ours['kept']:.1f} samples/s, {ours['kept us']:.1f} us")  # fmt: skip


if __name__ == "__main__":
    main()
