"""Batches read to their place: the numbers are those of the samples one by one, whichever way they were read."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cache_workspace as ws
import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash

from cache import index as tables
from cache import maps
from cache.blocks import Blocks, room_for
from cache.fingerprint import CacheError
from cache.members import pack, unpack
from cache.read import LatentCache
from cache.update import Options, update


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.fill(ws.recipe(folder, cache={"caption_variants": 2, "shard_bytes": 20_000}), ws.footage(folder))
    return Path(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "latents"))


def biggest(folder: Path) -> str:
    return max(tables.buckets(str(folder)), key=lambda name: len(LatentCache(str(folder)).index(name)))


def rewritten(folder: Path, bucket: str, change: Callable[[dict[str, torch.Tensor]], bytes]) -> None:
    """Every latent's tensors changed, as another writer would have written them: in tars and index."""
    rows = tables.read_table(tables.index_path(str(folder), bucket), tables.INDEX).to_pylist()
    for shard in {row["shard"] for row in rows}:
        path, data = folder / bucket / tables.shard_name(shard), b""
        old = path.read_bytes()
        for row in (row for row in rows if row["shard"] == shard):
            head = old[row["offset"] - 512 : row["offset"]]
            member = change(unpack(memoryview(bytearray(old[row["offset"] :][: row["bytes"]])), "x")[0])
            row |= {"offset": len(data) + 512, "bytes": len(member), "xxh3": xxhash.xxh3_64_intdigest(member)}
            data += head + member + bytes(-len(member) % 512)
        path.write_bytes(data)
    tables.write_table(tables.index_path(str(folder), bucket), pa.Table.from_pylist(rows, tables.INDEX))


def same(cache: LatentCache, bucket: str, rows: list[int], variants: list[int]) -> None:
    batch, samples = cache.gather(bucket, rows), cache.read(bucket, rows)
    assert torch.equal(batch.latent, torch.stack([one.latent for one in samples]))
    for name, tensor in batch.conditions.items():
        assert torch.equal(tensor, torch.stack([one.conditions[name] for one in samples]))
    states, mask, pooled = batch.texts.padded(variants)
    for i, (one, variant) in enumerate(zip(samples, variants)):
        wanted, n = one.texts[variant], len(one.texts[variant].states)
        assert torch.equal(states[i, :n], wanted.states) and not states[i, n:].any()
        assert mask[i].sum() == n and torch.equal(pooled[i], wanted.pooled)
        assert all(torch.equal(a.states, b.states) for a, b in zip(batch.texts[i], one.texts))


