"""curate -> cache.encode_latents -> train.run with footage, workspace and shards in buckets: the losses of a local run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from media import storage
from tests.test_curate_run import CURATE
from tests.test_s3_store import store

__all__ = ["store"]

FILES = (
    "pans.mp4",
    "still.mp4",
    "turned.mp4",
    "squares.webm",
    "picture_temple.png",
    "picture_flower.jpg",
    "letter.mp4",
)
SMALL = (
    "curate.max_loss=0.5", "curate.val_share=0.2", "sets.base={}", "sets.video_256px={parent: base, media: video}",
    "views.image_256.size=64", "views.video_256={size: 64, frames: 9, fps: 12.0}",
    "stages.256px.steps=4", "stages.256px.tokens=64", "stages.256px.checkpoint_every=2", "stages.256px.sample_every=null",
    "stages.256px.validate_every=4",
)  # fmt: skip


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]


def losses(footage: str, workspace: str) -> list[dict[str, Any]]:
    """The three commands as they are typed; what metrics.jsonl says of each step."""
    place = ("--workspace", workspace)
    sets = tuple(part for one in SMALL for part in ("--set", one))
    run(*CURATE, "--local", "--footage", footage, *place, *sets)
    run(sys.executable, "-m", "cache.encode_latents", "--workers", "1", "--device", "cpu", *place, *sets)
    run(sys.executable, "-m", "train.run", "--stage", "256px", *place, *sets)
    lines = storage.read_bytes(storage.join(workspace, "runs", "256px", "metrics.jsonl")).decode().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_losses_from_buckets_are_those_from_a_disk(store: str, generated: Path, tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    footage.mkdir()
    for name in FILES:
        shutil.copy(generated / name, footage / name)
        storage.write_bytes(f"s3://films/end/{name}", (footage / name).read_bytes())
    near, far = losses(str(footage), str(tmp_path / "work")), losses("s3://films/end", "s3://films/end-work")
    assert [line["step"] for line in near] == [line["step"] for line in far] and len(near) >= 4
    for one, other in zip(near, far, strict=True):
        assert {key: value for key, value in one.items() if "loss" in key} == {
            key: value for key, value in other.items() if "loss" in key
        }
    assert any("loss" in line for line in near)
    assert storage.find("s3://films/end-work", ".tar")
