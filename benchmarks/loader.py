"""Batches from a cache against what people use instead, in one run on the same bytes.

    python -m benchmarks.loader [--quick] [--kinds image,video,large,million] [--json loader.json]

Each contestant reads the same latents and text states in its own format through its public API (webdataset, Python's
tarfile, litdata, mosaicml-streaming, one safetensors file a sample, rows of Parquet; a bare memory map is the least it
can cost) and gives batches of stacked latents and padded states, so every byte is touched; the sums of all bytes are
equal, or the run fails. litdata and mosaicml-streaming are not among the project's dependencies; where they are not
installed they are left out and named:

    python -m venv --system-site-packages peers && peers/bin/pip install litdata mosaicml-streaming
    peers/bin/python -m benchmarks.loader

What a trainer does for days is the steady state: batches in random order, epoch after epoch, from files that are open.
So everybody keeps open what its format can (maps, Parquet file, dataset, worker processes; not a file for each sample),
goes through WARM epochs, and then ROUNDS more are timed in turns. steady: no workers; 1, 2 workers (threads of dailies,
processes of the others); in order; random: batches of random samples. opened: everything opened anew and one epoch, in
which dailies checks every checksum and name; dropped: the same after the files were dropped from the page cache; both
with no workers and with two, of which the better counts. http, s3: the same from a server that waits 50 ms before every
answer. us: CPU time a sample of this process and of what it started, which other load disturbs less than the clock.
The best round is shown; then, of each round, samples/s of dailies by those of the other, and CPU of the other by that of
dailies: above 1 dailies leads. Then: the share of time a consumer waits that takes samples at the rate of an H200, the
first batch from an index of a million rows (`million`), private memory over epochs, and two processes that share an epoch.
--quick: images only, one round.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import mmap
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import loader_alone as alone
from benchmarks import loader_data as data
from benchmarks.loader_peers import LOADERS, Epochs
from benchmarks.loader_random import at_random
from compat import mend_torchvision

WRITERS = {
    "dailies": data.write_ours, "bare map": data.write_map, "tarfile": data.write_tars,
    "litdata": data.write_litdata, "mosaicml-streaming": data.write_streaming,
    "safetensors files": data.write_safetensors, "parquet rows": data.write_parquet,
}  # fmt: skip
FOLDERS = {"webdataset": "tarfile"}  # reads the tars of another one
OVER_S3 = ("dailies", "litdata", "mosaicml-streaming")
OVER_HTTP = ("dailies", "webdataset", "tarfile", "safetensors files")
ROUNDS, LATENCY_S, FILES_OVER_HTTP = 5, 0.05, 200
WARM = 4  # dailies maps a file that was read twice; nobody else changes after the first
SHOWN = ("steady", "steady us", "1 worker", "2 workers", "in order", "random", "opened", "opened us", "dropped",
         "dropped us", "http", "http us", "s3", "s3 us")  # fmt: skip
COMPARED = ("steady", "steady us", "opened", "opened us", "dropped", "http", "s3")
Found = dict[str, dict[int, tuple[float, float]]]  # way -> round -> samples/s, CPU us a sample
Rates = dict[str, Found]  # of each contestant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="image,video,large,million")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    mend_torchvision()
    torch.set_num_threads(1)
    kinds = ["image"] if asked.quick else asked.kinds.split(",")
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="dailies-loader-") as name:
        folder = Path(name)
        with _Server(folder) as port:  # one for all kinds: clients remember where it is
            for kind in (kind for kind in data.KINDS if kind.name in kinds):
                found[kind.name] = _kind(folder / kind.name, kind, 1 if asked.quick else asked.rounds, port)
        if asked.quick or "million" in kinds:
            found["first batch of 1M rows, s"] = alone.first_of_a_million(folder)
            print(f"first batch from an index of {alone.MILLION:,} rows: {found['first batch of 1M rows, s']} s")
    found["load after"] = os.getloadavg()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _kind(folder: Path, kind: data.Kind, rounds: int, port: int) -> dict[str, Any]:
    folder.mkdir()
    there = [name for name in LOADERS if _written(folder, name, kind)]
    os.sync()  # what is not on the disk cannot be dropped
    rates: Rates = {name: {} for name in there}
    for seed, name, workers in _turns(there, rounds):
        left = _drop(folder / FOLDERS.get(name, name))
        if left > 0.01:  # litdata keeps its files mapped when its dataset is gone
            print(f"{name}: {left:.0%} of its files stayed in the page cache: does not count", file=sys.stderr)
            continue
        _count(rates[name], "dropped", seed, kind, lambda n=name, s=seed, w=workers: _open(n, folder, kind)(s, **w))
    expected = _sums(data_batches(kind))
    for name in there:
        if (got := _sums(_open(name, folder, kind)(0))) != expected:
            raise SystemExit(f"{name} gave other bytes: {got}, not {expected}")
    for seed, name, workers in _turns(there, rounds):
        _count(rates[name], "opened", seed, kind, lambda n=name, s=seed, w=workers: _open(n, folder, kind)(s, **w))
    _steady(folder, kind, rates, rounds)
    _far(kind, rates, rounds, port)
    megabytes = sum(path.stat().st_size for path in (folder / "bare map").iterdir()) / kind.count / 1e6
    _print(kind, rates, megabytes)
    more = {
        "waiting": alone.waiting(folder, kind),
        "memory": alone.memory(folder, kind),
        "two processes": alone.two(folder, kind),
    }
    print("  " + ", ".join(f"{name} {value}" for name, value in more.items()), flush=True)
    shutil.rmtree(folder)
    return {"samples/s": rates, "MB a sample": megabytes, **more}


def _turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str, dict[str, int]]]:
    """Everybody with no workers and with two, in turns; a bare map has none."""
    for seed in range(rounds):
        for name in names:
            for workers in (0, 2) if name != "bare map" else (0,):
                yield seed, name, {"workers": workers} if workers else {}


def _steady(folder: Path, kind: data.Kind, rates: Rates, rounds: int) -> None:
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("steady", {}),
        ("1 worker", {"workers": 1}),
        ("2 workers", {"workers": 2}),
        ("in order", {"order": "sequential"}),
    )
    for way, more in ways:
        kept = {name: _open(name, folder, kind) for name in rates if name != "bare map" or "workers" not in more}
        for seed in range(-WARM, rounds):
            for name, epochs in kept.items():
                found = {} if seed < 0 else rates[name]
                _count(found, way, seed, kind, lambda e=epochs, s=seed, m=more: e(s + WARM, **m))
    readers = {name: at_random(name, str(folder / FOLDERS.get(name, name)), kind) for name in rates}
    for seed in range(-1, min(2, rounds)):
        rows = np.random.default_rng(seed + 1).permutation(kind.count).tolist()
        for name, read in readers.items():
            if read is not None:
                _count(
                    {} if seed < 0 else rates[name], "random", seed, kind, lambda r=read, n=rows: _random(r, n, kind)
                )


def _count(found: Found, way: str, seed: int, kind: data.Kind, opened: Callable[[], Any]) -> None:
    """Of a round, which a contestant may have been through in several ways, samples/s and CPU us, each the better one."""
    took_s, cpu_s = _took(opened)
    before = found.setdefault(way, {}).get(seed, (0.0, math.inf))
    found[way][seed] = (max(before[0], kind.count / took_s), min(before[1], cpu_s / kind.count * 1e6))


def _best(found: Found, way: str) -> float | None:
    """Of a column of SHOWN."""
    rounds = found.get(way.removesuffix(" us"), {}).values()
    if not rounds:
        return None
    return min(us for _, us in rounds) if way.endswith(" us") else max(rate for rate, _ in rounds)


def _lead(ours: Found, other: Found, way: str) -> str | None:
    """The least, the median and the greatest ratio of the rounds: above 1 ours is better."""
    name, cpu = way.removesuffix(" us"), way.endswith(" us")
    mine, theirs = ours.get(name, {}), other.get(name, {})
    both = sorted(theirs[at][1] / mine[at][1] if cpu else mine[at][0] / theirs[at][0] for at in mine if at in theirs)
    return f"{both[len(both) // 2]:.2f} ({both[0]:.2f}-{both[-1]:.2f})" if both else None


def _random(read: Callable[[Any], Any], numbers: list[int], kind: data.Kind) -> Any:
    return (read(numbers[at : at + kind.batch]) for at in range(0, kind.count, kind.batch))


def _far(kind: data.Kind, rates: Rates, rounds: int, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url, **keys}
    for way, root, names in (("http", url, OVER_HTTP), ("s3", "s3://b", OVER_S3)):
        left = [name for name in names if name in rates]
        for seed in range(-1, rounds):  # at first clients are imported
            for name in tuple(left):
                few = kind if name != "safetensors files" else kind._replace(count=min(kind.count, FILES_OVER_HTTP))
                place = f"{root}/{kind.name}/{FOLDERS.get(name, name)}".replace(" ", "%20")
                try:
                    _count(
                        rates[name] if seed >= 0 else {},
                        way,
                        seed,
                        few,
                        lambda n=name, p=place, k=few, s=seed: LOADERS[n](p, k)(s),
                    )
                except Exception as error:  # peers raise their own types; of dailies a failure ends the run
                    if name == "dailies":
                        raise
                    print(f"{name} is left out over {way}: {str(error).splitlines()[0]}", file=sys.stderr)
                    left.remove(name)


def _written(folder: Path, name: str, kind: data.Kind) -> bool:
    if name in FOLDERS:
        return True
    try:
        WRITERS[name](folder / name, kind)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def _open(name: str, folder: Path, kind: data.Kind) -> Epochs:
    return LOADERS[name](str(folder / FOLDERS.get(name, name)), kind)


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
    """Seconds from opening to the last batch: by the clock, and of CPU time, of processes that ended meanwhile too."""
    gc.collect()  # worker processes of what was timed before end now, not while this is
    started, busy = time.perf_counter(), _cpu_s()
    for _ in opened():
        pass
    return time.perf_counter() - started, _cpu_s() - busy


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _drop(folder: Path) -> float:
    """Drop the files from the page cache, for which no rights are needed. The share that is still there: pages that
    somebody has mapped stay."""
    gc.collect()
    pages = left = 0
    for path in (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
                there = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
                whole = np.frombuffer(mapped, np.uint8)
                ctypes.CDLL(None).mincore(
                    ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(len(mapped)), ctypes.c_void_p(there.ctypes.data)
                )
                del whole
        pages, left = pages + len(there), left + int((there & 1).sum())
    return left / pages


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


def _print(kind: data.Kind, rates: Rates, megabytes: float) -> None:
    print(f"\n{kind.name}: {kind.count} samples of {megabytes:.3f} MB in batches of {kind.batch}, samples/s (us: CPU)")
    print(f"  {'':<19}" + "".join(f"{way:>11}" for way in SHOWN))
    for name, one in rates.items():
        best = [_best(one, way) for way in SHOWN]
        print(f"  {name:<19}" + "".join(f"{'-':>11}" if at is None else f"{at:11.1f}" for at in best), flush=True)
    print(f"  dailies leads by:   {'':<0}" + "".join(f"{way:>20}" for way in COMPARED))
    for name, one in rates.items():
        if name != "dailies":
            cells = [_lead(rates["dailies"], one, way) or "-" for way in COMPARED]
            print(f"  {name:<19}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
