"""A disk that fills up, and two encoders at once: one clear end, nothing half written, and the same command goes on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cache_workspace as ws
import pytest

from cache.behind import Behind
from cache.encode_latents import app
from cache.fingerprint import cache_folder, latent_settings
from cache.update import Options, update

ROOT = Path(__file__).resolve().parents[1]
SMALL = ws.DEFAULTS["cache"] | {"shard_bytes": 40_000}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ws.footage(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, files: list[dict[str, Any]]) -> dict[str, bytes]:
    chosen = ws.fill(ws.recipe(tmp_path_factory.mktemp("quiet"), cache=SMALL), files)
    return ws.shard_bytes(update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder)


def command(config: Path, workers: int = 0) -> list[str]:
    told = ["--config", str(config), "--workers", str(workers), "--device", "cpu"]
    return [sys.executable, "-m", "cache.encode_latents", *told]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_ends_cleanly_and_the_same_command_goes_on(
    tmp_path: Path, files: list[dict[str, Any]], quiet: dict[str, bytes], workers: int
) -> None:
    """A limit on the size of a file is how the kernel refuses bytes without a disk of our own: write() fails."""
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    folder, config = Path(cache_folder(chosen, latent_settings(chosen))), ws.config(chosen, tmp_path / "p.yaml")
    limit = sorted(len(data) for name, data in quiet.items() if ".text" not in name)[-1] - 1
    limited = f"import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.argv = sys.argv[1:]; runpy.run_module('cache.encode_latents', run_name='__main__')"
    full = [sys.executable, "-c", limited, *command(config, workers)[2:]]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part" or ".broken" in path.name]
    assert set(ws.shard_bytes(folder).items()) < set(quiet.items())
    assert ws.leave(app, *command(config)[3:]) == 0
    assert ws.shard_bytes(folder) == quiet


def test_two_at_once_are_one_or_one_after_the_other(
    tmp_path: Path, files: list[dict[str, Any]], quiet: dict[str, bytes]
) -> None:
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), files)
    config = ws.config(chosen, tmp_path / "p.yaml")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command(config), cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=250)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 3], [0, 0]), said
    assert ws.shard_bytes(cache_folder(chosen, latent_settings(chosen))) == quiet


def test_work_behind_is_in_order_and_its_error_comes_out() -> None:
    seen: list[int] = []
    with Behind() as behind:
        for k in range(3):
            behind.feed(lambda items: seen.extend(items), range(10 * k, 10 * k + 5))
        behind.feed(lambda items: seen.append(-1), [7, 8])  # takes none of its items
        behind.feed(lambda items: seen.extend(items), [99])
    assert seen == [*range(5), *range(10, 15), *range(20, 25), -1, 99]

    def fails(items: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), Behind() as behind:
        behind.feed(fails, range(100))
        for _ in range(100):
            behind.feed(lambda items: None, range(100))


def test_a_block_that_fails_abandons_what_is_written(tmp_path: Path) -> None:
    from cache.shards import writing_shard

    def write(items: Any) -> None:
        with writing_shard(str(tmp_path / "shard.tar")) as writer:
            for key in items:
                writer.add(key, b"tensors")

    def keys() -> Any:
        yield "one"
        raise RuntimeError("the VAE broke")

    with pytest.raises(RuntimeError, match="the VAE broke"), Behind() as behind:
        behind.feed(write, keys())
    assert list(tmp_path.iterdir()) == []
