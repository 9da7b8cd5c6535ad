"""Several encoders on one plan, started by torchrun or on Ray, killed and started again: the shards of one quiet run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cache_workspace as ws
import numpy as np
import pytest
import torch

from cache.buckets import Bucket
from cache.crew import Crew, Torchrun
from cache.encode import _encoded, _Group
from cache.fingerprint import cache_folder, latent_settings
from cache.pixels import Crop
from cache.plan import Item
from cache.read import open_cache
from cache.update import Options, update
from scripts.demo import private_ray
from tests.test_curate_cluster import head

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


class Planner(Crew):
    """Makes nothing itself, as the process that plans for Ray."""

    alone = False  # type: ignore[assignment]

    def takes(self, position: int) -> bool:
        return False


def test_shards_that_others_made_elsewhere_are_missed(tmp_path: Path) -> None:
    """A machine that does not share the workspace writes to a disk of its own: not a run that succeeded."""
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), ws.footage(tmp_path, videos=3, images=2))
    with pytest.raises(
        RuntimeError, match=r"shards were made by others and are not here.* where all machines reach it"
    ):
        update(chosen, Options(workers=0, device="cpu"), lambda line: None, crew=Planner(0, 1))


def test_readers_are_shared_out_to_the_encoders_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight encoders with a reader per core each would be eight times too many."""
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL), ws.footage(tmp_path, videos=6, images=4))
    held: list[int] = []

    def stopping() -> bool:
        held.append(len(multiprocessing.active_children()))
        return False

    update(chosen, Options(device="cpu"), lambda line: None, stopping, Crew(0, 1, beside=3))
    assert max(held) == 2


class Greedy:
    """A VAE that asks for more memory than there is."""

    device = "cpu"

    def encode(self, video: torch.Tensor) -> Any:
        return torch.empty(1 << 55)


def test_samples_that_memory_does_not_hold_are_told_with_what_helps(tmp_path: Path) -> None:
    item, bucket = Item("a", "a" * 16, 0, 0.0, "x.mp4", Crop()), Bucket(5, 64, 64, 8.0)
    read = [(np.zeros((5, 64, 64, 3), np.uint8),)]
    wanted = (
        r"1 samples of bucket 5x64x64-8fps do not fit into memory .*`cache.tiling: true`, `cache.precision: bfloat16`"
    )
    with pytest.raises(RuntimeError, match=wanted):
        _encoded(ws.recipe(tmp_path), None, Greedy(), _Group(bucket, (item,), read))  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_an_encoder_on_ray_says_is_said_in_a_line(tmp_path: Path) -> None:
    chosen = ws.fill(ws.recipe(tmp_path, cache=SMALL | {"logvar": True}), ws.footage(tmp_path, videos=2, images=1))
    config = ws.config(chosen, tmp_path / "p.yaml")
    process = start(config, "-m", "cache.encode_latents", "--ray", "--processes", "1")
    said = process.communicate(timeout=250)[0]
    assert process.returncode == 1 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: ValueError: cache.logvar: this VAE has no log-variance")


def test_when_all_shards_are_there_the_gpus_of_a_machine_read_texts() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert Torchrun(0, 16, 8).devices(gpu) == [torch.device("cuda", k) for k in range(8)]
    assert Torchrun(0, 16, 8).devices(cpu) == [cpu] and Crew().devices(gpu) == [gpu]


DRIVER = """
import json, sys
import cache.make_texts, pipelines
from cache.on_ray import RayCrew
from cache.update import Options, update
def loaded(*_): raise AssertionError("the encoder was loaded where nothing is encoded")
cache.make_texts.text_of = loaded
recipe, options = pipelines.load(sys.argv[1]), Options(workers=0)
crew = RayCrew(pipelines.resolved(recipe), options._asdict(), None, lambda: False)
print(json.dumps(update(recipe, options, lambda line: None, crew=crew).text), flush=True)
crew.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_on_ray_texts_are_read_where_a_gpu_is(tmp_path: Path) -> None:
    """The machine that plans may have none: it never loads the encoder (a pretended GPU, on which nothing computes)."""
    files = ws.footage(tmp_path, videos=3, images=2)
    expected = ws.fill(ws.recipe(tmp_path / "quiet", cache=SMALL), files)
    alone = update(expected, Options(workers=0, device="cpu"), lambda line: None)
    chosen = ws.fill(ws.recipe(tmp_path / "crew", cache=SMALL), files)
    with private_ray("--num-cpus=2", "--num-gpus=1") as cluster:
        command = [sys.executable, "-c", DRIVER, str(ws.config(chosen, tmp_path / "p.yaml"))]
        environment = cluster[1] | {"RAY_ADDRESS": head(cluster), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == list(alone.text) and alone.text.computed > 0
    assert len(open_cache(chosen)) == len(open_cache(expected)) == 5
