"""How each contestant of benchmarks.loader gives batches: (latents (B, ...), text states (B, L, D) padded).

LOADERS[name](place, kind) opens it; what that gives is called for each epoch with a seed, an order (`shuffled`, or
`sequential` where the format knows one) and a number of workers, and keeps open whatever its format lets it keep: maps,
files, datasets, worker processes. place: a folder, or the URL of the 50 ms server.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.loader_data import SHARD_BYTES, WIDTH, Kind, sample_bytes

BUFFER = 256  # samples in a shuffle buffer

Pair = tuple[torch.Tensor, torch.Tensor]
Batches = Iterable[Pair]


class Epochs(Protocol):
    def __call__(self, seed: int, order: str = "shuffled", workers: int = 0) -> Batches: ...


def ours(place: str, kind: Kind) -> Epochs:
    """Every checksum is checked, the first time a process reads a sample. Workers are threads."""
    cache = opened(place)

    def epoch(seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
        if order == "sequential":
            chunks = (range(at, min(at + kind.batch, kind.count)) for at in range(0, kind.count, kind.batch))
            found = (cache.gather(kind.bucket.name, rows, [0] * len(rows)) for rows in chunks)
        else:
            found = cache.epoch(
                "all", batch=kind.batch, seed=seed, workers=max(workers, 2) if cache.remote else workers, variant=0
            )
        return ((one.latent, one.texts.padded()[0]) for one in found)

    return epoch


def opened(place: str) -> Any:
    from cache.read import LatentCache

    return LatentCache(place, shelf=tempfile.mkdtemp(prefix="dailies-shelf-"))


class BareMap:
    """The least that reading these bytes can cost: numpy, two maps, one copy of each number to its place."""

    def __init__(self, place: str, kind: Kind):
        self._latents = np.memmap(f"{place}/latents", np.int16, "r").reshape(kind.count, -1)
        self._texts = np.memmap(f"{place}/texts", np.int16, "r").reshape(-1, WIDTH)
        self._starts, self._kind = np.load(f"{place}/starts.npy").tolist(), kind

    def batch(self, rows: Sequence[int]) -> Pair:
        cuts = [(self._starts[row], self._starts[row + 1]) for row in rows]
        latents = np.empty((len(rows), self._latents.shape[1]), np.int16)
        texts = np.empty((len(rows), max(stop - start for start, stop in cuts), WIDTH), np.int16)
        for at, (row, (start, stop)) in enumerate(zip(rows, cuts)):
            latents[at] = self._latents[row]
            texts[at, : stop - start] = self._texts[start:stop]
            texts[at, stop - start :] = 0
        found = torch.from_numpy(latents).view(torch.bfloat16).view(len(rows), *self._kind.shape)
        return found, torch.from_numpy(texts).view(torch.bfloat16)


def bare_map(place: str, kind: Kind) -> Epochs:
    source = BareMap(place, kind)

    def epoch(seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
        shuffled = np.random.default_rng(seed).permutation(kind.count).tolist()
        rows = shuffled if order == "shuffled" else range(kind.count)
        return (source.batch(rows[at : at + kind.batch]) for at in range(0, kind.count, kind.batch))

    return epoch


class Shards:
    """Through torch's DataLoader where there are workers, which stay from epoch to epoch; bare where there are none, which
    is faster. pairs(seed, order): samples one by one, of this worker's share of the shards."""

    def __init__(self, pairs: Callable[[int, str], Iterator[Pair]], kind: Kind):
        self._pairs, self._kind, self._loader = pairs, kind, None

    def __call__(self, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
        if not workers:
            return _stacked(self._pairs(seed, order), self._kind)
        if self._loader is None:
            data = _Pairs(self._pairs, self._kind, seed, order)
            self._loader = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=True)
        return self._loader


