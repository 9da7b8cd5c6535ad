"""Training a VAE: start or go on, step by step, until it is done or somebody asks to stop."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from commands import Stop, hold
from media.write import write_png
from model.devices import best_device
from model.discriminator import build_discriminator
from model.perceptual import load_perceptual
from model.vae_sizes import VAE_SIZES, build_vae
from model.vae_start import STARTS
from pipelines import Recipe, RecipeError, VaeStage, resolved
from recipe_file import suggest
from train import checkpoint, vae_data, vae_export
from train.folder import RunFolder
from train.metrics import Metrics, Progress
from train.optim import Weights, learning_rate
from train.stages import run_folder
from train.vae_check import Judged, held_out, judge
from train.vae_data import Listing
from train.vae_step import Networks, ends_phase, phase_at, tile_of, train_step

FIXED = ("size", "images", "max_interval", "seed", "precision")  # what a resumed run may not change
MEASURED = 16  # training batches that the scaling factor is measured on


class Options(NamedTuple):
    """workers: threads that read ahead; as_json: progress for machines; fresh: set an earlier run aside first."""

    workers: int = 2
    as_json: bool = False
    fresh: bool = False


class Run(NamedTuple):
    recipe: Recipe
    name: str
    stage: VaeStage
    listing: Listing
    nets: Networks
    folder: RunFolder
    judged_on: list[Tensor]


def train_vae(recipe: Recipe, name: str, device: str | None, stop: Stop, options: Options) -> str:
    """Train a VAE stage to its end, from its newest checkpoint if there is one. Returns the diffusers folder's path.

    Raises RecipeError before anything is changed, commands.Interrupted after saving, FloatingPointError on a NaN.
    """
    stage = stage_of(recipe, name)
    folder = RunFolder(run_folder(recipe, name))
    with hold(folder.path, "train"):
        if options.fresh:
            folder.set_aside()
        progress = Progress(name, 0, stage.steps, options.as_json, sys.stdout)
        run = _open(recipe, name, stage, folder, device, progress)
        start = _go_on(run, progress)
        if start < stage.steps:
            folder.write_recipe(resolved(recipe))
            _loop(run, start, stop, options, progress)
        progress.tell(f"{name}: {stage.steps} steps done; the VAE is {vae_folder(run)}, for `cache.vae`")
        return vae_folder(run)


def stage_of(recipe: Recipe, name: str) -> VaeStage:
    """Raises RecipeError for an unknown stage, or one that can't be trained."""
    if name not in recipe.vae_stages:
        known = ", ".join(recipe.vae_stages) or "none"
        raise RecipeError(
            f"no vae stage '{name}'{suggest(name, recipe.vae_stages)}; recipe '{recipe.name}' has {known}"
        )
    stage = recipe.vae_stages[name]
    if stage.size not in VAE_SIZES:
        raise RecipeError(f"vae_stages.{name}.size: no size '{stage.size}', there are {', '.join(VAE_SIZES)}")
    if stage.start == "pyramid" and stage.precision != "float32":
        raise RecipeError(f"vae_stages.{name}.precision: must be float32 to start as a pyramid, whose signal rides on "
                          "constants that are larger by far")  # fmt: skip
    for index, phase in enumerate(stage.phases):
        if phase.frames % 4 != 1 or phase.size % 16:
            place = f"vae_stages.{name}.phases.{index}"
            raise RecipeError(
                f"{place}: frames must be 4n+1 and size a multiple of 16, got {phase.frames}, {phase.size}"
            )
    return stage


def build(stage: VaeStage, device: torch.device) -> Networks:
    vae = build_vae(stage.size, stage.seed, stage.start if stage.start in STARTS else "random")
    if stage.start not in STARTS:
        vae.load_state_dict(_start_weights(stage.start))
    critic = build_discriminator(stage.seed + 1)
    like = cast(Any, stage)  # what Weights asks a stage for, a VAE's has too
    perceptual = load_perceptual(stage.losses.perceptual_weights, device)
    return Networks(Weights(vae.to(device), like), Weights(critic.to(device), like), perceptual, device)


def vae_folder(run: Run) -> str:
    return os.path.join(run.folder.local, "vae")


def _start_weights(folder: str) -> dict[str, Tensor]:
    path = os.path.join(folder, "diffusion_pytorch_model.safetensors")
    if not os.path.isfile(path):
        raise RecipeError(f"start: {path} is not there; it must be a diffusers folder, or one of {', '.join(STARTS)}")
    return load_file(path)


def _open(recipe: Recipe, name: str, stage: VaeStage, folder: RunFolder, device: str | None, progress: Progress) -> Run:
    listing = vae_data.list_footage(recipe.footage, stage.holdout)
    vae_data.check_lengths(stage, listing.train)
    progress.tell(f"{name}: {len(listing.train)} files to train on, {len(listing.holdout)} held out, "
                  f"{len(listing.left_out)} left out")  # fmt: skip
    for path, reason in listing.left_out:
        progress.tell(f"  left out: {path}: {reason}")
    last = stage.phases[-1]
    chosen = best_device(device)
    judged_on = held_out(listing.holdout, last.frames, last.size)
    return Run(recipe, name, stage, listing, build(stage, chosen), folder, judged_on)


