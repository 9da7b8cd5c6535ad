"""The probe tries the dearest bucket before step 0, names it when it does not fit, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import train_workspace
import yaml

from pipelines import check, resolved
from tests.test_train_resume import ALONE, StopAfter
from train import loop, probe
from train.step import sample_losses

LIMITED = """
import resource, sys, torch
from train import probe, run
import commands, model.lora, torch.utils.tensorboard.writer, cache.read, train.loop
torch.zeros(8, 8) @ torch.zeros(8, 8)
def limited(*given):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]), resource.RLIM_INFINITY))
    return found(*given)
found = probe.probe
train.loop.probe = limited
commands.main(lambda: run.app(sys.argv[2:], standalone_mode=False))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    recipe = train_workspace.fill(train_workspace.recipe(folder, {"steps": 2, "tokens": 64}))
    plain = {key: value for key, value in resolved(recipe).items() if key != "name"}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"default": "test", "recipes": {"test": plain}}))
    return folder


def start(folder: Path, *more: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    given = ["--config", str(folder / "pipelines.yaml"), "--stage", "s", "--device", "cpu", "--probe", *more]
    how = ["-m", "train.run"] if limit is None else ["-c", LIMITED, str(limit)]
    return subprocess.run([sys.executable, *how, *given], capture_output=True, text=True)


def losses(folder: Path) -> list[float]:
    lines = (folder / "runs" / "s" / "metrics.jsonl").read_text().splitlines()
    return [one["loss"] for one in map(json.loads, lines) if "loss" in one]


def test_a_probed_run_says_what_it_took_and_trains_as_if_it_had_not_been(folder) -> None:
    done = start(folder)
    assert done.returncode == 0, done.stderr
    assert "probed the dearest bucket, 1x64x64 (4 samples of 16 tokens)" in done.stdout
    probed = losses(folder)
    given = ["--config", str(folder / "pipelines.yaml"), "--stage", "s", "--device", "cpu", "--fresh"]
    again = subprocess.run([sys.executable, "-m", "train.run", *given], capture_output=True, text=True)
    assert again.returncode == 0 and losses(folder) == probed


@pytest.mark.skipif(sys.platform != "linux", reason="a process's memory is limited through RLIMIT_AS")
def test_an_oversized_bucket_is_named_before_the_first_step(folder) -> None:
    done = start(folder, "--fresh", "--set", "stages.s.tokens=80000", limit=1 << 30)
    assert done.returncode == 2, done.stderr
    assert "--probe: bucket 1x64x64 (5000 samples of 16 tokens) does not fit into memory" in done.stderr
    assert not (folder / "runs" / "s" / "checkpoints").exists()


def test_losses_on_pixels_are_probed_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(model, batch, asked, judges=None):
        seen.append((asked.perceptual, judges))
        return sample_losses(model, batch, asked, judges)

    monkeypatch.setattr(probe, "sample_losses", spy)
    plain = yaml.safe_load((folder / "pipelines.yaml").read_text())["recipes"]["test"]
    plain["stages"]["s"] |= {"losses": {"perceptual": 0.1}, "steps": 1}
    options = loop.Options(workers=1, fresh=True, probe=True)
    loop.train_stage(check({"name": "test", **plain}), "s", ALONE, StopAfter(), options)
    assert [asked for asked, _ in seen] == [0.1, 0.1] and all(judges is not None for _, judges in seen)
