"""Batches of samples by their numbers, from those contestants of benchmarks.loader whose format can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.loader_data import Kind
from benchmarks.loader_peers import BareMap, Pair, opened, pair, rows, together


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

        def each(row: int) -> Pair:
            found = safetensors.torch.load_file(files[row])
            return found["latent"], found["text"]
    elif name in ("litdata", "mosaicml-streaming"):
        data = _dataset(name, place, kind)
        each = lambda row: pair(kind, data[row]["latent"], data[row]["text"])  # noqa: E731
    elif name == "parquet rows":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(f"{place}/rows.parquet", memory_map=True)
        size = kind.batch
        each = lambda row: next(rows(file.read_row_group(row // size).slice(row % size, 1), kind))  # noqa: E731
    else:
        return None
    return lambda rows: together([each(row) for row in rows])


def _dataset(name: str, place: str, kind: Kind) -> Any:
    if name == "litdata":
        from litdata import StreamingDataset

        return StreamingDataset(place)
    from streaming import StreamingDataset as Mosaic
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    return Mosaic(local=place, batch_size=kind.batch)
