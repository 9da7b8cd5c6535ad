"""Numbers, batches and epochs of a cache: complete, disjoint between ranks, in one order wherever the cache lies."""

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cache_workspace as ws
import fsspec
import numpy as np
import pytest
import torch

from cache import batches, order
from cache.read import LatentCache, open_cache
from cache.shelf import Fetch, Shelf
from cache.update import Options, update
from pipelines import Recipe
from train import plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, str]:
    """21 samples in four buckets, about two a shard."""
    folder = tmp_path_factory.mktemp("made")
    more = {"caption_variants": 2, "shard_bytes": 9_000, "conditions": ["first_frame"]}
    chosen = ws.fill(ws.recipe(folder, cache=more), ws.footage(folder, videos=9, images=12))
    return chosen, update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Ranged(Quiet):
    """Answers requests for parts, over connections that stay open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data, asked = Path(self.translate_path(self.path)).read_bytes(), self.headers.get("Range")
        first, last = asked.removeprefix("bytes=").split("-") if asked else ("0", "")
        stop = min(len(data), int(last) + 1) if last else len(data)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(stop - int(first)))
        self.end_headers()
        self.send_body(data[int(first) : stop])

    def send_body(self, data: bytes) -> None:
        self.wfile.write(data)


@pytest.fixture
def served(made: tuple[Recipe, str]) -> Iterator[str]:
    """The cache behind a plain web server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranged, directory=made[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def names(batches: Iterator[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(batch.bucket, batch.clip_ids) for batch in batches]


def test_numbers_go_through_the_buckets(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    assert len(cache) == 21
    each = [sample for name in cache.buckets for sample in cache.read(name, range(len(cache.index(name))))]
    assert [cache[at].clip_id for at in range(len(cache))] == [sample.clip_id for sample in each]
    assert cache[-1].clip_id == each[-1].clip_id
    assert cache[3].latent.data_ptr() == cache[3].latent.data_ptr()  # a view of the map
    for outside in (21, -22):
        with pytest.raises(IndexError):
            cache[outside]


def test_a_batch_is_its_samples_stacked(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    bucket = next(name for name in cache.buckets if name.startswith("9x48"))
    first = next(number for number in range(len(cache)) if cache.locate(number)[0] == bucket)
    batch, samples = cache.batch([first + 2, first, first + 2]), [cache[first + 2], cache[first], cache[first + 2]]
    assert batch.bucket == bucket and batch.clip_ids == tuple(one.clip_id for one in samples)
    assert torch.equal(batch.latent, torch.stack([one.latent for one in samples]))
    conditions = torch.stack([one.conditions["first_frame"] for one in samples])
    assert torch.equal(batch.conditions["first_frame"], conditions)
    states, mask, pooled = batch.texts.padded([1, 0, 1])
    for at, (one, variant) in enumerate(zip(samples, (1, 0, 1))):
        wanted = one.texts[variant]
        assert mask[at].sum() == len(wanted.states) and torch.equal(states[at][mask[at]], wanted.states)
        assert not states[at][~mask[at]].any() and torch.equal(pooled[at], wanted.pooled)
    assert all(
        torch.equal(a.states, b.states) for one, texts in zip(samples, batch.texts) for a, b in zip(one.texts, texts)
    )
    with pytest.raises(ValueError, match="one bucket"):
        cache.batch([0, 20])


def test_an_epoch_is_complete_and_shuffled_and_ranks_share_it(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    whole = names(cache.epoch("picture", batch=2, seed=1))
    held = Counter(clip for _, clips in whole for clip in clips)
    assert len(held) == 12 and set(held.values()) == {1}
    assert whole != names(cache.epoch("picture", batch=2, seed=1, epoch=1))
    assert whole == names(cache.epoch("picture", batch=2, seed=1, workers=0))
    shares = [names(cache.epoch("picture", batch=2, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    assert sorted([*shares[0], *shares[1]]) == sorted(whole)
    assert names(cache.epoch("picture", batch=2, seed=1, rank=1, world=2, start=2)) == shares[1][2:]


def test_weights_of_a_set_are_drawn(made: tuple[Recipe, str]) -> None:
    cache = open_cache(made[0])
    ledger = cache.ledger("videos")
    weights = np.linspace(0.0, 1.9, len(ledger))
    cache.ledger = lambda set_name: ledger.set_column(1, "weight", [weights])  # type: ignore[method-assign]
    drawn = Counter(
        clip for epoch in range(40) for batch in cache.epoch("clip", "videos", tokens=200, epoch=epoch) for clip in batch.clip_ids
    )  # fmt: skip
    for clip, weight in zip(ledger["clip_id"].to_pylist(), weights):
        assert abs(drawn[clip] - 40 * weight) <= 4


def test_the_rule_is_the_trainers() -> None:
    """Draws and the order inside a bucket are those of the trainer's plan for equal random numbers."""
    shards, weights = np.repeat(np.arange(40), 5), np.random.default_rng(0).uniform(0, 2, 200)
    counts = order.draws(weights, 0.3)
    assert np.array_equal(counts, plan.draws(weights, 0.3))
    pool = plan.Pool("b", 4, 1.0, np.arange(200), shards, np.zeros(200, "S16"), np.arange(200), weights)
    theirs, _ = plan._order(pool, counts, np.random.default_rng(5), 8)
    assert np.array_equal(order.Order(shards, counts, np.random.default_rng(5), 8)[:], theirs)
    assert order.WINDOW_SHARDS == plan.WINDOW_SHARDS


def test_one_order_from_a_map_a_store_and_a_web_server(made: tuple[Recipe, str], served: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(made[1], "/cache-epoch/latents", recursive=True)
    near = LatentCache(made[1])
    for place in ("memory://cache-epoch/latents", served):
        shelf = tmp_path / place[:4]
        far = LatentCache(place, shelf=str(shelf), shelf_bytes=50_000)
        assert far.buckets == near.buckets
        for one, other in zip(near.epoch("clip", batch=2), far.epoch("clip", batch=2), strict=True):
            assert one.clip_ids == other.clip_ids and torch.equal(one.latent, other.latent)
            assert torch.equal(one.texts[0][0].states, other.texts[0][0].states)
        assert sum(path.stat().st_size for path in shelf.iterdir()) <= 50_000


def test_a_fetched_shard_is_unmapped_when_there_are_too_many(made: tuple[Recipe, str], tmp_path: Path) -> None:
    """A file that is removed while it is mapped still takes room on the disk."""
    fsspec.filesystem("memory").put(made[1], "/cache-maps/latents", recursive=True)
    far = LatentCache("memory://cache-maps/latents", shelf=str(tmp_path), shelf_bytes=40_000)
    for _ in far.epoch("clip", batch=2, workers=0):
        assert far.maps.held_bytes() <= 60_000
    assert len(far.maps._open) < len(set(far.index(far.buckets[-1])["shard"].to_pylist())) * 2 + 12


def test_parts_are_fetched_in_the_order_in_which_they_are_needed(
    made: tuple[Recipe, str], served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a window of shards those that the first batch waits for, then those of the second; all others behind them."""
    monkeypatch.setattr("cache.shelf.PART_BYTES", 1000)
    asked: list[tuple[str, int]] = []
    submit = Shelf.submit

    def noted(self: Shelf, fetch: Fetch, number: int) -> Any:
        asked.append((fetch.wanted.path, number))
        return submit(self, fetch, number)

    monkeypatch.setattr(Shelf, "submit", noted)
    far = LatentCache(served, shelf=str(tmp_path / "shelf"))
    steps = order.steps(batches.pools(far, "clip", None, "train", 2, None), 0, 0)
    expected: list[tuple[str, int]] = []
    for step in (steps[i] for i in range(len(steps))):
        for column in (far.rows(step.bucket).latents, far.rows(step.bucket).texts):
            for row in step.rows:
                path, start, size, _ = column.place(row)
                expected += [(path, number) for number in range((start - 512) // 1000, (start + size - 1) // 1000 + 1)]
    read = list(far.epoch("clip", batch=2, workers=1))
    assert asked[: len(dict.fromkeys(expected))] == list(dict.fromkeys(expected))
    assert len(asked) == len(set(asked)) and len(read) == len(steps)


def test_an_answer_that_breaks_off_is_asked_for_again(made: tuple[Recipe, str], tmp_path: Path) -> None:
    """The server promises a part and hangs up in its middle, once for each: the batches are those of the local cache."""
    broken: set[str] = set()

    class Breaks(Ranged):
        def send_body(self, data: bytes) -> None:
            key = f"{self.path} {self.headers['Range']}"
            whole = key in broken or not self.path.endswith(".tar")
            broken.add(key)
            self.wfile.write(data if whole else data[: len(data) // 2])
            self.close_connection = not whole

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Breaks, directory=made[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    far = LatentCache(f"http://127.0.0.1:{server.server_port}", shelf=str(tmp_path))
    for one, other in zip(LatentCache(made[1]).epoch("clip", batch=2), far.epoch("clip", batch=2), strict=True):
        assert one.clip_ids == other.clip_ids and torch.equal(one.latent, other.latent)
    server.shutdown()
    assert sum(key.split()[0].endswith(".tar") for key in broken) > 3
