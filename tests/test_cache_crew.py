"""Several encoders on one plan, started by torchrun or on Ray, killed and started again: the shards of one quiet run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cache_workspace as ws
import pytest

from cache.fingerprint import cache_folder, latent_settings
from cache.read import open_cache
from cache.update import Options, update

ROOT = Path(__file__).resolve().parents[1]
SMALL = ws.DEFAULTS["cache"] | {"shard_bytes": 8_000}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cache.encode_latents")


def start(config: Path, *command: str) -> subprocess.Popen[str]:
    """In a process group of its own, so that it can be killed with all its processes."""
    told = [sys.executable, *command, "--config", str(config), "--workers", "0", "--device", "cpu"]
    return subprocess.Popen(told, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", [TORCHRUN, ("-m", "cache.encode_latents", "--ray", "--processes", "2")])
def test_a_crew_that_is_killed_and_started_again(tmp_path: Path, command: tuple[str, ...]) -> None:
    files: list[dict[str, Any]] = ws.footage(tmp_path, videos=9, images=5)
    quiet = ws.fill(ws.recipe(tmp_path / "quiet", cache=SMALL), files)
    expected = ws.shard_bytes(update(quiet, Options(workers=0, device="cpu"), lambda line: None).folder)
    chosen = ws.fill(ws.recipe(tmp_path / "crew", cache=SMALL), files)
    folder, config = Path(cache_folder(chosen, latent_settings(chosen))), ws.config(chosen, tmp_path / "p.yaml")
    process = start(config, *command)
    until = time.monotonic() + 120
    while not list(folder.rglob("*.tar")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # Ray's workers notice the end of their driver
    assert set(ws.shard_bytes(folder).items()) <= set(expected.items())
    again = start(config, *command)
    said = again.communicate(timeout=250)[0]
    assert again.returncode == 0, said[-2000:]
    assert ws.shard_bytes(folder) == expected
    assert not [path for path in folder.rglob("*") if path.suffix == ".part" or ".broken" in path.name]
    assert len(open_cache(chosen)) == 14
