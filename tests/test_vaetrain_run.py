"""`python -m train.vae` from outside and inside: resume is exact, the folder it makes is taken by the cache's loader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import commands
import pipelines
from commands import Interrupted
from media.write import write_mp4, write_png
from model.vae import load_vae
from pipelines import RecipeError
from train import checkpoint, metrics, vae, vae_loop

ROOT = Path(__file__).resolve().parents[1]
NAME = "vae-256px"


class Asked:
    """The Stop of a run in this process: asks to stop once a checkpoint of that step is there."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    @property
    def number(self) -> int | None:
        return signal.SIGTERM if self.folder is not None and (self.folder / "checkpoints").is_dir() else None

    def check(self) -> None:
        if self.number is not None:
            raise Interrupted(self.number)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short films of drifting gradients and two pictures."""
    folder = tmp_path_factory.mktemp("films")
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    for number in range(4):
        waves = [128 + 100 * np.sin((across * (1 + number) + 2 * down + 5 * t) / 20.0) for t in range(24)]
        film = np.stack([np.stack([wave, wave[::-1], wave[:, ::-1]], axis=-1) for wave in waves])
        write_mp4(str(folder / f"film{number}.mp4"), film.astype(np.uint8), 24.0, crf=10)
        if number < 2:
            write_png(str(folder / f"picture{number}.png"), film[0].astype(np.uint8))
    return folder


def overrides(films: Path) -> dict[str, object]:
    phases = [
        {"steps": 4, "size": 32, "frames": 5, "batch": 2},
        {"steps": 3, "size": 48, "frames": 9, "batch": 1, "tiling": 0.5},
    ]
    return {
        "size": "nano", "phases": phases, "max_interval": 2, "lr": 2e-3, "holdout": [str(films / "film3.mp4")], "validate_every": 4,
        "checkpoint_every": 2, "keep_last": 9, "seed": 3, "losses": {"adversarial_start": 2},
    }  # fmt: skip


def recipe(films: Path, workspace: Path, **changes: Any) -> pipelines.Recipe:
    data = pipelines.resolved(pipelines.load(ROOT / "pipelines.yaml", "demo"))
    data |= {"footage": [str(films)], "workspace": str(workspace), "vae_stages": {NAME: overrides(films) | changes}}
    return pipelines.check(data)


def train(films: Path, workspace: Path, stop: Any = None, **changes: Any) -> str:
    options = vae_loop.Options(workers=1)
    return vae_loop.train_vae(recipe(films, workspace, **changes), NAME, "cpu", stop or Asked(), options)


def tensors(workspace: Path, step: int) -> dict[str, torch.Tensor]:
    folder = workspace / "runs" / NAME / "checkpoints" / f"step-{step:08d}"
    return {
        f"{path.stem}/{name}": one
        for path in sorted(folder.glob("*.safetensors"))
        for name, one in load_file(path).items()
    }


@pytest.fixture(scope="module")
def whole(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 7 steps that nobody interrupted."""
    workspace = tmp_path_factory.mktemp("whole")
    train(films, workspace)
    return workspace


def test_what_a_run_leaves(whole: Path) -> None:
    folder = whole / "runs" / NAME
    lines = metrics.read(str(folder / "metrics.jsonl"))
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 8))
    assert [("adversarial" in line) for line in steps] == [False, False, True, True, True, True, True]
    assert {line["size"] for line in steps[:4]} == {32} and {line["size"] for line in steps[4:]} == {48}
    judged = [line for line in lines if "validation" in line]
    assert [line["step"] for line in judged] == [0, 4, 7] and all(line["validation"]["clips"] == 1 for line in judged)
    assert (folder / "pictures" / "step-00000007.png").is_file()
    # A line's loss is the weighted sum of its parts.
    last = steps[-1]
    assert last["loss"] == pytest.approx(
        last["l1"] + 0.1 * last["perceptual"] + 0.05 * last["adversarial"] + 1e-6 * last["kl"], rel=1e-5
    )


def test_the_folder_is_taken_by_the_caches_loader(whole: Path) -> None:
    vae = load_vae(str(whole / "runs" / NAME / "vae"))
    video = torch.zeros(1, 3, 5, 32, 32)
    latents, logvar = vae.encode(video)
    assert latents.shape == (1, 16, 2, 4, 4) and logvar is not None and vae.decode(latents).shape == video.shape
    told = json.loads((whole / "runs" / NAME / "vae" / "training.json").read_text())
    assert told["step"] == 7 and told["stage"]["size"] == "nano" and "psnr_tiled" in told["held_out"]