def plain_tarfile(place: str, kind: Kind) -> Epochs:
    """Python's tarfile, shards in random order, a buffer that is shuffled."""

    def pairs(seed: int, order: str) -> Iterator[Pair]:
        names = _mine([f"{at:05d}.tar" for at in range(_tars(kind))], seed, order)
        found = (pair(kind, *two) for name in names for two in _members(place, name))
        return _shuffled(found, seed) if order == "shuffled" else found

    return Shards(pairs, kind)


def web_dataset(place: str, kind: Kind) -> Epochs:
    import webdataset as wds

    def pairs(seed: int, order: str) -> Iterator[Pair]:
        names = _mine([f"{at:05d}.tar" for at in range(_tars(kind))], seed, order)
        urls = [f"pipe:curl -s {place}/{name}" if place.startswith("http") else f"{place}/{name}" for name in names]
        if not urls:
            return
        data = wds.WebDataset(urls, shardshuffle=False, nodesplitter=None, workersplitter=None)
        data = data.shuffle(BUFFER, initial=BUFFER) if order == "shuffled" else data
        yield from (pair(kind, one["latent"], one["text"]) for one in data)

    return Shards(pairs, kind)


def safetensors_files(place: str, kind: Kind) -> Epochs:
    """Opened anew each time: a million files cannot be kept open."""
    import safetensors.torch

    def pairs(seed: int, order: str) -> Iterator[Pair]:
        for name in _mine([f"{at:016x}.safetensors" for at in range(kind.count)], seed, order):
            if place.startswith("http"):
                with urllib.request.urlopen(f"{place}/{name}") as answer:
                    found = safetensors.torch.load(answer.read())
            else:
                found = safetensors.torch.load_file(f"{place}/{name}")
            yield found["latent"], found["text"]

    return Shards(pairs, kind)


def parquet_rows(place: str, kind: Kind) -> Epochs:
    import pyarrow.parquet as pq

    files: list[Any] = []  # opened where it is read: a file must not be shared between processes

    def pairs(seed: int, order: str) -> Iterator[Pair]:
        if not files:
            files.append(pq.ParquetFile(f"{place}/rows.parquet", memory_map=True))
        groups = _mine(list(range(files[0].num_row_groups)), seed, order)
        found = (pair for at in groups for pair in rows(files[0].read_row_group(at), kind))
        return _shuffled(found, seed) if order == "shuffled" else found

    return Shards(pairs, kind)


def rows(table: Any, kind: Kind) -> Iterator[Pair]:
    for latent, text in zip(table["latent"], table["text"]):
        yield pair(kind, latent.as_buffer(), text.as_buffer())


