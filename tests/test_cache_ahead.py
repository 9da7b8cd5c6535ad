"""Reading ahead of a known order: what is asked for, how much of it, and that nobody notices but the disk."""

import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import torch

from cache import ahead, batches, maps, order
from cache import index as tables
from cache.fingerprint import CacheError
from cache.read import LatentCache
from cache.update import Options, update


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 samples in four buckets, about two a shard."""
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.recipe(folder, cache={"caption_variants": 2, "shard_bytes": 9_000})
    ws.fill(chosen, ws.footage(folder, videos=9, images=12))
    return Path(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


def biggest(cache: LatentCache) -> str:
    return max(cache.buckets, key=lambda name: len(cache.index(name)))


def dropped(folder: Path) -> None:
    for path in folder.rglob("*.tar"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Every request to the system, as (tar, start, stop); nothing is ever in the page cache."""
    asked: list[tuple[str, int, int]] = []

    def will_need(self: maps.Opened, at: int, size: int) -> None:
        asked.append((os.readlink(f"/proc/self/fd/{self.file}"), at, at + size))

    monkeypatch.setattr(maps.Opened, "will_need", will_need)
    monkeypatch.setattr(maps.Opened, "cached", lambda self, at: False)
    return asked


def covered(asked: list[tuple[str, int, int]], path: str, start: int, stop: int) -> bool:
    mine = np.zeros(stop - start, bool)
    for name, begin, end in asked:
        if name == path:
            mine[max(0, begin - start) : max(0, end - start)] = True
    return bool(mine.all())