def test_a_run_that_was_stopped_goes_on_to_equal_bytes(films: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(films, tmp_path, Asked(tmp_path / "runs" / NAME))
    halted = checkpoint.latest(str(tmp_path / "runs" / NAME))
    assert halted is not None and halted.step < 7
    train(films, tmp_path)
    here, there = tensors(tmp_path, 7), tensors(whole, 7)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    told = [
        [
            {k: v for k, v in line.items() if k not in ("seconds", "waited")}
            for line in metrics.read(str(one / "runs" / NAME / "metrics.jsonl"))
        ]
        for one in (tmp_path, whole)
    ]
    assert told[0] == told[1]


def test_a_run_does_not_go_on_with_other_footage_or_another_seed(films: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    with pytest.raises(RecipeError, match="seed: 3 -> 4"):
        train(films, tmp_path / "copy", seed=4)
    (tmp_path / "fewer").mkdir()
    for path in films.iterdir():
        if path.name != "film0.mp4":
            shutil.copy(path, tmp_path / "fewer")
    with pytest.raises(RecipeError, match="footage:"):
        train(tmp_path / "fewer", tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "smal"}, "no size 'smal'"),
        ({"phases": [{"steps": 1, "size": 30, "frames": 5, "batch": 1}]}, "multiple of 16"),
        ({"phases": [{"steps": 1, "size": 32, "frames": 4, "batch": 1}]}, "4n\\+1"),
        ({"max_interval": 8}, "8 apart"),
        ({"start": "pyramid", "precision": "bfloat16"}, "float32"),
        ({"start": "nowhere"}, "nowhere.* must be a diffusers folder"),
    ],
)
def test_what_cannot_be_trained_is_said_first(
    films: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        train(films, tmp_path, **changes)


def test_an_unknown_stage_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'vae-256px'"):
        vae_loop.stage_of(recipe(films, tmp_path), "vae-256")


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on_to_equal_bytes(films: Path, whole: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "train.vae",
        "--stage",
        NAME,
        "--workspace",
        str(tmp_path),
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    command += ["--set", f"footage=[{films}]", "--set", f"vae_stages={json.dumps({NAME: overrides(films)})}"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    checkpoints = tmp_path / "runs" / NAME / "checkpoints"
    while not (checkpoints.is_dir() and any(checkpoints.glob("step-*/state.json"))):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    here, there = tensors(tmp_path, 7), tensors(whole, 7)
    assert all(torch.allclose(here[name], there[name], atol=1e-5) for name in there)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_improves_held_out_footage_and_tiles_come_to_look_like_the_whole(films: Path, tmp_path: Path) -> None:
    """Drifting sine gradients: from a flat grey picture's PSNR to several dB more; then the phase that tiles at random."""
    phases = [
        {"steps": 150, "size": 32, "frames": 5, "batch": 4},
        {"steps": 40, "size": 64, "frames": 9, "batch": 1, "tiling": 0.5},
    ]
    train(
        films,
        tmp_path,
        phases=phases,
        validate_every=150,
        lr=3e-4,
        start="pyramid",
        losses={"adversarial": 0.0},
        ema=0.9,
    )
    lines = metrics.read(str(tmp_path / "runs" / NAME / "metrics.jsonl"))
    start, before, after = [line["validation_average"] for line in lines if "validation" in line]
    grey = 10 * np.log10(255**2 / (100**2 / 2))  # a sine of amplitude 100 around 128
    print(f"grey {grey:.2f} dB, start {start}, before tiling {before}, after {after}")
    assert after["psnr"] > grey + 6 and after["psnr"] > start["psnr"] + 1
    assert abs(after["psnr"] - after["psnr_tiled"]) < 0.5


def test_several_processes_are_refused_in_a_line(monkeypatch, capsys):
    """They would tell of a busy folder, all but one."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(SystemExit) as left:
        commands.run(lambda: vae.app(["--stage", "vae-256px"], standalone_mode=False))
    assert left.value.code == 2
    assert "trained by one process, torchrun started 8: run it without torchrun" in capsys.readouterr().err
