"""How each contestant of benchmarks.loader gives batches: (latents (B, ...), text states (B, L, D) padded).

order: `shuffled`, or `sequential` where the format knows one. place: a folder, or the URL of the 50 ms server.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.loader_data import SHARD_BYTES, WIDTH, Kind, sample_bytes

BUFFER = 256  # samples in a shuffle buffer

Pair = tuple[torch.Tensor, torch.Tensor]
Batches = Iterable[Pair]


def ours(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0, cache: Any = None) -> Batches:
    """Every checksum is checked, the first time a process reads a sample; a cache that is kept open has read them."""
    cache = cache or opened(place)
    if order == "sequential":
        chunks = (range(at, min(at + kind.batch, kind.count)) for at in range(0, kind.count, kind.batch))
        found = (cache.gather(kind.bucket.name, rows) for rows in chunks)
    else:
        workers = max(workers, 2) if cache.remote else workers
        found = cache.epoch("all", batch=kind.batch, seed=seed, workers=workers)
    return ((one.latent, one.texts.padded()[0]) for one in found)


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


def bare_map(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    source, numbers = BareMap(place, kind), range(kind.count)
    rows = np.random.default_rng(seed).permutation(kind.count).tolist() if order == "shuffled" else list(numbers)
    return (source.batch(rows[at : at + kind.batch]) for at in range(0, kind.count, kind.batch))


def plain_tarfile(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    """Python's tarfile, shards in random order, a buffer that is shuffled."""

    def pairs() -> Iterator[Pair]:
        names = _mine([f"{at:05d}.tar" for at in range(_tars(kind))], seed, order)
        found = (_pair(kind, *two) for name in names for two in _members(place, name))
        return _shuffled(found, seed) if order == "shuffled" else found

    return _loaded(pairs, kind, workers)