def _go_on(run: Run, progress: Progress) -> int:
    """Load the newest checkpoint. Returns the number of updates done."""
    found = checkpoint.latest(run.folder.path)
    if found is None:
        return 0
    before, now = found.state["fixed"], _fixed(run)
    lines = [f"{key}: {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    if lines:
        raise RecipeError(f"{found.path} was trained on something else:\n  " + "\n  ".join(lines) + "\n"
                          "go back to it, or start anew with --fresh (the old run is set aside)")  # fmt: skip
    tensors = checkpoint.load(found)
    run.nets.vae.load(tensors["model"], tensors["average"], tensors["optimiser"])
    run.nets.critic.load(tensors["critic"], tensors["critic"], tensors.get("critic_optimiser", {}))
    progress.tell(f"{run.name}: going on from step {found.step} ({found.path})")
    return found.step


def _fixed(run: Run) -> dict[str, Any]:
    plain = run.stage.model_dump(mode="json")
    return {key: plain[key] for key in FIXED} | {"footage": run.listing.fingerprint()}


def _loop(run: Run, start: int, stop: Stop, options: Options, progress: Progress) -> None:
    stage, nets = run.stage, run.nets
    metrics = Metrics(run.folder.local, start)

    def load(step: int) -> Tensor:
        return vae_data.batch(stage, phase_at(stage, step), run.listing.train, step)

    batches = vae_data.read_ahead(load, start, stage.steps, options.workers)
    with closing(batches), closing(metrics):
        if start == 0 and run.judged_on:
            _tell(run, 0, _judge(run), progress, metrics)
        for step in range(start, stage.steps):
            began = time.monotonic()
            video = vae_data.to_signed(next(batches), nets.device)
            waited = time.monotonic() - began
            record = train_step(nets, stage, video, step) | {"lr": learning_rate(cast(Any, stage), step)}
            record |= _cost(video, time.monotonic() - began, waited)
            metrics.write(step + 1, record)
            progress.update(step + 1, record)
            last, asked = step + 1 == stage.steps, stop.number is not None
            if last or (step + 1) % stage.validate_every == 0 or ends_phase(stage, step):
                _look(run, step + 1, metrics, progress)
            if last or asked or (step + 1) % stage.checkpoint_every == 0:
                _save(run, step + 1)
            if asked and not last:
                break
    run.folder.publish()
    stop.check()


def _cost(video: Tensor, seconds: float, waited: float) -> dict[str, Any]:
    """tokens: latent positions."""
    batch, _, frames, height, width = video.shape
    shape = {"samples": batch, "frames": frames, "size": height}
    tokens = batch * ((frames - 1) // 4 + 1) * (height // 8) * (width // 8)
    return shape | {"tokens": tokens, "seconds": round(seconds, 4), "waited": round(waited, 4)}


def _look(run: Run, step: int, metrics: Metrics, progress: Progress) -> None:
    """Judge the weights and their average on the held-out clips, and export the better ones."""
    if not run.judged_on:
        progress.tell(f"{run.name}: nothing held out is as large as {run.stage.phases[-1].size} px: not judged")
        _export(run, step, {})
        return
    raw = _judge(run)  # a phase's end is looked at, so that the last one shows what it did for tiles
    with run.nets.vae.averaged():
        average = _judge(run)
        if average.psnr >= raw.psnr:
            _export(run, step, average.record())
    if average.psnr < raw.psnr:
        _export(run, step, raw.record())
    best = max(raw, average, key=lambda one: one.psnr)
    path = os.path.join(run.folder.local, "pictures", f"step-{step:08d}.png")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_png(path, _stacked(best.rows))
    _tell(run, step, best, progress, metrics, raw, average, f"; {path}")


def _tell(
    run: Run, step: int, best: Judged, progress: Progress, metrics: Metrics, raw: Judged | None = None,
    average: Judged | None = None, more: str = "",
) -> None:  # fmt: skip
    metrics.write(step, {"validation": (raw or best).record(), "validation_average": (average or best).record()})
    progress.tell(f"{run.name}  {step}/{run.stage.steps}  {best.psnr:.2f} dB ({best.psnr_tiled:.2f} in tiles), SSIM "
                  f"{best.ssim:.4f} on {best.clips} held-out clips{more}")  # fmt: skip


def _judge(run: Run) -> Judged:
    return judge(run.nets.vae.model, run.judged_on, tile_of(run.stage.phases[-1]), run.nets.device)


def _stacked(rows: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(rows, axis=0)


def _export(run: Run, step: int, figures: dict[str, Any]) -> None:
    stage, device = run.stage, run.nets.device
    videos = [vae_data.to_signed(vae_data.batch(stage, phase_at(stage, k), run.listing.train, k), device)
              for k in range(stage.steps, stage.steps + MEASURED)]  # fmt: skip  # batches that are not trained on
    plain = json.loads(json.dumps(stage.model_dump(mode="json")))
    vae_export.export(run.nets.vae.model, videos, vae_folder(run), {"step": step, "held_out": figures, "stage": plain})


def _save(run: Run, step: int) -> None:
    nets = run.nets
    tensors = {
        "model": {name: one.detach() for name, one in nets.vae.masters.items()},
        "average": nets.vae.average,
        "optimiser": nets.vae.state(),
        "critic": {name: one.detach() for name, one in nets.critic.masters.items()},
        "critic_optimiser": nets.critic.state(),
    }
    checkpoint.save(run.folder.path, step, tensors, {"stage": run.name, "fixed": _fixed(run)})
    checkpoint.prune(run.folder.path, run.stage.keep_last, ())
    run.folder.publish()