class Dataset:
    """Of litdata or mosaicml-streaming, which shuffle each epoch otherwise by themselves. opened(order, seed)."""

    def __init__(self, opened: Callable[[str, int], Any], kind: Kind):
        self._opened, self._kind, self._data, self._loader = opened, kind, None, None

    def __call__(self, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
        kind = self._kind
        if self._data is None:
            self._data = self._opened(order, seed)
            if workers:
                self._loader = DataLoader(self._data, batch_size=kind.batch, num_workers=workers,
                                          collate_fn=self._collated, persistent_workers=True)  # fmt: skip
        return self._loader or _stacked((pair(kind, one["latent"], one["text"]) for one in self._data), kind)

    def _collated(self, rows: Sequence[dict[str, bytes]]) -> Pair:
        return together([pair(self._kind, one["latent"], one["text"]) for one in rows])


def streaming(place: str, kind: Kind) -> Epochs:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    def opened(order: str, seed: int) -> Any:
        clean_stale_shared_memory()
        where: dict[str, Any] = {"local": place}
        if place.startswith("s3://"):
            where = {"remote": place, "local": tempfile.mkdtemp(prefix="mds-")}
        return StreamingDataset(**where, shuffle=order == "shuffled", shuffle_seed=seed, batch_size=kind.batch)

    return Dataset(opened, kind)


def litdata(place: str, kind: Kind) -> Epochs:
    """Over S3 through its boto3 client: its other one (obstore) wants TLS, and has no public setting for a server without."""
    from litdata import StreamingDataset
    from litdata.streaming import downloader

    more: dict[str, Any] = {}
    if place.startswith("s3://"):
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        url, downloader._OBSTORE_AVAILABLE = os.environ["AWS_ENDPOINT_URL"], False
        more = {"storage_options": {"endpoint_url": url, **keys},
                "cache_dir": tempfile.mkdtemp(prefix="litdata-")}  # fmt: skip
    return Dataset(lambda order, seed: StreamingDataset(place, shuffle=order == "shuffled", seed=seed, **more), kind)


LOADERS: dict[str, Callable[[str, Kind], Epochs]] = {
    "dailies": ours, "bare map": bare_map, "webdataset": web_dataset, "tarfile": plain_tarfile, "litdata": litdata,
    "mosaicml-streaming": streaming, "safetensors files": safetensors_files, "parquet rows": parquet_rows,
}  # fmt: skip


MODULES = {
    "webdataset": ("webdataset",), "litdata": ("litdata", "litdata.streaming.writer"),
    "mosaicml-streaming": ("streaming", "streaming.base.util"), "safetensors files": ("safetensors.torch",),
    "parquet rows": ("pyarrow.parquet",), "dailies": ("cache.read", "s3fs"),
}  # fmt: skip


def imported(name: str) -> bool:
    """Whether a contestant is installed; then it is imported now, and nobody is charged for it."""
    try:
        for module in MODULES.get(name, ()):
            importlib.import_module(module)
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def pair(kind: Kind, latent: Any, text: Any) -> Pair:
    """Views of the bytes: nobody is charged for a decoder."""
    return (torch.from_numpy(np.frombuffer(latent, np.int16)).view(torch.bfloat16).view(kind.shape),
            torch.from_numpy(np.frombuffer(text, np.int16)).view(torch.bfloat16).view(-1, WIDTH))  # fmt: skip


def together(pairs: Sequence[Pair]) -> Pair:
    return torch.stack([latent for latent, _ in pairs]), pad_sequence([text for _, text in pairs], batch_first=True)


class _Pairs(IterableDataset):
    """Lives in a worker, which iterates over it once for each epoch."""

    def __init__(self, pairs: Callable[[int, str], Iterator[Pair]], kind: Kind, seed: int, order: str):
        self._pairs, self._kind, self._seed, self._order = pairs, kind, seed, order

    def __iter__(self) -> Iterator[Pair]:
        self._seed += 1
        return iter(_stacked(self._pairs(self._seed, self._order), self._kind))


def _stacked(pairs: Iterable[Pair], kind: Kind) -> Iterator[Pair]:
    pairs = iter(pairs)
    while some := list(islice(pairs, kind.batch)):
        yield together(some)


def _shuffled(pairs: Iterable[Pair], seed: int) -> Iterator[Pair]:
    held, chosen = [], random.Random(seed)
    for pair in pairs:
        held.append(pair)
        if len(held) > BUFFER:
            at = chosen.randrange(len(held))
            held[at], held[-1] = held[-1], held[at]
            yield held.pop()
    chosen.shuffle(held)
    yield from held


def _mine(names: list[Any], seed: int, order: str) -> list[Any]:
    """This worker's share of the shards, in the order of the epoch."""
    if order == "shuffled":
        random.Random(seed).shuffle(names)
    worker = get_worker_info()
    return names[worker.id :: worker.num_workers] if worker else names


def _members(place: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    if place.startswith("http"):
        with urllib.request.urlopen(f"{place}/{name}") as answer:
            file: Any = io.BytesIO(answer.read())
    else:
        file = open(Path(place, name), "rb")  # noqa: SIM115 (closed below)
    with file, tarfile.open(fileobj=file, mode="r:") as tar:
        latent = b""
        for member in tar:
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".latent"):
                latent = data
            else:
                yield latent, data


def _tars(kind: Kind) -> int:
    return -(-kind.count // max(1, SHARD_BYTES // sample_bytes(kind)))
