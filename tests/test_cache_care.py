"""Verify names what is broken and what to do; gc lists, removes on request, and rewrites what was forgotten."""

import json
import shutil
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import xxhash

from cache import gc, verify
from cache import index as tables
from cache.members import pack, unpack
from cache.read import LatentCache, open_cache
from cache.update import Options, update
from pipelines import Recipe

QUIET = Options(workers=0, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ws.footage(tmp_path_factory.mktemp("footage"))


@pytest.fixture
def made(tmp_path: Path, files: list[dict[str, Any]]) -> tuple[Recipe, Path]:
    more = ws.DEFAULTS["cache"] | {"shard_bytes": 150_000}
    chosen = ws.fill(ws.recipe(tmp_path, cache=more), files)
    return chosen, Path(update(chosen, QUIET, lambda line: None).folder)


def biggest(folder: Path) -> str:
    return max(tables.buckets(str(folder)), key=lambda name: len(rows(folder, name)))


def rows(folder: Path, bucket: str) -> list[dict[str, Any]]:
    return tables.read_table(tables.index_path(str(folder), bucket), tables.INDEX).to_pylist()


def faults(folder: Path) -> list[str]:
    return [str(one) for one in verify.verify(LatentCache(str(folder)))]


def test_a_whole_cache_has_no_faults(made: tuple[Recipe, Path]) -> None:
    assert faults(made[1]) == []


def test_a_flipped_byte_is_named_set_aside_and_made_again(
    made: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, folder = made
    whole = ws.shard_bytes(folder)
    bucket = biggest(folder)
    row = rows(folder, bucket)[1]
    path = folder / bucket / tables.shard_name(row["shard"])
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["bytes"] - 3] ^= 16
    path.write_bytes(data)
    (fault,) = faults(folder)
    assert fault.startswith(f"{bucket}/{row['key']}: ") and "not those that were written" in fault
    config = str(ws.config(chosen, tmp_path / "p.yaml"))
    assert ws.leave(verify.app, "--config", config, "--set-aside", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 1
    update(chosen, QUIET, lambda line: None)
    assert ws.shard_bytes(folder) == whole
    assert ws.leave(verify.app, "--config", config) == 0


def test_pictures_show_the_source_beside_what_became_of_it(
    made: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, sheet = str(ws.config(made[0], tmp_path / "p.yaml")), tmp_path / "sheet.png"
    assert ws.leave(verify.app, "--config", config, "--pictures", str(sheet), "--count", "5", "--json") == 0
    psnr = json.loads(capsys.readouterr().out)["psnr"]
    assert sheet.stat().st_size > 1000
    assert len(psnr) == 5 and min(psnr.values()) > 25  # the codec keeps smooth colours


def test_a_truncated_and_a_missing_tar(made: tuple[Recipe, Path]) -> None:
    folder = made[1]
    bucket = biggest(folder)
    path = folder / bucket / tables.shard_name(0)
    path.write_bytes(path.read_bytes()[: rows(folder, bucket)[1]["offset"] + 10])
    assert "ends before it" in faults(folder)[0]
    path.unlink()
    assert "is missing: run" in faults(folder)[0]


def test_a_nan_with_a_right_checksum(made: tuple[Recipe, Path]) -> None:
    """As an encoder that did not look would have written it."""
    folder = made[1]
    bucket = biggest(folder)
    index = rows(folder, bucket)
    path = folder / bucket / tables.shard_name(index[0]["shard"])
    data = bytearray(path.read_bytes())
    start, end = index[0]["offset"], index[0]["offset"] + index[0]["bytes"]
    tensors, notes = unpack(memoryview(bytearray(data[start:end])), "x")
    tensors["latent"].view(-1)[5] = float("nan")
    data[start:end] = pack(tensors, notes)
    path.write_bytes(data)
    index[0]["xxh3"] = xxhash.xxh3_64_intdigest(bytes(data[start:end]))
    table = tables.INDEX.empty_table().from_pylist(index, schema=tables.INDEX)
    tables.write_table(tables.index_path(str(folder), bucket), table)
    (fault,) = faults(folder)
    assert index[0]["key"] in fault and "latent holds NaN" in fault


def test_an_index_of_another_bucket(made: tuple[Recipe, Path]) -> None:
    folder = made[1]
    bucket = biggest(folder)
    other = next(name for name in tables.buckets(str(folder)) if name != bucket)
    shutil.copy(tables.index_path(str(folder), other), tables.index_path(str(folder), bucket))
    found = faults(folder)
    assert any("the index is of another cache" in fault for fault in found)
    assert any("planned, but not in the index" in fault for fault in found)


def test_nothing_is_stale_in_a_fresh_cache(made: tuple[Recipe, Path]) -> None:
    assert list(gc.stale(made[0])) == []


def test_old_caches_and_old_captions_are_listed_and_removed_on_request(
    made: tuple[Recipe, Path], files: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, folder = made
    old = folder.with_name("latents-00000000")
    shutil.copytree(folder, old)
    ws.fill(chosen, files, {row["clip_id"]: ["other words"] for row in files})
    update(chosen, QUIET, lambda line: None)
    config = str(ws.config(chosen, tmp_path / "p.yaml"))
    assert ws.leave(gc.app, "--config", config) == 0 and old.exists()
    listed = capsys.readouterr().out
    assert "latents-00000000: a cache of other settings" in listed and "older captions" in listed
    before = open_cache(chosen)
    assert ws.leave(gc.app, "--config", config, "--remove") == 0
    assert not old.exists() and list(gc.stale(chosen)) == [] and faults(folder) == []
    assert before.read(biggest(folder), [0])


def test_a_forgotten_clip_is_not_drawn_at_once_and_gone_after_gc(
    made: tuple[Recipe, Path], files: list[dict[str, Any]]
) -> None:
    chosen, folder = made
    bucket = biggest(folder)
    cache = open_cache(chosen)
    before = {one.clip_id: one for one in cache.read(bucket, range(len(cache.index(bucket))))}
    gone = rows(folder, bucket)[1]["clip_id"]
    stone = Path(chosen.workspace, "forgotten", f"clip-{gone}.json")
    stone.parent.mkdir()
    stone.write_text(json.dumps({"kind": "clips", "id": gone}))
    assert gone not in open_cache(chosen).ledger("videos")["clip_id"].to_pylist()
    drawn = [clip for batch in open_cache(chosen).epoch("clip", batch=2) for clip in batch.clip_ids]
    assert drawn and gone not in drawn
    found = list(gc.stale(chosen))
    assert sum(len(one.keys) for one in found) == 1
    gc.remove(chosen, found)
    assert all(gone.encode() not in path.read_bytes() for path in folder.rglob("*.tar"))
    after = open_cache(chosen)
    left = after.read(bucket, range(len(after.index(bucket))))
    assert {one.clip_id for one in left} == before.keys() - {gone}
    assert all(np.array_equal(one.latent.float(), before[one.clip_id].latent.float()) for one in left)
    assert all(one.texts[0].states.equal(before[one.clip_id].texts[0].states) for one in left)
    assert faults(folder) == [] and list(gc.stale(chosen)) == []
    again = update(chosen, QUIET, lambda line: None)
    assert (again.encoded, again.text_tars) == (0, 0)