@pytest.mark.parametrize("check", ["first", "always", "never"])
def test_however_often_they_are_read(made: Path, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First with everything that is due, then without, then from maps; with plans that are remembered and without."""
    bucket, chosen = biggest(made), np.random.default_rng(0)
    for plans in (4096, 1):
        monkeypatch.setattr("cache.rows.PLANS", plans)
        cache = LatentCache(str(made), check=check)  # type: ignore[arg-type] (one of the three)
        count = len(cache.index(bucket))
        for _ in range(6):
            same(cache, bucket, chosen.integers(0, count, 7).tolist(), chosen.integers(0, 2, 7).tolist())
            same(cache, bucket, list(range(count)), [0] * count)
        tars = cache.maps._open.values()
        assert any(tar.taken > maps.AGAIN * tar.size for tar in tars)  # the last ones came from maps


@pytest.mark.parametrize("check", ["first", "always", "never"])
def test_variants_that_are_known_are_read_to_their_place(made: Path, check: str) -> None:
    """As numbers, as no text, and by what chooses them; what is due is looked at on the way."""
    bucket, generator = biggest(made), np.random.default_rng(1)
    cache = LatentCache(str(made), check=check)  # type: ignore[arg-type] (one of the three)
    plain, counts = LatentCache(str(made)), []
    assert cache.rows(bucket).texts.finite and cache.rows(bucket).latents.finite  # the encoder says so
    for _ in range(6):
        rows = generator.integers(0, len(cache.index(bucket)), 7).tolist()
        wanted = [None if one == 2 else one for one in generator.integers(0, 3, 7).tolist()]
        for variants in (wanted, lambda found, wanted=wanted: counts.append(found) or wanted):
            batch, samples = cache.gather(bucket, rows, variants), plain.read(bucket, rows)
            states, mask, pooled = batch.texts.padded()
            assert batch.texts.padded(wanted)[0] is states
            for i, (one, variant) in enumerate(zip(samples, wanted)):
                text = one.texts[variant or 0]
                n = 0 if variant is None else len(text.states)
                assert mask[i].sum() == n and torch.equal(states[i, :n], text.states[:n]) and not states[i, n:].any()
                assert torch.equal(pooled[i], torch.zeros_like(text.pooled) if variant is None else text.pooled)
            assert torch.equal(batch.texts.padded([1] * 7)[2], torch.stack([one.texts[1].pooled for one in samples]))
        assert counts[-1] == [2] * 7


def test_a_text_that_is_damaged_is_named_when_it_is_read_to_its_place(copy: Path) -> None:
    """In the variant that is asked for, in another one, and in the header."""
    bucket = biggest(copy)
    index = next((copy / bucket).glob("index.text-*.parquet"))
    row = tables.read_table(str(index), tables.TEXT_INDEX).to_pylist()[1]
    path = copy / bucket / row["tar"]
    whole = path.read_bytes()
    for at in (row["bytes"] - 1, row["bytes"] // 2, 3, 20):
        path.write_bytes(whole[: (at := at + row["offset"])] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for variant in (0, 1):
            with pytest.raises(CacheError, match=f"{row['key']} .text states."):
                LatentCache(str(copy)).gather(bucket, [0, 1], [variant] * 2)


@pytest.mark.parametrize("packed", [True, False])
def test_tensors_beside_the_latent_come_to_their_place(copy: Path, packed: bool) -> None:
    """In one read if they lie one behind the other, as we write them; else one by one."""
    bucket = biggest(copy)

    def more(tensors: dict[str, torch.Tensor]) -> bytes:
        data = pack(tensors | {"a": tensors["latent"][:1] * 2, "z": torch.arange(5)})
        return data if packed else data + bytes(64)

    rewritten(copy, bucket, more)
    cache = LatentCache(str(copy))
    for _ in range(4):
        same(cache, bucket, [3, 0, 1], [0, 1, 1])
    layout = cache.rows(bucket).layout
    assert layout is not None and layout.packed == packed
    assert set(cache.gather(bucket, [0]).conditions) == {"a", "z"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_that_is_not_finite_is_named_among_many(copy: Path, bad: float) -> None:
    bucket, seen = biggest(copy), []

    def spoilt(tensors: dict[str, torch.Tensor]) -> bytes:
        seen.append(0)
        if len(seen) == 3:
            tensors["latent"].view(-1)[7] = bad
        return pack(tensors)

    rewritten(copy, bucket, spoilt)
    rows = LatentCache(str(copy)).index(bucket)
    broken = next(i for i in range(len(rows)) if not _finite(copy, bucket, i))
    for _ in range(2):
        with pytest.raises(CacheError, match=f"{rows['key'][broken].as_py()}.*latent holds NaN"):
            LatentCache(str(copy)).gather(bucket, range(len(rows)))


def _finite(folder: Path, bucket: str, row: int) -> bool:
    try:
        LatentCache(str(folder)).read(bucket, [row])
    except CacheError:
        return False
    return True


@pytest.mark.parametrize("times", [1, 9])
def test_a_tar_that_is_cut_while_it_is_open_is_an_error_and_no_signal(copy: Path, times: int) -> None:
    """Where it is read, and where it is mapped."""
    bucket = biggest(copy)
    cache = LatentCache(str(copy))
    batch = cache.gather(bucket, [0, 1])
    for _ in range(times):
        again = cache.gather(bucket, [0, 1])
        _ = again.texts.padded() if times > 1 else None
    for path in (copy / bucket).glob("*.tar"):
        os.truncate(path, 600)
    with pytest.raises(CacheError, match="ends before it"):
        cache.gather(bucket, [0, 1])
    with pytest.raises(CacheError, match="ends before it"):
        again.texts.padded()
    assert batch.texts.padded()[0].isfinite().all()  # they were read when they were looked at


def test_a_batch_keeps_its_memory_and_another_one_takes_it_after(made: Path) -> None:
    bucket = biggest(made)
    cache = LatentCache(str(made))
    held = [cache.gather(bucket, [i]) for i in range(3)]
    kept = [one.latent[0].clone() for one in held]
    views = [one.latent[0, :1] for one in held]
    assert len({one.latent.data_ptr() for one in held}) == 3
    del held
    for _ in range(5):
        cache.gather(bucket, [3])
    assert all(torch.equal(view, one[:1]) for view, one in zip(views, kept))


def test_blocks_are_lent_once_at_a_time_and_used_again() -> None:
    blocks = Blocks()
    one = blocks.take(1000)
    place = one.ctypes.data
    assert place % 64 == 0
    tensor = torch.from_numpy(one).view(torch.bfloat16).view(10, 50)
    row = tensor[3]
    del one, tensor
    assert blocks.take(1000).ctypes.data != place
    array = row.view(torch.int16).numpy()[2:]
    del row
    assert blocks.take(1000).ctypes.data != place
    data = array.view(np.uint8).data[3:5]
    del array
    assert blocks.take(1000).ctypes.data != place
    del data
    held = [blocks.take(1000) for _ in range(4)]
    assert place in [one.ctypes.data for one in held] and sum(map(len, blocks._blocks.values())) == 4


def test_free_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.blocks.FREE_BYTES", 10_000)
    blocks = Blocks()
    for size in (1000, 2000, 4000, 8000, 16_000, 3000):
        blocks.take(size)
    assert sum(one.size for some in blocks._blocks.values() for one in some if one.free) <= 10_000 + 16_384


def test_room_is_of_the_shape_and_the_bytes_are_its_own() -> None:
    tensor, data = room_for((2, 3, 5), torch.bfloat16)
    data[:] = torch.arange(30).bfloat16().view(torch.uint8).numpy().tobytes()
    assert tensor.shape == (2, 3, 5) and torch.equal(tensor.flatten(), torch.arange(30).bfloat16())
    assert room_for((0, 3), torch.float32)[0].shape == (0, 3)


def test_a_batch_needs_a_row(made: Path) -> None:
    with pytest.raises(ValueError, match="needs a row"):
        LatentCache(str(made)).gather(biggest(made), [])
    for row in (-1, 1000):
        with pytest.raises(IndexError, match=f"row {row} of"):
            LatentCache(str(made)).gather(biggest(made), [0, row])
