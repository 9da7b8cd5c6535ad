"""Shuffled batches from a cache against what people use instead, in one run on the same bytes.

    python -m benchmarks.loader [--kinds image,video,large] [--json loader.json]

Each contestant reads the same latents and text states in its own format (webdataset, Python's tarfile, and, where they
are installed, mosaicml-streaming and litdata; a bare memory map is the least it can cost) and gives shuffled batches of
stacked latents and padded states, so every byte is touched; the sums of all bytes are equal, or the run fails. warm:
the best of three epochs; first: dailies' first epoch, which checks every checksum; cold: after the files were dropped
from the page cache; http: a local server that answers after 50 ms. Then: the share of time a consumer waits that takes
samples at the rate of an H200, the first batch from an index of a million rows, private memory over epochs, and two
processes that share an epoch.
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
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import loader_data as data
from benchmarks.loader_peers import LOADERS, ours
from cache import index as tables
from compat import mend_torchvision

WRITERS = {
    "dailies": data.write_ours,
    "bare map": data.write_map,
    "tarfile": data.write_tars,
    "mosaicml-streaming": data.write_streaming,
    "litdata": data.write_litdata,
}
FOLDERS = {"webdataset": "tarfile"}  # reads the tars of another one
ROUNDS, LATENCY_S, MILLION, WAITED_STEPS = 3, 0.05, 1_000_000, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="image,video,large")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    mend_torchvision()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="dailies-loader-") as name:
        folder = Path(name)
        for kind in (kind for kind in data.KINDS if kind.name in asked.kinds.split(",")):
            found[kind.name] = _kind(folder / kind.name, kind)
        found["first batch of 1M rows, s"] = round(_first_of_a_million(folder), 3)
        print(f"first batch from an index of {MILLION:,} rows: {found['first batch of 1M rows, s']} s")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _kind(folder: Path, kind: data.Kind) -> dict[str, Any]:
    folder.mkdir()
    there = [name for name in LOADERS if _written(folder, name, kind)]
    expected = _sums(data_batches(kind))
    for name in there:
        if (got := _sums(_open(name, folder, kind))) != expected:
            raise SystemExit(f"{name} gave other bytes: {got}, not {expected}")
    rates: dict[str, dict[str, float]] = {name: {} for name in there}
    rates["dailies"]["first"] = kind.count / _took(partial(_open, "dailies", folder, kind))
    for seed in range(ROUNDS):  # in turns, so that other load on the machine meets all alike
        for name in there:
            read = partial(_open, name, folder, kind, seed, **({"check": "never"} if name == "dailies" else {}))
            rates[name]["warm"] = max(rates[name].get("warm", 0.0), kind.count / _took(read))
    for name in there:
        _drop(folder)
        rates[name]["cold"] = kind.count / _took(partial(_open, name, folder, kind))
    with _Server(folder) as url:
        for name in ("dailies", "tarfile", "webdataset"):
            place = f"{url}/{FOLDERS.get(name, name)}"
            rates[name]["http"] = kind.count / _took(lambda n=name, p=place: LOADERS[n](p, kind, 0))
    megabytes = sum(path.stat().st_size for path in (folder / "bare map").iterdir()) / kind.count / 1e6
    _print(kind, rates, megabytes)
    more = {"waiting": _waiting(folder, kind), "memory": _memory(folder, kind), "two processes": _two(folder, kind)}
    print("  " + ", ".join(f"{name} {value}" for name, value in more.items()))
    shutil.rmtree(folder)
    return {"samples/s": rates, "MB a sample": megabytes, **more}


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


def _took(opened: Callable[[], Any]) -> float:
    """Seconds from opening to the last batch."""
    started = time.perf_counter()
    for _ in opened():
        pass
    return time.perf_counter() - started


def _drop(folder: Path) -> None:
    """Drop the files from the page cache: no rights are needed to say that one's own files are not needed."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Slow(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(LATENCY_S)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Many(ThreadingHTTPServer):
    request_queue_size = 128  # the usual five refuse clients that ask for several files at once


class _Server:
    """A web server for a folder, answering every GET after LATENCY_S."""

    def __init__(self, folder: Path):
        self._server = _Many(("127.0.0.1", 0), partial(_Slow, directory=str(folder)))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()


def _waiting(folder: Path, kind: data.Kind) -> float:
    """Share of time that a consumer waits who works `step_s` on each sample, after the first batch."""
    batches = ours(str(folder / "dailies"), kind, 0, workers=2)
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


def _first_of_a_million(folder: Path) -> float:
    """Seconds from opening a cache to its first batch, with indexes of a million rows that point at a few samples."""
    kind = data.KINDS[0]._replace(count=64)
    place, count = folder / "million", np.arange(MILLION)
    data.write_ours(place, kind)
    bucket = kind.bucket.name
    for path, schema in ((tables.index_path(str(place), bucket), tables.INDEX),
                         (tables.text_index_path(str(place), bucket, data.TEXT), tables.TEXT_INDEX)):  # fmt: skip
        table = tables.read_table(path, schema).take(pa.array(count % kind.count))
        ids = pa.array([f"{i:016x}" for i in range(MILLION)])
        for name in ("clip_id", "key"):
            table = table.set_column(table.column_names.index(name), name, ids)
        tables.write_table(path, table)
    script = ("import sys, time\nimport torch\nfrom cache.read import LatentCache\nstarted = time.perf_counter()\n"
              "cache = LatentCache(sys.argv[1])\ncache.gather(sys.argv[2], range(5, 800_000, 50_000))\n"
              "print(time.perf_counter() - started)")  # fmt: skip
    times = [float(subprocess.check_output([sys.executable, "-c", script, str(place), bucket])) for _ in range(3)]
    return min(times)


def _print(kind: data.Kind, rates: dict[str, dict[str, float]], megabytes: float) -> None:
    print(f"\n{kind.name}: {kind.count} samples of {megabytes:.3f} MB in batches of {kind.batch} (samples/s; MB/s)")
    for name, one in rates.items():
        cells = "".join(f"{way:>7} {rate:9.1f} {rate * megabytes:7.0f}" for way, rate in one.items())
        ratio = one["warm"] / rates["bare map"]["warm"]
        print(f"  {name:<20}{cells}   {ratio:.2f} x the bare map", flush=True)


if __name__ == "__main__":
    main()
