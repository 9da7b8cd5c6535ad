"""Encoders that are killed, told to stop, or started twice: the shards are those of one quiet run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cache_workspace as ws
import pyarrow as pa
import pytest

from cache import index as tables
from cache.fingerprint import cache_folder, latent_settings
from cache.read import open_cache
from cache.update import Options, update
from pipelines import Recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ws.footage(tmp_path_factory.mktemp("footage"), videos=9, images=5)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, files: list[dict[str, Any]]) -> dict[str, bytes]:
    """Every tar of a run that nothing disturbed."""
    chosen = ws.fill(ws.recipe(tmp_path_factory.mktemp("quiet"), cache=SMALL), files)
    return ws.shard_bytes(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


SMALL = ws.DEFAULTS["cache"] | {"shard_bytes": 8_000}  # about one sample a shard


def start(config: Path, workers: int) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "cache.encode_latents",
        "--config",
        str(config),
        "--workers",
        str(workers),
        "--device",
        "cpu",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_tars(folder: str, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while len(list(Path(folder).rglob("*.tar"))) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def assert_whole(chosen: Recipe, folder: str, quiet: dict[str, bytes]) -> None:
    """The same tars and no other file; every planned sample once in the index."""
    assert ws.shard_bytes(folder) == quiet
    assert not [path for path in Path(folder).rglob("*") if path.suffix == ".part" or ".broken" in path.name]
    cache = open_cache(chosen)
    for bucket in cache.buckets:
        plan = tables.read_table(tables.plan_path(folder, bucket), tables.PLAN)
        assert cache.index(bucket)["key"].to_pylist() == plan["key"].to_pylist()
        assert len(cache.read(bucket, range(len(plan)))) == len(plan)


def test_killed_at_three_moments_then_finished(tmp_path: Path, files: list[dict[str, Any]],
                                               quiet: dict[str, bytes]) -> None:  # fmt: skip
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    folder = cache_folder(chosen, latent_settings(chosen))
    config = ws.config(chosen, tmp_path / "p.yaml")
    for tars in (1, len(quiet) // 3, len(quiet) - 4):
        process = start(config, 0)
        wait_for_tars(folder, tars, process)
        process.kill()
        process.communicate()
        assert set(ws.shard_bytes(folder).items()) <= set(quiet.items())
    update(chosen, Options(workers=0, device="cpu"), lambda line: None)
    assert_whole(chosen, folder, quiet)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_then_finished(tmp_path: Path, files: list[dict[str, Any]],
                                                       quiet: dict[str, bytes]) -> None:  # fmt: skip
    moments = random.Random(0)
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    folder = cache_folder(chosen, latent_settings(chosen))
    config = ws.config(chosen, tmp_path / "p.yaml")
    for _ in range(20):
        process = start(config, moments.choice([0, 1, 2]))
        wait_for_tars(folder, moments.randrange(1, len(quiet)), process)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert set(ws.shard_bytes(folder).items()) <= set(quiet.items())
        if moments.random() < 0.3:  # make some of it again
            shutil.rmtree(Path(folder, moments.choice(tables.buckets(folder))))
    last = start(config, 2)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert_whole(chosen, folder, quiet)


def test_a_signal_finishes_the_shard_and_says_how_to_go_on(tmp_path: Path, files: list[dict[str, Any]],
                                                           quiet: dict[str, bytes]) -> None:  # fmt: skip
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    folder = cache_folder(chosen, latent_settings(chosen))
    process = start(ws.config(chosen, tmp_path / "p.yaml"), 0)
    wait_for_tars(folder, 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "go on with: python -m cache.encode_latents --config" in err
    assert 2 <= len(ws.shard_bytes(folder)) < len(quiet)
    update(chosen, Options(workers=0, device="cpu"), lambda line: None)
    assert_whole(chosen, folder, quiet)


@pytest.mark.slow
def test_two_at_once_do_not_collide(tmp_path: Path, files: list[dict[str, Any]], quiet: dict[str, bytes]) -> None:
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    folder = cache_folder(chosen, latent_settings(chosen))
    config = ws.config(chosen, tmp_path / "p.yaml")
    both = [start(config, 0), start(config, 0)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 3], [0, 0]), said
    if codes == [0, 3]:
        assert any("is busy: process" in text for text in said)
    assert_whole(chosen, folder, quiet)


def test_a_tar_cut_short_is_set_aside_and_made_again(tmp_path: Path, files: list[dict[str, Any]],
                                                     quiet: dict[str, bytes]) -> None:  # fmt: skip
    """A tar that ends between two members reads without an error: only the plan knows that samples are missing."""
    chosen = ws.fill(ws.recipe(tmp_path), files)
    folder = update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder
    whole = ws.shard_bytes(folder)
    bucket = max(
        tables.buckets(folder), key=lambda name: len(tables.read_table(tables.index_path(folder, name), tables.INDEX))
    )
    path = Path(folder, bucket, tables.shard_name(0))
    rows = tables.read_table(tables.index_path(folder, bucket), tables.INDEX).to_pylist()
    path.write_bytes(path.read_bytes()[: rows[1]["offset"] - 512] + bytes(1024))
    Path(tables.index_path(folder, bucket)).unlink()  # as after a crash before the index was written
    said: list[str] = []
    update(chosen, Options(workers=0, device="cpu"), said.append)
    assert ws.shard_bytes(folder) == whole
    assert any("set aside as shard-00000.tar.broken-1" in line for line in said)
    assert path.with_name("shard-00000.tar.broken-1").exists()


def test_plans_have_a_schema_that_stays(tmp_path: Path) -> None:
    """Columns are read by other programs: a new one is added at the end."""
    assert tables.INDEX.names[:6] == ["clip_id", "start_tick", "shard", "offset", "bytes", "xxh3"]
    assert tables.VIEW.names == ["clip_id", "start_tick", "bucket", "reason"]
    assert pa.types.is_uint64(tables.INDEX.field("xxh3").type)
