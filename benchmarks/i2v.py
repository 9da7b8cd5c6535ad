"""Each variant of image to video, trained from one text-to-video stage: does a sampled clip keep its first frame?

    python -m benchmarks.i2v --workspace work/demo                  # after `curate`: a small start of its own, at 64 px
    python -m benchmarks.i2v --workspace work/demo --start 256px    # from a trained stage, on its views

Clips of the validation split are never trained on: their first frames are given, with their captions and equal noises,
to each variant and, as a control, captions and noises alone to the start. PSNR in dB against the true pixels: of frame 0
to the given image, of the frames after it to the clip. The `codec` line is the clip encoded and decoded: what the VAE
leaves. Guidance other than 1 adds up the errors of two predictions, and a small model's half without text is little
trained: frame 0 is told for each. Caches and runs go to a temporary folder, or to --folder, where the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

import commands
import pipelines
from cache.buckets import Bucket
from cache.pixels import read_pixels
from cache.read import Sample, open_cache
from cache.update import Options, ledgers, update
from media.write import grid
from model.conditioning import VARIANTS
from model.similarity import psnr
from model.vae import load_vae
from pipelines import Recipe
from train import conditions, flow, generate, loop, stages, trained
from train.data import stage_pools
from train.distributed import World

STEPS, SHOWN_PX, NOISED = 20, 96, 4
START = "i2v-start"
VIEWS = {
    "i2v_picture": {"size": 64, "frames": 1, "aspects": "square"},
    "i2v_clip": {"size": 64, "frames": 17, "fps": 24.0, "aspects": "square"},
}


class Held(NamedTuple):
    """A clip that was not trained on. pixels: uint8 (T, H, W, 3)."""

    bucket: str
    sample: Sample
    pixels: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe")
    parser.add_argument("--workspace", default="work/demo", help="curated; nothing is written there")
    parser.add_argument("--start", help="a trained stage of it; a small one is trained if absent")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--start-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=3000, help="of each variant; about 0.08 s of processor time each")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0], help="the first one is looked at")
    parser.add_argument("--folder", help="for caches and runs")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--picture", help="file (.jpg) for the picture")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dailies-i2v-") as temporary:
        compare(given, beside(given, Path(given.folder or temporary)))


def compare(given: argparse.Namespace, folder: Path) -> None:
    recipe = with_variants(given, folder)
    update(recipe, Options(device="cpu"), lambda line: print(line, file=sys.stderr))
    start = given.start or START
    seconds = {name: train(recipe, name) for name in ([] if given.start else [START]) + given.variants}
    clips = held_out(recipe, "concat", given.clips)
    named = {"start, no image": start} | {name: name for name in given.variants}
    every = {name: [draw(recipe, stage, clips, one) for one in given.guidance] for name, stage in named.items()}
    every["codec"] = [through_codec(recipe, clips)] * len(given.guidance)
    drawn = {name: videos[0] for name, videos in every.items()}
    rows = [
        {"variant": name, "seconds": seconds.get(name), **figures(videos[0], clips),
         "frame_0_guided": [figures(one, clips)["frame_0"] for one in videos[1:]]}
        for name, videos in every.items()
    ]  # fmt: skip
    print(f"{len(clips)} held-out clips, {given.steps} steps each from {start}, guidance {given.guidance[0]:g}\n")
    guided = "".join(f"{f'frame 0 at {one:g}':>15}" for one in given.guidance[1:])
    print(f"{'':<18}{'frame 0, dB':>12}{'worst clip':>12}{'after it, dB':>14}{guided}")
    for row in rows:
        told = "".join(f"{one:>15.1f}" for one in row["frame_0_guided"])
        print(f"{row['variant']:<18}{row['frame_0']:>12.1f}{row['frame_0_worst']:>12.1f}{row['after']:>14.1f}{told}")
    if given.json:
        told = {key: getattr(given, key) for key in ("start", "start_steps", "steps", "guidance")}
        Path(given.json).write_text(json.dumps({**told, "clips": len(clips), "rows": rows}, indent=1))
    if given.picture:
        shown = picture({name: videos for name, videos in drawn.items() if name != "codec"}, clips)
        cv2.imwrite(given.picture, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


# ------------------------------------------------------------------------------------------------------------ training


def beside(given: argparse.Namespace, folder: Path) -> Path:
    """A workspace with the tables of the given one, caches and runs of its own, and the run that is started from."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    source = Path(given.workspace).resolve()
    shared = [one for one in source.iterdir() if one.name != "runs" and not one.name.startswith("latents-")]
    for one in shared + ([source / "runs" / given.start] if given.start else []):
        place = folder / one.relative_to(source)
        if not place.exists():
            place.symlink_to(one)
    return folder