def test_stretches_hold_all_that_is_read_and_little_else(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LatentCache(str(made))
    column = cache.rows(biggest(cache)).latents
    generator = np.random.default_rng(0)
    for gap in (0, 3000, 1 << 20):
        monkeypatch.setattr(ahead, "GAP_BYTES", gap)
        for _ in range(10):
            rows = generator.integers(0, len(column.shards), 5)
            found = ahead.stretches(column, rows)
            assert found == sorted(found) and all(one.start < one.stop for one in found)
            for row in rows:
                shard, start = int(column.shards[row]), int(column.offsets[row])
                inside = [one for one in found if one.shard == shard and one.start <= max(0, start - 512)]
                assert any(start + column.sizes[row] <= one.stop for one in inside)
            for one, other in pairwise(found):
                assert one.shard < other.shard or other.start - one.stop > gap
            if gap == 0:  # what lies between a sample and the next header is padding of the tar and its notes
                wanted = sum(int(column.sizes[row]) + 512 for row in set(rows.tolist()))
                assert sum(one.stop - one.start for one in found) <= wanted + 512 * len(rows)


def test_all_is_asked_for_before_it_is_read_and_never_more_than_the_limit(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of every bucket; the limit is of bytes that were asked for and not reached."""
    monkeypatch.setattr(ahead, "FIRST_BYTES", 3_000)
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 20_000)
    asked, cache = asked_for(monkeypatch), LatentCache(str(made))
    pools = [pool for view in ("picture", "clip") for pool in batches.pools(cache, view, None, "train", 1, None)]
    steps = order.steps(pools, 0, 0)
    told = ahead.Ahead(cache, lambda i: [steps[i]], len(steps))
    mean = {name: cache.rows(name).mean_bytes for name in cache.buckets}
    most = 0
    for i in range(len(steps)):
        told.reached(i)
        held = sum(mean[steps[at].bucket] * len(steps[at].rows) for at in range(i + 1, told._next))
        assert told._asked == pytest.approx(held, abs=len(steps))
        most = max(most, held)
    assert 8_000 < most <= 20_000 + max(mean.values())
    assert told._thread is not None
    told._thread.shutdown(wait=True)  # else close() would leave out what nobody will read
    for bucket in cache.buckets:
        rows = cache.rows(bucket)
        for column in (rows.latents, rows.texts):
            for row in range(len(rows)):
                path, start, size, _ = column.place(row)
                assert covered(asked, os.path.realpath(path), max(0, start - 512), start + size)


def test_no_more_batches_than_are_allowed_are_planned_ahead(made: Path) -> None:
    cache, planned = LatentCache(str(made)), []
    bucket = biggest(cache)

    def batch(i: int) -> list[order.Step]:
        planned.append(i)
        return [order.Step(bucket, (i % 3,), ())]

    told = ahead.Ahead(cache, batch, 100, most=6)
    for i in range(100):
        told.reached(i)
        assert planned == list(range(len(planned))) and i < len(planned) <= i + 7
    told.close()


@pytest.mark.parametrize("long", [1, 1 << 40])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_and_the_numbers_are_those_of_a_warm_cache(
    made: Path, tmp_path: Path, workers: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stretches read for nobody, or asked for."""
    monkeypatch.setattr(ahead, "LONG_BYTES", long)
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    warm = list(LatentCache(str(folder)).epoch("clip", batch=2, seed=3, workers=0))
    dropped(folder)
    cold = list(LatentCache(str(folder)).epoch("clip", batch=2, seed=3, workers=workers))
    assert [one.clip_ids for one in warm] == [one.clip_ids for one in cold]
    for one, other in zip(warm, cold):
        assert torch.equal(one.latent, other.latent)
        assert torch.equal(one.texts.padded()[0], other.texts.padded()[0])


def test_what_is_loaded_is_in_the_page_cache_and_a_file_that_ends_is_no_error(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    cache = LatentCache(str(folder))
    rows = cache.rows(biggest(cache)).latents
    tar = cache.maps.tar(rows, int(rows.shards[0]))
    for _ in range(20):  # pages that are still on their way into the kernel's lists stay the first time
        dropped(folder)
        if not tar.cached(0):
            break
        time.sleep(0.05)
    else:
        pytest.skip("files cannot be dropped from memory here")
    tar.load(0, tar.size)
    assert all(tar.cached(at) for at in range(0, tar.size, 4096))
    os.truncate(rows.place(0)[0], 600)
    tar.load(0, tar.size)
    tar.load(5000, 100)


def test_what_is_in_the_page_cache_is_not_asked_for(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is not, is: by the system's own word, on a disk that can tell."""
    asked: list[Any] = []
    monkeypatch.setattr(maps.Opened, "will_need", lambda self, at, size: asked.append((at, size)))
    for path in made.rglob("*.tar"):
        path.read_bytes()
    assert len(list(LatentCache(str(made)).epoch("clip", batch=2))) > 3
    assert not asked
    dropped(made)
    cache = LatentCache(str(made))
    if cache.maps.tar(cache.rows(biggest(cache)).latents, 0).cached(0):
        pytest.skip("files cannot be dropped from memory here")
    assert len(list(cache.epoch("clip", batch=2))) > 3
    assert asked


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_wrong_with_a_tar_is_told_by_name_in_its_turn(
    made: Path, tmp_path: Path, workers: int, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was asked for long before; batches that are whole come first."""
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    monkeypatch.setattr(maps.Opened, "cached", lambda self, at: False)
    cache = LatentCache(str(folder))
    wanted = [one.clip_ids for one in cache.epoch("clip", batch=1, workers=0)]
    steps = order.steps(batches.pools(cache, "clip", None, "train", 1, None), 0, 0)
    last = steps[len(steps) - 1]
    path, start, *_ = cache.rows(last.bucket).latents.place(last.rows[0])
    if damage == "cut":
        os.truncate(path, start + 100)
    else:
        os.unlink(path)
    seen = []
    with pytest.raises(CacheError, match="ends before it" if damage == "cut" else "missing or empty"):
        for one in LatentCache(str(folder)).epoch("clip", batch=1, workers=workers):
            seen.append(one.clip_ids)
    assert seen == wanted[: len(seen)] and len(seen) < len(wanted)
    broken = {i for i in range(len(steps)) if cache.rows(steps[i].bucket).latents.place(steps[i].rows[0])[0] == path}
    assert len(seen) in broken


def test_its_thread_is_gone_when_the_epoch_is_left(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for(monkeypatch)
    coming = LatentCache(str(made)).epoch("clip", batch=1, workers=2)
    next(coming)
    assert any(one.name.startswith("ahead") for one in threading.enumerate())
    coming.close()
    assert not any(one.name.startswith(("ahead", "cache")) for one in threading.enumerate())


def test_processes_that_were_forked_read_ahead_on_their_own(made: Path, tmp_path: Path) -> None:
    """As the workers of a torch DataLoader do, from a cache that was opened, and read from, before the fork."""
    script = f"""
import os, sys
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from cache import maps
from cache.read import LatentCache
maps.Opened.cached = lambda self, at: False
cache = LatentCache({str(made)!r})
first = next(cache.epoch("clip", batch=1, workers=0))
class Share(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        for one in cache.epoch("clip", batch=1, workers=0, rank=worker.id, world=worker.num_workers):
            yield one.clip_ids[0], int(one.latent.view(torch.int16).long().sum())
import torch
found = sorted(tuple(one) for one in DataLoader(Share(), batch_size=None, num_workers=2, multiprocessing_context="fork"))
wanted = sorted((one.clip_ids[0], int(one.latent.view(torch.int16).long().sum())) for one in cache.epoch("clip", batch=1))
assert found == wanted and len(found) > 3, (found, wanted)
print("same")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "same\n", done.stderr


def test_a_limit_of_memory_is_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1_000_000 < ahead.available_bytes() < 1 << 46
    monkeypatch.setattr(ahead, "available_bytes", lambda: 80_000)
    monkeypatch.setattr(ahead, "FIRST_BYTES", 1_000)
    asked_for(monkeypatch)
    cache = LatentCache(str(made))
    bucket = biggest(cache)
    told = ahead.Ahead(cache, lambda i: [order.Step(bucket, (0,), ())], 1000)
    for i in range(50):
        told.reached(i)
    assert told._asked <= 10_000 + cache.rows(bucket).mean_bytes
    told.close()


def test_the_trainer_reads_its_steps_in_order_and_tells_of_them(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train.loader over a plan of micro-batches of two buckets."""
    from train.loader import read_ahead
    from train.plan import MicroBatch

    asked, cache = asked_for(monkeypatch), LatentCache(str(made))
    buckets = [name for name in cache.buckets if len(cache.index(name)) > 1][:2]

    def steps(at: int) -> list[MicroBatch]:
        some = [(name, (at % len(cache.index(name)),)) for name in buckets]
        return [MicroBatch(0, name, 0, rows, (0,), ("",), (0,), (int(cache.rows(name).latents.shards[rows[0]]),), 1.0)
                for name, rows in some]  # fmt: skip

    def load(micro: MicroBatch) -> tuple[str, tuple[str, ...]]:
        return micro.bucket, cache.gather(micro.bucket, micro.rows).clip_ids

    found = list(read_ahead(load, steps, 3, 23, 2, cache))
    assert found == [[load(one) for one in steps(at)] for at in range(3, 23)]
    for name in buckets:
        path, start, size, _ = cache.rows(name).latents.place(3 % len(cache.index(name)))
        assert covered(asked, os.path.realpath(path), start - 512, start + size)
    assert tables.buckets(str(made)) == cache.buckets
