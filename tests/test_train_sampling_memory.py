"""Drawing samples while a stage trains must not be what decides how much memory it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_workspace
import yaml
from torch import Tensor

from cache.read import open_cache
from model.codec import Codec, decode
from pipelines import resolved
from train import generate, stages
from train.data import stage_pools
from train.during import StageSamples
from train.memory import Live
from train.optim import Weights


def test_the_codec_decodes_a_clip_in_little_more_than_its_own_memory() -> None:
    latents = torch.randn(1, 16, 9, 8, 12)
    with Live([latents]) as live:
        video = Codec("cpu").decode(latents)
    assert live.peak <= 2.0 * video.nbytes  # the parts and what they are joined to; at once it was six times
    assert torch.allclose(video, decode(latents), atol=1e-5)
    clip = Codec("cpu").decode(latents.requires_grad_())
    assert clip.requires_grad


def test_a_clip_becomes_bytes_frame_by_frame() -> None:
    video = torch.rand(3, 33, 64, 96) * 2 - 1
    with Live([video]) as live:
        made = generate.to_uint8(video)
    assert made.shape == (33, 64, 96, 3) and live.peak <= 0.75 * video.nbytes  # bytes twice, and one frame


def test_samples_hold_less_than_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storages that live at once: of the samples beside the weights, and of one micro-batch's forward and backward."""
    monkeypatch.setattr("train.during.STEPS", 2)
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path, {"tokens": 320}))
    cache, stage = open_cache(recipe), recipe.stages["s"]
    feeds = stage_pools(cache, stage, stages.cost_of(recipe))
    weights = Weights(stages.build(stages.size_of(recipe), stages.widths_of(cache.settings), 0), stage)
    samples = StageSamples(recipe, stage, cache, feeds, torch.device("cpu"))
    known: list[Tensor | None] = [*weights.model.parameters()]
    with Live(known) as drawing, weights.averaged():
        assert samples.write(weights.model, 1, str(tmp_path))
    with Live(known) as learning:
        x, text = torch.randn(20, 16, 1, 8, 8), torch.randn(20, 24, cache.text_width)
        answer = weights.model(x, torch.rand(20), text, None, torch.randn(20, cache.pooled_width))
        answer.square().mean().backward()
    assert 0 < drawing.peak < learning.peak / 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_samples_raise_the_peak_of_the_process_by_at_most_5_percent(tmp_path: Path) -> None:
    """The command itself, each time in a process of its own, with and without samples."""
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    plain = {key: value for key, value in resolved(recipe).items() if key != "name"}
    config = tmp_path / "pipelines.yaml"
    config.write_text(yaml.safe_dump({"default": "test", "recipes": {"test": plain}}))
    peaks = [_peak(config, every) for every in ("null", "2")]
    assert (tmp_path / "runs/s/samples").is_dir()
    assert peaks[1] <= 1.05 * peaks[0]


def _peak(config: Path, every: str) -> int:
    """Kilobytes of the largest resident set of a run of 4 steps."""
    keys = (f"sample_every={every}", "steps=4", "tokens=1280", "checkpoint_every=4", "validate_every=2")
    sets = [part for key in keys for part in ("--set", f"stages.s.{key}")]
    command = [sys.executable, "-m", "train.run", "--config", str(config), "--stage", "s", "--fresh", *sets]
    told = "import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:]); _, s, u = os.wait4(p.pid, 0); "
    told += "print(u.ru_maxrss); sys.exit(os.waitstatus_to_exitcode(s))"
    done = subprocess.run([sys.executable, "-c", told, *command], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
