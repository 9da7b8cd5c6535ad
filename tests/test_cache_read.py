"""Reading: zero copies, checksums, damage told by name, stores on a bounded shelf, and an index of a million rows."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import cache_workspace as ws
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from cache import index as tables
from cache.fingerprint import CacheError
from cache.read import LatentCache, open_cache
from cache.shelf import Shelf, Wanted, Window
from cache.update import Options, update
from media import storage
from pipelines import Recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, str]:
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.fill(ws.recipe(folder, cache={"caption_variants": 2, "shard_bytes": 9_000}), ws.footage(folder))
    return chosen, update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder


@pytest.fixture
def copy(made: tuple[Recipe, str], tmp_path: Path) -> Path:
    """A cache of one's own to damage."""
    return Path(shutil.copytree(made[1], tmp_path / Path(made[1]).name))


def biggest(folder: str | Path) -> str:
    names = tables.buckets(str(folder))
    return max(names, key=lambda name: len(tables.read_table(tables.index_path(str(folder), name), tables.INDEX)))


def everything(cache: LatentCache) -> list[Any]:
    return [sample for name in cache.buckets for sample in cache.read(name, range(len(cache.index(name))))]


def test_rows_in_any_order_and_twice(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    bucket = biggest(made[1])
    ids = cache.index(bucket)["clip_id"].to_pylist()
    rows = [3, 0, 3]
    assert [sample.clip_id for sample in cache.read(bucket, rows)] == [ids[row] for row in rows]
    assert cache.read(bucket, []) == []


def test_tensors_are_views_of_the_map(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    bucket = biggest(made[1])
    one, again = cache.read(bucket, [1, 1])
    assert one.latent.data_ptr() == again.latent.data_ptr()
    assert one.latent.data_ptr() % 64 == 0


def test_samples_outlive_the_cache(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    bucket = biggest(made[1])
    latent = cache.read(bucket, [0])[0].latent
    expected = latent.clone()
    cache.maps._open.clear()
    del cache
    assert torch.equal(latent, expected)


def test_ledgers_are_of_kept_clips(made: tuple[Recipe, str]) -> None:
    ledger = open_cache(made[0]).ledger("videos")
    assert ledger.column_names == ["clip_id", "weight", "split"] and len(ledger) == 6


@pytest.mark.parametrize("what", ["latent", "text"])
def test_a_flipped_byte_is_an_error_with_the_samples_name(copy: Path, what: str) -> None:
    bucket = biggest(copy)
    cache = LatentCache(str(copy))
    rows = cache.rows(bucket)
    path, start, length, _ = (rows.latents if what == "latent" else rows.texts).place(2)
    data = bytearray(Path(path).read_bytes())
    data[start + length - 1] ^= 1
    Path(path).write_bytes(data)
    key = cache.index(bucket)["key"][2].as_py()
    with pytest.raises(CacheError, match=f"{key}.*not those that were written"):
        LatentCache(str(copy)).read(bucket, [2])
    shard = cache.index(bucket)["shard"].to_numpy()
    other = int(np.flatnonzero(shard != shard[2])[0])
    assert len(LatentCache(str(copy)).read(bucket, [other])) == 1


def test_a_truncated_tar_is_an_error(copy: Path) -> None:
    bucket = biggest(copy)
    path = copy / bucket / tables.shard_name(0)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CacheError, match="ends before it"):
        LatentCache(str(copy)).read(bucket, [0])


def test_a_missing_shard_is_an_error(copy: Path) -> None:
    bucket = biggest(copy)
    (copy / bucket / tables.shard_name(0)).unlink()
    with pytest.raises(CacheError, match="missing or empty"):
        LatentCache(str(copy)).read(bucket, [0])


def test_an_index_of_another_cache_is_an_error(copy: Path) -> None:
    bucket = biggest(copy)
    other = next(name for name in tables.buckets(str(copy)) if name != bucket)
    shutil.copy(tables.index_path(str(copy), other), tables.index_path(str(copy), bucket))
    with pytest.raises(CacheError):
        LatentCache(str(copy)).read(bucket, [0])


def test_no_cache_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="encode_latents"):
        open_cache(ws.recipe(tmp_path))
    with pytest.raises(CacheError, match="encode_latents"):
        LatentCache(str(tmp_path))


def test_a_store_gives_the_same_samples_through_a_bounded_shelf(made: tuple[Recipe, str], tmp_path: Path) -> None:
    """fsspec's memory store, whole shards fetched: the shelf stays small, the samples are those of the local map."""
    store = "memory://cache-read/latents"
    fsspec.filesystem("memory").put(made[1], "/cache-read/latents", recursive=True)
    shelf = tmp_path / "shelf"
    near, far = LatentCache(made[1]), LatentCache(store, shelf=str(shelf), shelf_bytes=30_000)
    for name in far.buckets:
        index = far.index(name)
        for shard in sorted(set(index["shard"].to_pylist())):
            rows = np.flatnonzero(index["shard"].to_numpy() == shard)
            with far.fetch(name, [shard]):
                for one, other in zip(near.read(name, rows), far.read(name, rows), strict=True):
                    assert one[:2] == other[:2] and torch.equal(one.latent, other.latent)
                    assert all(torch.equal(a.states, b.states) for a, b in zip(one.texts, other.texts, strict=True))
            assert sum(path.stat().st_size for path in shelf.iterdir()) <= 30_000 + 20_000
    assert sum(map(os.path.getsize, map(str, Path(made[1]).rglob("*.tar")))) > 60_000


def test_a_window_keeps_what_it_holds(tmp_path: Path) -> None:
    for i in range(4):
        storage.write_bytes(f"memory://shelf-test/{i}.tar", bytes(1000))
    shelf = Shelf(str(tmp_path), limit_bytes=0)
    first = Wanted("memory://shelf-test/0.tar")
    window = Window(shelf, [first])
    window.wait()
    for i in (1, 2, 3):
        with Window(shelf, [Wanted(f"memory://shelf-test/{i}.tar")]):
            assert shelf.file(first).here and os.path.exists(shelf.file(first).local)
    window.close()
    assert not list(tmp_path.iterdir())


def test_a_shard_that_cannot_be_fetched_raises_and_is_tried_again(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path), limit_bytes=1000)
    with pytest.raises(FileNotFoundError):
        shelf.file(Wanted("memory://shelf-test/absent.tar")).wait()
    storage.write_bytes("memory://shelf-test/absent.tar", b"here now")
    found = shelf.file(Wanted("memory://shelf-test/absent.tar"))
    found.wait()
    assert Path(found.local).read_bytes() == b"here now"


def test_a_million_rows_open_at_once(made: tuple[Recipe, str], copy: Path) -> None:
    """First batch from an index of a million samples: < 0.5 s on a quiet machine."""
    bucket, count = biggest(copy), 1_000_000
    for path, schema in (
        (tables.index_path(str(copy), bucket), tables.INDEX),
        (tables.text_index_path(str(copy), bucket, LatentCache(str(copy)).text), tables.TEXT_INDEX),
    ):
        table = tables.read_table(path, schema)
        first = table.slice(0, 1).to_pydict()
        columns = {name: pa.array([first[name][0]], schema.field(name).type).take(pa.array(np.zeros(count, np.int64)))
                   for name in schema.names}  # fmt: skip
        tables.write_table(path, pa.table(columns))
    started = time.perf_counter()
    (sample,) = LatentCache(str(copy)).read(bucket, [count - 1])
    assert time.perf_counter() - started < 3.0
    assert sample.latent.isfinite().all()