def with_variants(given: argparse.Namespace, folder: Path) -> Recipe:
    """The recipe with a stage per variant, all with the same data, steps and seed."""
    plain = pipelines.resolved(pipelines.load(None, given.recipe, (), workspace=str(folder)))
    plain["cache"] |= {"conditions": [conditions.CLEAN, conditions.NOISED], "noise_draws": NOISED}
    if given.start:
        first = plain["stages"][given.start]
    else:
        plain["views"] |= VIEWS
        feeds = [{"set": "image_256px", "view": "i2v_picture", "share": 0.3},
                 {"set": "video_256px", "view": "i2v_clip", "share": 0.7}]  # fmt: skip
        first = {"feeds": feeds, "micro_batches": 1, "tokens": 320, "steps": given.start_steps, "lr": 1.5e-3,
                 "warmup_steps": 20, "ema": 0.98, "validate_every": 100_000, "start": "identity",
                 "flow": {"sampler": "uniform", "shift": 3.0}}  # fmt: skip
    videos = [one for one in first["feeds"] if plain["views"][one["view"]]["frames"] > 1]
    plain["stages"] = {given.start or START: first} | {
        name: first | {
            "start": given.start or START, "feeds": videos, "steps": given.steps, "sample_every": None, "schedule": "cosine",
            "image_to_video": {"variant": name},
        }
        for name in VARIANTS
    }  # fmt: skip
    return pipelines.check(plain)


def train(recipe: Recipe, name: str) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    if not stages.complete(recipe, name):
        loop.train_stage(recipe, name, World(0, 1, torch.device("cpu")), commands.Stop(), loop.Options())
    return round(time.process_time() - began, 1)


# ------------------------------------------------------------------------------------------------------------ sampling


def held_out(recipe: Recipe, stage: str, count: int) -> list[Held]:
    cache, chosen = open_cache(recipe), recipe.stages[stage]
    placed = {(one.clip.clip_id, one.start_tick, one.bucket.name): one
              for rows in ledgers(recipe, stage).values() for one in rows if one.bucket}  # fmt: skip
    found = []
    for feed in stage_pools(cache, chosen, stages.cost_of(recipe)):
        for pool in feed.val:
            for sample in cache.read(pool.bucket, [int(row) for row in pool.rows]):
                one = placed[sample.clip_id, sample.start_tick, pool.bucket]
                pixels = read_pixels(one.clip.path, one.start_s, one.clip.crop, Bucket.parse(pool.bucket))
                found.append(Held(pool.bucket, sample, pixels))
    return found[:count]


def draw(recipe: Recipe, stage: str, clips: Sequence[Held], guidance: float) -> list[np.ndarray]:
    """A clip uint8 (T, H, W, 3) for each, of its caption, and of its first frame where the stage takes one."""
    found = trained.trained(recipe, stage)
    model, vae, made = trained.network(found, stage).eval(), load_vae(recipe.cache.vae), []
    cache = open_cache(recipe)
    for number, (name, sample, _) in enumerate(clips):
        bucket, chosen = Bucket.parse(name), recipe.stages[stage]
        given = conditions.validation_given(chosen, name, [sample], cache)
        channels, frames, *sides = bucket.latent_shape(16)
        shape = (channels, frames + (given.padded if given else 0), *sides)
        noise, shift = generate.noise_of(0, number, shape)[None], flow.shift_of(chosen.flow, bucket.tokens())
        latent = generate.latents(model, [sample.texts[0]], noise, STEPS, guidance, shift, given=given)
        made += generate.pixels(vae, latent)
    return made


def through_codec(recipe: Recipe, clips: Sequence[Held]) -> list[np.ndarray]:
    vae = load_vae(recipe.cache.vae)
    return [generate.pixels(vae, one.sample.latent[None].float())[0] for one in clips]


def figures(videos: Sequence[np.ndarray], clips: Sequence[Held]) -> dict[str, Any]:
    first = [likeness(video[:1], one.pixels[:1]) for video, one in zip(videos, clips)]
    after = [likeness(video[1:], one.pixels[1:]) for video, one in zip(videos, clips)]
    return {"frame_0": statistics.fmean(first), "frame_0_worst": min(first), "after": statistics.fmean(after)}


def likeness(made: np.ndarray, wanted: np.ndarray) -> float:
    return psnr(torch.from_numpy(made).float(), torch.from_numpy(wanted).float(), 255.0)


def picture(drawn: dict[str, list[np.ndarray]], clips: Sequence[Held], shown: int = 2) -> np.ndarray:
    """A row per variant; for each of some clips the given image, then frame 0, the middle and the last one."""
    cells = []
    for name, videos in drawn.items():
        cells.append(label(name))
        for number in range(min(shown, len(clips))):
            video = videos[number]
            wanted = [clips[number].pixels[0], video[0], video[len(video) // 2], video[-1]]
            cells += [cv2.resize(one, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA) for one in wanted]
    return grid(cells, 1 + 4 * min(shown, len(clips)))


def label(text: str) -> np.ndarray:
    paper = np.full((SHOWN_PX, SHOWN_PX, 3), 255, np.uint8)
    for line, word in enumerate(text.replace(", ", "_").split("_")):
        cv2.putText(paper, word, (4, 24 + 20 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return paper


if __name__ == "__main__":
    main()
