"""Batches straight out of maps: the numbers of samples read one by one, and only where nothing is due."""

import os
import shutil
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import torch

from cache import index as tables
from cache import read
from cache.blocks import HUGE_BYTES, Blocks
from cache.fingerprint import CacheError
from cache.read import LatentCache
from cache.update import Options, update


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.fill(ws.recipe(folder, cache={"caption_variants": 2, "shard_bytes": 100_000}), ws.footage(folder))
    return Path(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each batch that could have come out of maps whether it did."""
    found: list[bool] = []
    plain = read.warm

    def noted(*given: Any) -> Any:
        found.append((made := plain(*given)) is not None)
        return made

    monkeypatch.setattr(read, "warm", noted)
    return found


def biggest(folder: Path) -> str:
    return max(tables.buckets(str(folder)), key=lambda name: len(LatentCache(str(folder)).index(name)))


def warmed(folder: Path, bucket: str, **more: Any) -> LatentCache:
    cache = LatentCache(str(folder), **more)
    everything = range(len(cache.index(bucket)))
    for _ in range(8):
        cache.gather(bucket, everything, [0] * len(everything)).texts.padded([1] * len(everything))
    return cache


@pytest.mark.parametrize("check", ["first", "never", "always"])
def test_it_is_what_the_samples_are_one_by_one(made: Path, taken: list[bool], check: str) -> None:
    bucket, chosen = biggest(made), np.random.default_rng(3)
    cache, plain = warmed(made, bucket, check=check), LatentCache(str(made))
    taken.clear()
    for _ in range(5):
        rows = chosen.integers(0, len(cache.index(bucket)), 6).tolist()
        wanted = [None if one == 2 else one for one in chosen.integers(0, 3, 6).tolist()]
        batch, samples = cache.gather(bucket, rows, wanted), plain.read(bucket, rows)
        assert batch.clip_ids == tuple(one.clip_id for one in samples)
        assert torch.equal(batch.latent, torch.stack([one.latent for one in samples]))
        states, mask, pooled = batch.texts.padded()
        for i, (one, variant) in enumerate(zip(samples, wanted)):
            text = one.texts[variant or 0]
            n = 0 if variant is None else len(text.states)
            assert mask[i].sum() == n and torch.equal(states[i, :n], text.states[:n]) and not states[i, n:].any()
            assert torch.equal(pooled[i], text.pooled * (variant is not None))
            assert all(torch.equal(a.states, b.states) for a, b in zip(batch.texts[i], one.texts, strict=True))
        assert batch.texts.counts() == [2] * 6 and len(batch.texts) == 6
        assert torch.equal(batch.texts.padded([1] * 6)[2], torch.stack([one.texts[1].pooled for one in samples]))
    assert taken == ([] if check == "always" else [True] * 5)


def test_whatever_is_due_is_looked_at(made: Path, taken: list[bool], tmp_path: Path) -> None:
    """A sample that nobody has read yet, and a tar that was opened again: neither comes out of a map unseen."""
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    bucket = biggest(folder)
    cache = LatentCache(str(folder))
    rows = cache.rows(bucket)
    shard = int(np.bincount(rows.latents.shards).argmax())
    mine = np.flatnonzero(rows.latents.shards == shard).tolist()
    assert len(mine) > 1
    for _ in range(12):
        cache.gather(bucket, mine[:1] * 4, [0] * 4)
    assert taken[-1]
    path, start, size, _ = rows.latents.place(mine[1])
    with open(path, "r+b") as file:
        file.seek(start + size - 1)
        byte = file.read(1)[0]
        file.seek(start + size - 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(CacheError, match="not those that were written"):
        cache.gather(bucket, mine[:2], [0, 0])
    assert not taken[-1]
    cache.maps.drop(rows.latents, shard)
    with pytest.raises(CacheError, match="not those that were written"):
        cache.gather(bucket, [mine[1]], [0])
    assert cache.gather(bucket, mine[:1], [0]).latent.isfinite().all() and not taken[-1]


@pytest.mark.parametrize("suffix", ["text", ""])
def test_a_tar_that_is_cut_under_its_map_is_an_error_and_no_signal(made: Path, tmp_path: Path, suffix: str) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    bucket = biggest(folder)
    cache = warmed(folder, bucket)
    for path in (folder / bucket).glob("*.tar"):
        if (".text-" in path.name) == bool(suffix):
            os.truncate(path, 600)
    with pytest.raises(CacheError, match="ends before it"):
        cache.gather(bucket, [0, 1], [0, 0])


def test_large_blocks_start_on_a_huge_page_and_hold_what_is_written() -> None:
    blocks = Blocks()
    for size in (HUGE_BYTES * 3 // 4, HUGE_BYTES + 500, 7 * HUGE_BYTES - 3):
        block = blocks.take(size)
        assert block.ctypes.data % HUGE_BYTES == 0 and len(block) == size
        block[:] = np.arange(size, dtype=np.uint32).astype(np.uint8)
        assert int(block.sum(dtype=np.int64)) == int((np.arange(size) % 256).sum())
        place = block.ctypes.data
        del block
        assert blocks.take(size - 100).ctypes.data == place
