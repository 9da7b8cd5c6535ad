"""Batches from a cache against what people use instead, in one run on the same bytes: about five minutes on two cores.

    python -m benchmarks.loader [--all] [--quick] [--kinds image,video,large,million] [--rounds 3] [--json loader.json]

Each contestant reads the same latents and text states in its own format through its public API (webdataset, Python's
tarfile, litdata, mosaicml-streaming, one safetensors file a sample, rows of Parquet; a bare memory map is the least it
can cost) and gives batches of stacked latents and padded states, so every byte is touched; the sums of all bytes are
equal, or the run fails. Each works in a process of its own, one at a time (benchmarks.loader_apart). litdata and
mosaicml-streaming are not among the project's dependencies; where they are not installed they are left out and named:

    python -m venv --system-site-packages peers && peers/bin/pip install litdata mosaicml-streaming
    peers/bin/python -m benchmarks.loader

What a trainer does for days is the steady state: batches in random order, epoch after epoch, from files that are open.
So everybody keeps open what its format can (maps, Parquet file, dataset, worker processes; not a file for each sample),
goes through WARM epochs, and then the rounds are timed in turns. steady: no workers; with --all also 1, 2 workers (threads
of dailies, processes of the others); in order; random: batches of random samples. opened: everything opened anew and one
epoch, in which dailies checks every checksum and name; dropped: the same after the files were dropped from the page cache;
both with no workers or with two, whichever is faster in rounds that do not count. http, s3: the same from a server that
waits 50 ms before every answer. Then who leads, by the median of the rounds' ratios; the share of time a consumer waits
that takes samples at the rate of an H200, the first batch from an index of a million rows (`million`), private memory
over epochs, and two processes that share an epoch. --quick: images only, one round.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import loader_alone as alone
from benchmarks import loader_data as data
from benchmarks import loader_table as table
from benchmarks.loader_apart import Apart, Took, apart, took
from benchmarks.loader_peers import LOADERS, Epochs, imported
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
ROUNDS, LATENCY_S, FILES_OVER_HTTP = 3, 0.05, 40
CHOICES = 3  # epochs by which the number of workers is chosen
WARM = 4  # dailies maps a file that was read twice; nobody else changes after the first
STEADY: dict[str, dict[str, Any]] = {
    "steady": {}, "1 worker": {"workers": 1}, "2 workers": {"workers": 2}, "in order": {"order": "sequential"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kinds", default="image,video,large,million")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    mend_torchvision()
    torch.set_num_threads(1)
    kinds = ["image"] if asked.quick else asked.kinds.split(",")
    found: dict[str, Any] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="dailies-loader-") as name:
        folder = Path(name)
        tempfile.tempdir = str(folder)  # shelves and other people's caches go with it
        with _Server(folder) as port:  # one for all kinds: clients remember where it is
            for kind in (kind for kind in data.KINDS if kind.name in kinds):
                found[kind.name] = _kind(folder / kind.name, kind, 1 if asked.quick else asked.rounds, asked.all, port)
        if asked.quick or "million" in kinds:
            _tell("an index of a million rows")
            found["first batch of 1M rows, s"] = alone.first_of_a_million(folder)
            print(f"\nfirst batch from an index of {alone.MILLION:,} rows: {found['first batch of 1M rows, s']}")
    found["load after"] = os.getloadavg()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _kind(folder: Path, kind: data.Kind, rounds: int, all_ways: bool, port: int) -> dict[str, Any]:
    folder.mkdir()
    _tell(f"{kind.name}: writing")
    there = [name for name in LOADERS if imported(name) and (name in FOLDERS or _written(folder, name, kind))]
    os.sync()  # what is not on the disk cannot be dropped
    gc.freeze()  # what is imported: in every process that is forked a collection would touch, and so copy, all of it
    expected = _sums(((latent[None], states[None]) for _, latent, states in data.samples(kind)))
    for name in there:
        if (got := apart(lambda n=name: _sums(_open(n, folder, kind)(0)))) != expected:
            raise SystemExit(f"{name} gave other bytes: {got}, not {expected}")
    rates: table.Rates = {name: {} for name in there}
    workers = _better(folder, kind, there)
    for way in ("dropped", "opened"):
        _anew(way, folder, kind, rates, rounds, workers)
    for way, more in STEADY.items() if all_ways else [("steady", {})]:
        _steady(way, more, folder, kind, rates, rounds)
    if all_ways:
        _random(folder, kind, rates, rounds)
    _far(kind, rates, rounds, port)
    megabytes = sum(path.stat().st_size for path in (folder / "bare map").iterdir()) / kind.count / 1e6
    print("\n".join(table.show(kind, rates, megabytes)), flush=True)
    _tell(f"{kind.name}: dailies alone")
    more = {
        "waiting": apart(lambda: alone.waiting(folder, kind)),
        "memory": apart(lambda: alone.memory(folder, kind)),
        "two processes": alone.two(folder, kind),
    }
    print("  " + ", ".join(f"{name} {value}" for name, value in more.items()), flush=True)
    shutil.rmtree(folder)
    return {"rounds": rates, "MB a sample": megabytes, **more}


def _better(folder: Path, kind: data.Kind, names: list[str]) -> dict[str, int]:
    """With how many workers each is faster, when everything is opened anew: by the best epoch, in turns. The first one to
    touch memory that the machine has not given out before is slow, whoever it is."""
    _tell(f"{kind.name}: with workers and without")
    ways = [(name, workers) for name in names for workers in ((0,) if name == table.LEAST else (0, 2))]
    found = [{(name, workers): _epoch(name, folder, kind, seed, workers).all_s for name, workers in ways}
             for seed in range(CHOICES)]  # fmt: skip
    best = {way: min(one[way] for one in found) for way in ways}
    return {name: min((way for way in ways if way[0] == name), key=best.__getitem__)[1] for name in names}


def _epoch(name: str, folder: Path, kind: data.Kind, seed: int, workers: int) -> Took:
    more = {"workers": workers} if workers else {}
    return apart(lambda: took(lambda: _open(name, folder, kind)(seed, **more)))


def _anew(way: str, folder: Path, kind: data.Kind, rates: table.Rates, rounds: int, workers: dict[str, int]) -> None:
    """Everything opened in a new process, page cache dropped or not."""
    _tell(f"{kind.name}: {way}")
    for seed in range(1, rounds + 1):
        for name in rates:
            if way == "dropped" and (left := _drop(folder / FOLDERS.get(name, name))) > 0.01:
                raise SystemExit(f"{name}: {left:.0%} of its files stayed in the page cache")
            rates[name].setdefault(way, {})[seed] = (kind.count, _epoch(name, folder, kind, seed, workers[name]))


def _steady(way: str, more: dict[str, Any], folder: Path, kind: data.Kind, rates: table.Rates, rounds: int) -> None:
    _tell(f"{kind.name}: {way}")
    names = [name for name in rates if name != table.LEAST or "workers" not in more]
    with ExitStack() as left:
        kept = {name: left.enter_context(Apart(lambda n=name: _timed(_open(n, folder, kind)))) for name in names}
        for seed in range(-WARM, rounds):
            for name, epoch in kept.items():
                found = epoch(seed + WARM, **more)
                if seed >= 0:
                    rates[name].setdefault(way, {})[seed] = (kind.count, found)


def _timed(epochs: Epochs) -> Callable[..., Took]:
    return lambda *asked, **more: took(lambda: epochs(*asked, **more))


def _random(folder: Path, kind: data.Kind, rates: table.Rates, rounds: int) -> None:
    """Batches of random samples, by those whose format can."""

    def reader(name: str) -> Callable[..., Took | None]:
        read = at_random(name, str(folder / FOLDERS.get(name, name)), kind)

        def epoch(seed: int) -> Took | None:
            rows = np.random.default_rng(seed).permutation(kind.count).tolist()
            batches = (rows[at : at + kind.batch] for at in range(0, kind.count, kind.batch))
            return None if read is None else took(lambda: (read(some) for some in batches))

        return epoch

    _tell(f"{kind.name}: random access")
    with ExitStack() as left:
        kept = {name: left.enter_context(Apart(lambda n=name: reader(n))) for name in rates}
        for seed in range(-1, min(2, rounds)):
            for name, epoch in kept.items():
                if (found := epoch(seed + 1)) is not None and seed >= 0:
                    rates[name].setdefault("random", {})[seed] = (kind.count, found)


def _far(kind: data.Kind, rates: table.Rates, rounds: int, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url, **keys}
    for way, root, names in (("http", url, OVER_HTTP), ("s3", "s3://b", OVER_S3)):
        _tell(f"{kind.name}: {way}")
        left = [name for name in names if name in rates]
        for seed in range(rounds):
            for name in tuple(left):
                few = kind if name != "safetensors files" else kind._replace(count=min(kind.count, FILES_OVER_HTTP))
                place = f"{root}/{kind.name}/{FOLDERS.get(name, name)}".replace(" ", "%20")
                try:
                    found = apart(lambda n=name, p=place, k=few, s=seed: took(lambda: LOADERS[n](p, k)(s)))
                except RuntimeError as error:
                    if name == "dailies":
                        raise
                    print(f"{name} is left out over {way}: {error}", file=sys.stderr)
                    left.remove(name)
                else:
                    rates[name].setdefault(way, {})[seed] = (few.count, found)


def _written(folder: Path, name: str, kind: data.Kind) -> bool:
    apart(lambda: WRITERS[name](folder / name, kind))
    return True


def _open(name: str, folder: Path, kind: data.Kind) -> Epochs:
    return LOADERS[name](str(folder / FOLDERS.get(name, name)), kind)


def _sums(batches: Any) -> tuple[int, int, int]:
    """Samples, and the sums of all numbers' bits of latents and texts: the same in any order, padding adds nothing."""
    count = latents = texts = 0
    for latent, text in batches:
        count += len(latent)
        latents += int(latent.view(torch.int16).sum(dtype=torch.int64))
        texts += int(text.view(torch.int16).sum(dtype=torch.int64))
    return count, latents, texts


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


_started = time.perf_counter()


def _tell(what: str) -> None:
    print(f"[{time.perf_counter() - _started:5.0f} s] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
