"""`python -m train.sample --stage 256px --prompt "..."`: pictures and clips from a trained stage."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import typer

import commands
import pipelines
from media import storage
from train.run import Config, Device, Overrides, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
STEPS = 30


class Shape(NamedTuple):
    """A picture has 1 frame and no fps."""

    frames: int
    height: int
    width: int
    fps: float | None


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="The trained stage.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="What to show; may be repeated.")] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", help="A file with one prompt per line.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="The first frame, for a stage that makes video of images.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="1 or 4n+1; those of the stage's views.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="px: 256 or HEIGHTxWIDTH; that of the views.")] = None,
    fps: Annotated[float, typer.Option("--fps", help="Of a clip with --frames.")] = 24.0,
    steps: Annotated[int, typer.Option("--steps", min=1)] = STEPS,
    guidance: Annotated[float | None, typer.Option("--guidance", help="1 is none; the stage's if absent.")] = None,
    shift: Annotated[float | None, typer.Option("--shift", help="Of the times; the stage's if absent.")] = None,
    solver: Annotated[str, typer.Option("--solver", help="euler or midpoint.")] = "euler",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="The weights themselves, not their average.")] = False,
    out: Annotated[str | None, typer.Option("--out", help="Folder; the run's samples/ if absent.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    device: Device = None,
) -> int:
    """Sample one PNG per prompt and picture shape, one MP4 per prompt and clip shape.

    Example: python -m train.sample --stage 256px --prompt "a red flower in the wind" --frames 17
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    wanted = _prompts(prompt, prompts)
    shapes = _shapes(settings, stage, frames, size, fps)
    from train import flow

    if solver not in flow.SOLVERS:
        raise pipelines.RecipeError(f"--solver: must be one of {', '.join(flow.SOLVERS)}, got {solver}")
    chosen = settings.stages[stage]
    rule = chosen.flow if shift is None else chosen.flow.model_copy(update={"shift": shift})
    if image is not None:
        shapes = _moving(chosen, stage, shapes)
    studio = _Studio(settings, stage, raw, device)
    folder = out or storage.join(studio.folder, "samples")
    for number, text in enumerate(wanted):
        for shape in shapes:
            first = None if image is None else _first_frame(image, shape)
            video = studio.draw(text, number, shape, steps, guidance or chosen.guidance, rule, solver, seed, first)
            kept = "" if first is None else f"   frame 0: {_psnr(video[0], first):.1f} dB of the image"
            print(f"{_write(folder, text, seed, shape, video)}{kept}", flush=True)
    return 0


class _Studio:
    """A trained stage with its text encoder and VAE."""

    def __init__(self, recipe: pipelines.Recipe, stage: str, raw: bool, device: str | None):
        from cache.networks import text_of
        from model.devices import best_device
        from model.vae import load_vae
        from train import stages, trained
        from train.optim import DTYPES

        self.folder = stages.run_folder(recipe, stage)
        found = trained.trained(recipe, stage, raw)
        self.device = best_device(device)
        self.widths = stages.widths_of(found.cache)
        used = found.recipe.stages[stage]
        self.model = trained.network(found, stage).to(self.device, DTYPES[used.precision]).eval()
        self.recipe, self.settings, self.images = found.recipe, found.cache, used.image_to_video
        cache = found.recipe.cache  # tiles, whatever the cache was made with: a 720p clip in one piece takes 76 GB
        self.vae = load_vae(cache.vae, self.device, tiling=True, precision=cache.precision)
        self.encoder = text_of(found.recipe, self.device)

    def draw(
        self, prompt: str, number: int, shape: Shape, steps: int, guidance: float, rule: pipelines.Flow, solver: str,
        seed: int, first: Any = None,
    ) -> Any:  # fmt: skip
        """uint8 (T, H, W, 3). first: the image (H, W, 3) that the clip begins with."""
        from cache.buckets import Bucket
        from train import flow, generate

        bucket = Bucket(*shape)
        channels, frames, *sides = bucket.latent_shape(self.widths.channels)
        given = None if first is None else self._given(first, frames)
        size = (channels, frames + (given.padded if given else 0), *sides)
        noise = generate.noise_of(seed, number, size)[None].to(self.device)
        texts = self.encoder.encode([prompt], image=shape.frames == 1)
        move = flow.shift_of(rule, bucket.tokens())
        return generate.pixels(
            self.vae, generate.latents(self.model, texts, noise, steps, guidance, move, solver, given)
        )[0]  # fmt: skip

    def _given(self, first: Any, frames: int) -> Any:
        from cache.encode import to_video
        from cache.networks import vae_of
        from train import conditions

        assert self.images is not None  # _moving saw to it
        image = vae_of(self.recipe, self.device).encode(to_video(first[None, None]).to(self.device))[0]
        given = conditions.give(self.images, image, frames, self.settings)
        return given._replace(seen=self._seen(first))

    def _seen(self, first: Any) -> Any:
        """Tokens of the image and of a black picture, where the stage was trained with them."""
        import numpy as np

        from train import semantic

        assert self.images is not None
        step = semantic.every(self.images, self.settings)
        if step is None:
            return None
        tokens = self._seer.encode(np.stack([first, np.zeros_like(first)]))[:, ::step].to(self.device)
        return semantic.Seen(tokens[:1], tokens[1])

    @cached_property
    def _seer(self) -> Any:
        from cache.networks import image_tokens_of

        return image_tokens_of(self.recipe, self.device)