def web_dataset(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    import webdataset as wds

    def pairs() -> Iterator[Pair]:
        names = _mine([f"{at:05d}.tar" for at in range(_tars(kind))], seed, order)
        urls = [f"pipe:curl -s {place}/{name}" if place.startswith("http") else f"{place}/{name}" for name in names]
        if not urls:
            return
        data = wds.WebDataset(urls, shardshuffle=False, nodesplitter=None, workersplitter=None)
        data = data.shuffle(BUFFER, initial=BUFFER) if order == "shuffled" else data
        yield from (_pair(kind, one["latent"], one["text"]) for one in data)

    return _loaded(pairs, kind, workers)


def safetensors_files(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    import safetensors.torch

    def pairs() -> Iterator[Pair]:
        for name in _mine([f"{at:016x}.safetensors" for at in range(kind.count)], seed, order):
            if place.startswith("http"):
                with urllib.request.urlopen(f"{place}/{name}") as answer:
                    found = safetensors.torch.load(answer.read())
            else:
                found = safetensors.torch.load_file(f"{place}/{name}")
            yield found["latent"], found["text"]

    return _loaded(pairs, kind, workers)


def parquet_rows(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    import fsspec
    import pyarrow.parquet as pq

    def pairs() -> Iterator[Pair]:
        source = f"{place}/rows.parquet"
        with fsspec.open(source, "rb") as remote:
            opened = remote if place.startswith("http") else source
            with pq.ParquetFile(opened, memory_map=True, pre_buffer=place.startswith("http")) as file:
                groups = _mine(list(range(file.num_row_groups)), seed, order)
                found = (pair for at in groups for pair in _rows(file.read_row_group(at), kind))
                yield from _shuffled(found, seed) if order == "shuffled" else found

    return _loaded(pairs, kind, workers)


def _rows(table: Any, kind: Kind) -> Iterator[Pair]:
    for latent, text in zip(table["latent"], table["text"]):
        yield _pair(kind, latent.as_buffer(), text.as_buffer())


def streaming(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    where: dict[str, Any] = {"local": place}
    if place.startswith("s3://"):
        where = {"remote": place, "local": tempfile.mkdtemp(prefix="mds-")}
    data = StreamingDataset(**where, shuffle=order == "shuffled", shuffle_seed=seed, batch_size=kind.batch)
    return _of_dataset(data, kind, workers)


def litdata(place: str, kind: Kind, seed: int, order: str = "shuffled", workers: int = 0) -> Batches:
    from litdata import StreamingDataset

    more: dict[str, Any] = {}
    if place.startswith("s3://"):
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        more = {"storage_options": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], **keys},
                "cache_dir": tempfile.mkdtemp(prefix="litdata-")}  # fmt: skip
    return _of_dataset(StreamingDataset(place, shuffle=order == "shuffled", seed=seed, **more), kind, workers)


LOADERS: dict[str, Callable[..., Batches]] = {
    "dailies": ours, "bare map": bare_map, "webdataset": web_dataset, "tarfile": plain_tarfile, "litdata": litdata,
    "mosaicml-streaming": streaming, "safetensors files": safetensors_files, "parquet rows": parquet_rows,
}  # fmt: skip


def at_random(name: str, place: str, kind: Kind) -> Callable[[Sequence[int]], Any] | None:
    """What gives samples by their numbers; None for a format that cannot."""
    if name == "dailies":
        cache = opened(place)

        def taken(rows: Sequence[int]) -> Pair:
            found = cache.gather(kind.bucket.name, rows)
            return found.latent, found.texts.padded()[0]

        return taken
    if name == "bare map":
        return BareMap(place, kind).batch
    if name == "safetensors files":
        import safetensors.torch

        files = [f"{place}/{at:016x}.safetensors" for at in range(kind.count)]
        each = lambda row: tuple(safetensors.torch.load_file(files[row])[key] for key in ("latent", "text"))  # noqa: E731
    elif name in ("litdata", "mosaicml-streaming"):
        data = _dataset(name, place, kind)
        each = lambda row: _pair(kind, data[row]["latent"], data[row]["text"])  # noqa: E731
    elif name == "parquet rows":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(f"{place}/rows.parquet", memory_map=True)
        size = kind.batch
        each = lambda row: next(_rows(file.read_row_group(row // size).slice(row % size, 1), kind))  # noqa: E731
    else:
        return None
    return lambda rows: _together([each(row) for row in rows])


def _dataset(name: str, place: str, kind: Kind) -> Any:
    if name == "litdata":
        from litdata import StreamingDataset

        return StreamingDataset(place)
    from streaming import StreamingDataset as Mosaic
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    return Mosaic(local=place, batch_size=kind.batch)


def _pair(kind: Kind, latent: Any, text: Any) -> Pair:
    """Views of the bytes: nobody is charged for a decoder."""
    return (torch.from_numpy(np.frombuffer(latent, np.int16)).view(torch.bfloat16).view(kind.shape),
            torch.from_numpy(np.frombuffer(text, np.int16)).view(torch.bfloat16).view(-1, WIDTH))  # fmt: skip


def _together(pairs: Sequence[Pair]) -> Pair:
    return torch.stack([latent for latent, _ in pairs]), pad_sequence([text for _, text in pairs], batch_first=True)


def _of_dataset(data: Any, kind: Kind, workers: int) -> Batches:
    """Through torch's DataLoader where there are workers, bare where there are none, which is faster."""

    def collate(rows: Sequence[dict[str, bytes]]) -> Pair:
        return _together([_pair(kind, one["latent"], one["text"]) for one in rows])

    if workers:
        return DataLoader(data, batch_size=kind.batch, num_workers=workers, collate_fn=collate)
    return _stacked((_pair(kind, one["latent"], one["text"]) for one in data), kind)


class _Pairs(IterableDataset):
    def __init__(self, pairs: Callable[[], Iterator[Pair]], kind: Kind):
        self._pairs, self._kind = pairs, kind

    def __iter__(self) -> Iterator[Pair]:
        return iter(_stacked(self._pairs(), self._kind))


def _loaded(pairs: Callable[[], Iterator[Pair]], kind: Kind, workers: int) -> Batches:
    if not workers:
        return _stacked(pairs(), kind)
    return DataLoader(_Pairs(pairs, kind), batch_size=None, num_workers=workers)


def _stacked(pairs: Iterable[Pair], kind: Kind) -> Iterator[Pair]:
    pairs = iter(pairs)
    while some := list(islice(pairs, kind.batch)):
        yield _together(some)


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
