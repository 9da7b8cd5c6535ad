"""The same latents and text states written for every contestant of benchmarks.loader, each in its own format."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.encode_text import packed
from cache.members import pack
from cache.shards import writing_shard
from model.text import TextStates

WIDTH, POOLED, CHANNELS = 1024, 768, 16
SHARD_BYTES = 32_000_000
TEXT = "bench"


class Kind(NamedTuple):
    """count samples of a bucket; batch: how many are read together; step_s: what an H200 takes for one sample."""

    name: str
    bucket: Bucket
    count: int
    batch: int
    step_s: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bucket.latent_shape(CHANNELS)


KINDS = (
    Kind("image", Bucket(1, 256, 256), 1000, 16, 0.04),
    Kind("video", Bucket(65, 256, 256, 24.0), 240, 4, 0.47),
    Kind("large", Bucket(129, 720, 1280, 24.0), 12, 1, 10.0),
)


def samples(kind: Kind, count: int | None = None) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(key, latent bfloat16, text states (L, WIDTH) bfloat16 of 20 to 60 tokens); equal at every call."""
    noise = torch.randn(kind.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    words = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    for i in range(kind.count if count is None else count):
        yield f"{i:016x}", torch.roll(noise, i), torch.roll(words, i, 0)[: 20 + i * 7 % 41].clone()


def write_ours(folder: Path, kind: Kind) -> None:
    """A cache as `cache.encode_latents` lays it out."""
    name, per_shard = kind.bucket.name, max(1, SHARD_BYTES // sample_bytes(kind))
    settings = {
        "latents": {"vae": {"channels": CHANNELS}},
        "text": {"encoder": {"width": WIDTH, "pooled_width": POOLED}},
    }
    described = {"settings": settings["latents"], "text": {TEXT: settings["text"]}, "samples": {name: kind.count}}
    tables.write_json(str(folder / "cache.json"), described)
    latents, texts, finite = [], [], True
    everything = samples(kind)
    for shard in range(-(-kind.count // per_shard)):
        some = [one for _, one in zip(range(per_shard), everything)]
        with writing_shard(str(folder / name / tables.shard_name(shard))) as tar:
            for key, latent, _ in some:
                tar.add(key, pack({"latent": latent}), {"clip_id": key})
        latents, finite = latents + [_row(place, shard) for place in tar.places], finite and tar.finite
        text_tar = tables.text_name(shard, TEXT)
        with writing_shard(str(folder / name / text_tar)) as tar:
            for key, _, states in some:
                tar.add(key, packed([TextStates(states, torch.zeros(POOLED).bfloat16())], ["a"]))
        finite = finite and tar.finite
        texts += [_row(place, shard) | {"tar": text_tar, "captions": ["a"]} for place in tar.places]
    tables.write_index(tables.index_path(str(folder), name), pa.Table.from_pylist(latents, tables.INDEX), finite)
    text_table = pa.Table.from_pylist(texts, tables.TEXT_INDEX)
    tables.write_index(tables.text_index_path(str(folder), name, TEXT), text_table, finite)
    view = [{"clip_id": row["clip_id"], "start_tick": 0, "bucket": name, "reason": None} for row in latents]
    tables.write_table(tables.view_path(str(folder), "all"), pa.Table.from_pylist(view, tables.VIEW))


def write_tars(folder: Path, kind: Kind) -> None:
    """WebDataset tars with both members of a sample beside each other, the numbers raw: nothing to decode."""
    folder.mkdir()
    per_shard, everything = max(1, SHARD_BYTES // sample_bytes(kind)), samples(kind)
    for shard in range(-(-kind.count // per_shard)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for _, (key, latent, states) in zip(range(per_shard), everything):
                for suffix, data in (("latent", raw(latent)), ("text", raw(states))):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def write_map(folder: Path, kind: Kind) -> None:
    """One file of latents, one of text states, and where each text starts: as bare as bytes can lie."""
    folder.mkdir()
    starts = [0]
    with open(folder / "latents", "wb") as latents, open(folder / "texts", "wb") as texts:
        for _, latent, states in samples(kind):
            latents.write(raw(latent))
            texts.write(raw(states))
            starts.append(starts[-1] + len(states))
    np.save(folder / "starts.npy", np.array(starts))


def write_streaming(folder: Path, kind: Kind) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"key": "str", "latent": "bytes", "text": "bytes"}) as writer:
        for key, latent, states in samples(kind):
            writer.write({"key": key, "latent": raw(latent), "text": raw(states)})


def write_litdata(folder: Path, kind: Kind) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=SHARD_BYTES)
    for at, (_, latent, states) in enumerate(samples(kind)):
        writer[at] = {"latent": raw(latent), "text": raw(states)}
    writer.done()
    writer.merge()


def write_safetensors(folder: Path, kind: Kind) -> None:
    """One file a sample, the first thing everybody does."""
    import safetensors.torch

    folder.mkdir()
    for key, latent, states in samples(kind):
        safetensors.torch.save_file({"latent": latent, "text": states}, folder / f"{key}.safetensors")


def write_parquet(folder: Path, kind: Kind) -> None:
    """Rows of bytes, a row group a batch."""
    import pyarrow.parquet as pq

    folder.mkdir()
    rows = [{"latent": raw(latent), "text": raw(states)} for _, latent, states in samples(kind)]
    schema = pa.schema({"latent": pa.large_binary(), "text": pa.large_binary()})
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, folder / "rows.parquet", row_group_size=kind.batch, compression="none", use_dictionary=False)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def sample_bytes(kind: Kind) -> int:
    return int(np.prod(kind.shape)) * 2 + 40 * WIDTH * 2


def _row(place: Any, shard: int) -> dict[str, Any]:
    return place._asdict() | {"clip_id": place.key, "start_tick": 0, "shard": shard}