def _prompts(given: Sequence[str] | None, path: str | None) -> list[str]:
    found = list(given or [])
    if path is not None:
        lines = storage.read_bytes(path).decode("utf-8").splitlines()
        found += [line.strip() for line in lines if line.strip()]
    if not found:
        raise pipelines.RecipeError("nothing to sample: give --prompt TEXT or --prompts FILE")
    return found


def _shapes(recipe: pipelines.Recipe, stage: str, frames: int | None, size: str | None, fps: float) -> list[Shape]:
    """What was asked for; without --frames one shape per view of the stage."""
    if stage not in recipe.stages:
        raise pipelines.RecipeError(f"--stage: no stage '{stage}', there are {', '.join(recipe.stages)}")
    views = [recipe.views[feed.view] for feed in recipe.stages[stage].feeds]
    height, width = _sides(size) if size else (None, None)
    if frames is not None:
        largest = max(view.size for view in views)
        return [Shape(_frames(frames), height or largest, width or largest, None if frames == 1 else fps)]
    found = [Shape(view.frames, height or view.size, width or view.size, view.fps if view.frames > 1 else None)
             for view in views]  # fmt: skip
    return list(dict.fromkeys(found))


def _moving(stage: pipelines.Stage, name: str, shapes: list[Shape]) -> list[Shape]:
    """The shapes that an image can begin. Raises RecipeError for a stage that was not trained on images."""
    if stage.image_to_video is None:
        raise pipelines.RecipeError(f"--image: stage '{name}' makes no video of images (it has no `image_to_video`)")
    found = [shape for shape in shapes if shape.frames > 1]
    if not found:
        raise pipelines.RecipeError("--image: a clip of it has more than one frame, give --frames 17, say")
    return found


def _first_frame(path: str, shape: Shape) -> Any:
    """uint8 (H, W, 3) of a picture or of a video's first frame, cut to the shape as the cache cuts clips."""
    from cache.buckets import Bucket
    from cache.pixels import Crop, read_pixels

    if not os.path.isfile(path):
        raise pipelines.RecipeError(f"--image: no file {path}")
    return read_pixels(path, 0.0, Crop(), Bucket(1, shape.height, shape.width))[0]


def _psnr(made: Any, wanted: Any) -> float:
    import torch

    from model.similarity import psnr

    return psnr(torch.from_numpy(made).float(), torch.from_numpy(wanted).float(), 255.0)


def _frames(frames: int) -> int:
    if frames % 4 != 1:
        raise pipelines.RecipeError(f"--frames: must be 1 or 4n+1 (the VAE's stride in time), got {frames}")
    return frames


def _sides(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not found or any(side <= 0 or side % 16 for side in sides):
        raise pipelines.RecipeError(f"--size: must be px like 256 or 256x384, multiples of 16, got {size}")
    return sides


def _write(folder: str, prompt: str, seed: int, shape: Shape, video: Any) -> str:
    from media import write

    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "no-text"
    name = f"{slug}-{shape.frames}x{shape.height}x{shape.width}-seed{seed}"
    if not storage.is_remote(folder):
        os.makedirs(folder, exist_ok=True)
    path = storage.join(folder, f"{name}.png" if shape.fps is None else f"{name}.mp4")
    if shape.fps is None:
        write.write_png(path, video[0])
    else:
        write.write_mp4(path, video, shape.fps)
    return path


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
