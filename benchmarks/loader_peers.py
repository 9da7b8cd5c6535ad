"""How each contestant of benchmarks.loader gives shuffled batches: (latents (B, ...), text states (B, L, D) padded)."""

from __future__ import annotations

import io
import random
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.loader_data import WIDTH, Kind

BUFFER = 256  # samples in a shuffle buffer

Pair = tuple[torch.Tensor, torch.Tensor]
Batches = Iterator[Pair]


def ours(
    place: str, kind: Kind, seed: int, check: Any = "first", workers: int = 0, rank: int = 0, world: int = 1
) -> Batches:
    from cache.read import LatentCache

    cache = LatentCache(place, check=check, shelf=tempfile.mkdtemp(prefix="dailies-shelf-"))
    workers = max(workers, 2) if cache.remote else workers
    for one in cache.epoch("all", batch=kind.batch, seed=seed, workers=workers, rank=rank, world=world):
        yield one.latent, pad_sequence([texts[0].states for texts in one.texts], batch_first=True)


def bare_map(place: str, kind: Kind, seed: int) -> Batches:
    """The least that reading these bytes can cost: numpy, two maps, one copy."""
    latents = np.memmap(f"{place}/latents", np.int16, "r").reshape(kind.count, *kind.shape)
    texts, starts = np.memmap(f"{place}/texts", np.int16, "r").reshape(-1, WIDTH), np.load(f"{place}/starts.npy")
    order = np.random.default_rng(seed).permutation(kind.count)
    for at in range(0, kind.count, kind.batch):
        rows = order[at : at + kind.batch]
        states = [torch.from_numpy(texts[starts[row] : starts[row + 1]].copy()).view(torch.bfloat16) for row in rows]
        yield torch.from_numpy(latents[rows]).view(torch.bfloat16), pad_sequence(states, batch_first=True)


def plain_tarfile(place: str, kind: Kind, seed: int) -> Batches:
    """Python's tarfile, shards in random order, a buffer that is shuffled."""
    names = [f"{at:05d}.tar" for at in range(_tars(place, kind))]
    random.Random(seed).shuffle(names)
    return _stacked(_shuffled((_pair(kind, *two) for name in names for two in _members(place, name)), seed), kind)


def web_dataset(place: str, kind: Kind, seed: int) -> Batches:
    import webdataset as wds

    urls = [f"pipe:curl -s {place}/{at:05d}.tar" if place.startswith("http") else f"{place}/{at:05d}.tar"
            for at in range(_tars(place, kind))]  # fmt: skip
    random.Random(seed).shuffle(urls)
    data = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node).shuffle(BUFFER, initial=BUFFER)
    return _stacked((_pair(kind, one["latent"], one["text"]) for one in data), kind)


def streaming(place: str, kind: Kind, seed: int) -> Batches:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data = StreamingDataset(local=place, shuffle=True, shuffle_seed=seed, batch_size=kind.batch)
    return _stacked((_pair(kind, one["latent"], one["text"]) for one in data), kind)


def litdata(place: str, kind: Kind, seed: int) -> Batches:
    from litdata import StreamingDataset

    data = StreamingDataset(place, shuffle=True, seed=seed)
    return _stacked((_pair(kind, one["latent"], one["text"]) for one in data), kind)


LOADERS = {"dailies": ours, "bare map": bare_map, "tarfile": plain_tarfile, "webdataset": web_dataset,
           "mosaicml-streaming": streaming, "litdata": litdata}  # fmt: skip


def _pair(kind: Kind, latent: bytes, text: bytes) -> Pair:
    """Views of the bytes: nobody is charged for a decoder."""
    return (torch.frombuffer(bytearray(latent), dtype=torch.bfloat16).view(kind.shape),
            torch.frombuffer(bytearray(text), dtype=torch.bfloat16).view(-1, WIDTH))  # fmt: skip


def _stacked(pairs: Iterable[Pair], kind: Kind) -> Batches:
    pairs = iter(pairs)
    while some := list(islice(pairs, kind.batch)):
        yield torch.stack([latent for latent, _ in some]), pad_sequence([text for _, text in some], batch_first=True)


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


def _tars(place: str, kind: Kind) -> int:
    from benchmarks.loader_data import SHARD_BYTES, sample_bytes

    return -(-kind.count // max(1, SHARD_BYTES // sample_bytes(kind)))
