"""Nothing that is broken is ever read as data: from a disk, a web server that gives parts, and one that gives none."""

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash

from cache import index as tables
from cache import shelf
from cache.fingerprint import CacheError
from cache.lookup import Identities, find
from cache.members import pack, unpack
from cache.read import LatentCache
from cache.update import Options, update


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.fill(ws.recipe(folder, cache={"caption_variants": 2, "shard_bytes": 20_000}), ws.footage(folder))
    return Path(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "PART_BYTES", 3_000)
    monkeypatch.setattr(shelf, "RETRY_S", (0.01,))


class Whole(SimpleHTTPRequestHandler):
    """A plain web server: whole files only."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Parts(Whole):
    """One that gives parts."""

    def do_GET(self) -> None:
        wanted, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().do_GET()
        data = path.read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if part else 416)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


class Place:
    """A damaged copy of the cache; opened() gives what the test reads it through."""

    def __init__(self, folder: Path, opened: Callable[[], LatentCache]):
        self.folder, self.opened = folder, opened
        names = tables.buckets(str(folder))
        self.bucket = max(names, key=lambda name: len(tables.read_table(self.index(name), tables.INDEX)))

    def index(self, bucket: str) -> str:
        return tables.index_path(str(self.folder), bucket)

    def rows(self) -> list[dict[str, Any]]:
        return tables.read_table(self.index(self.bucket), tables.INDEX).to_pylist()

    def tar(self, shard: int = 0) -> Path:
        return self.folder / self.bucket / tables.shard_name(shard)


@pytest.fixture(params=["disk", "parts", "whole"])
def place(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Place]:
    folder = Path(shutil.copytree(made, tmp_path / "latents"))
    if request.param == "disk":
        yield Place(folder, lambda: LatentCache(str(folder)))
        return
    handler = partial({"parts": Parts, "whole": Whole}[request.param], directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield Place(folder, lambda: LatentCache(url, shelf=str(tmp_path / "shelf")))
    server.shutdown()


def both(place: Place, row: int, match: str) -> None:
    """Sample by sample and in a batch it is the same error."""
    for read in ("read", "gather"):
        with pytest.raises(CacheError, match=match):
            getattr(place.opened(), read)(place.bucket, [row])


def test_what_is_whole_is_read(place: Place, made: Path) -> None:
    near, cache = LatentCache(str(made)), place.opened()
    for name in cache.buckets:
        rows = range(len(cache.index(name)))
        batch, samples = cache.gather(name, rows), near.read(name, rows)
        assert torch.equal(batch.latent, torch.stack([one.latent for one in samples]))
        assert all(torch.equal(a[0].states, b.texts[0].states) for a, b in zip(batch.texts, samples))


def test_two_readers_of_one_shelf_do_not_meet_in_a_half_fetched_file(place: Place) -> None:
    """One that is killed half way leaves a file of its own; a file that is mapped must never be cut."""
    one, other = place.opened(), place.opened()
    first = one.read(place.bucket, [0])[0].latent
    kept = first.clone()
    rows = range(len(other.index(place.bucket)))
    for cache in (other, one):
        assert torch.equal(cache.gather(place.bucket, rows).latent[0], kept)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("what", ["latents", "texts"])
def test_a_flipped_byte(place: Place, what: str) -> None:
    column = getattr(LatentCache(str(place.folder)).rows(place.bucket), what)
    path, start, size, _ = column.place(1)
    data = bytearray(Path(path).read_bytes())
    data[start + size - 1] ^= 1
    Path(path).write_bytes(data)
    both(place, 1, f"{place.rows()[1]['key']}.*not those that were written")


def test_a_truncated_tar(place: Place) -> None:
    row = place.rows()[1]
    tar = place.tar(row["shard"])
    tar.write_bytes(tar.read_bytes()[: row["offset"] + row["bytes"] - 1])
    both(place, 1, f"{row['key']}.*ends before it")


def test_a_missing_shard(place: Place) -> None:
    place.tar().unlink()
    both(place, 0, "missing or empty.*cache.verify")


def test_a_nan_with_a_right_checksum(place: Place) -> None:
    """As an encoder that did not look would have written it."""
    rows = place.rows()
    start, end = rows[0]["offset"], rows[0]["offset"] + rows[0]["bytes"]
    data = bytearray(place.tar(rows[0]["shard"]).read_bytes())
    tensors, notes = unpack(memoryview(bytearray(data[start:end])), "x")
    tensors["latent"].view(-1)[5] = float("nan")
    data[start:end] = pack(tensors, notes)
    place.tar(rows[0]["shard"]).write_bytes(data)
    rows[0]["xxh3"] = xxhash.xxh3_64_intdigest(bytes(data[start:end]))
    tables.write_table(place.index(place.bucket), pa.Table.from_pylist(rows, schema=tables.INDEX))
    both(place, 0, f"{rows[0]['key']}.*latent holds NaN")


def test_an_index_of_another_cache(place: Place) -> None:
    """The same places and checksums that nobody looks at: the names in the tar tell."""
    rows = [row | {"clip_id": f"{i:016x}", "key": f"{i:016x}"} for i, row in enumerate(place.rows())]
    tables.write_table(place.index(place.bucket), pa.Table.from_pylist(rows, schema=tables.INDEX))
    both(place, 0, "another member.*index is of another cache")


def test_an_index_of_an_older_form_says_what_to_do(place: Place) -> None:
    table = tables.read_table(place.index(place.bucket), tables.INDEX).drop_columns(["xxh3"])
    tables.write_table(place.index(place.bucket), table)
    both(place, 0, "no column xxh3.*encode_latents")


def test_find_is_a_join() -> None:
    generator = np.random.default_rng(0)
    held = [
        (int(clip), int(tick)) for clip, tick in zip(generator.integers(0, 50, 200), generator.integers(-2, 3, 200))
    ]
    wanted = [*dict.fromkeys(held), (51, 0), (3, 99), (0, -99)]
    last = {one: at for at, one in enumerate(held)}

    def columns(rows: list[tuple[int, int]]) -> Identities:
        return Identities(np.array([r[0] for r in rows], np.uint64), np.array([r[1] for r in rows], np.int64))

    assert find(columns(held), columns(wanted)).tolist() == [last.get(one, -1) for one in wanted]
    assert find(columns([]), columns(wanted)).tolist() == [-1] * len(wanted)
