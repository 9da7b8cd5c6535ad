"""Samples while a stage trains: the same prompts and noises every time, so that only the weights change."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from cache.buckets import Bucket
from cache.networks import text_of
from cache.read import LatentCache
from compat import give_back_freed_memory
from media import write
from model.text import TextStates
from model.vae import load_vae
from pipelines import Recipe, Stage
from train import flow
from train.conditions import Given, validation_given
from train.data import FeedPools
from train.generate import latents, noise_of, pixels

PROMPTS = 4
STEPS = 20


class StageSamples:
    """Draws the stage's prompts, or the captions of its first validation clips when it names none."""

    def __init__(self, recipe: Recipe, stage: Stage, cache: LatentCache, feeds: Sequence[FeedPools],
                 device: torch.device):  # fmt: skip
        self.recipe, self.stage, self.cache, self.feeds, self.device = recipe, stage, cache, feeds, device

    def prepare(self) -> None:
        """Read the prompts, before the first step fills the memory: a language model may be as large as the network."""
        if self.stage.sample_every:
            assert self._texts
            release(self.device)

    def write(self, model: nn.Module, step: int, folder: str | None) -> list[str]:
        """One picture grid or one tiled clip per view of the stage. Returns the paths.

        Without a folder the latents are drawn and nothing is written, for processes that only hold their part.
        Memory: what a step has left goes back first, prompts are drawn one by one, a VAE decodes in tiles, whatever
        the cache was made with (benchmarks.sampling).
        """
        release(self.device)
        chosen = self.recipe.cache
        vae = None if folder is None else load_vae(chosen.vae, self.device, tiling=True, precision=chosen.precision)
        paths = []
        for name in dict.fromkeys(_commonest(feed) for feed in self.feeds):
            bucket = Bucket.parse(name)
            drawn = self._draw(model, bucket)
            if folder is None or vae is None:
                continue
            videos = pixels(vae, drawn)
            os.makedirs(os.path.join(folder, "samples"), exist_ok=True)
            path = os.path.join(folder, "samples", f"step-{step:08d}-{name}")
            paths.append(_write(path, videos, bucket.fps))
        del vae
        release(self.device)
        return paths

    def _draw(self, model: nn.Module, bucket: Bucket) -> torch.Tensor:
        shift = flow.shift_of(self.stage.flow, bucket.tokens())
        found = []
        for number, (text, given) in enumerate(self._asked(bucket)):
            channels, frames, *sides = bucket.latent_shape(self.cache.channels)
            shape = (channels, frames + (given.padded if given else 0), *sides)
            noise = noise_of(self.stage.seed, number, shape)[None].to(self.device)
            found.append(latents(model, [text], noise, STEPS, self.stage.guidance, shift, given=given))
        return torch.cat(found)

    def _asked(self, bucket: Bucket) -> list[tuple[TextStates, Given | None]]:
        """Texts, and for clips of an image-to-video stage the first frames of clips of this bucket with theirs."""
        if self.stage.image_to_video is None or bucket.frames == 1:
            return [(text, None) for text in self._texts[bucket.frames == 1]]
        pools = [pool for feed in self.feeds for pool in (*feed.val, *feed.train) if pool.bucket == bucket.name]
        rows = [int(row) for pool in pools for row in pool.rows][:PROMPTS]
        found = []
        for number, sample in enumerate(self.cache.read(bucket.name, rows)):
            given = validation_given(self.stage, bucket.name, [sample], self.cache)
            texts = self._texts[False] if self.stage.prompts else sample.texts
            text = texts[number % len(texts)] if self.stage.prompts else texts[0]
            found.append((text, given.to(self.device, torch.float32) if given else None))
        return found

    @cached_property
    def _texts(self) -> dict[bool, list[TextStates]]:
        """Of pictures (True) and of clips, read as the cache reads captions: an image may have a template of its own."""
        if self.stage.prompts:
            encoder, prompts = text_of(self.recipe, self.device), list(self.stage.prompts)
            return {picture: [TextStates(one.states.cpu(), one.pooled.cpu()) for one in encoder.encode(prompts, picture)]
                    for picture in (True, False)}  # fmt: skip
        pools = [(feed.val or feed.train)[0] for feed in self.feeds]
        rows = [(pool.bucket, int(row)) for pool in pools for row in pool.rows[:PROMPTS]][:PROMPTS]
        found = [self.cache.read(bucket, [row])[0].texts[0] for bucket, row in rows]
        return {True: found, False: found}


def release(device: torch.device) -> None:
    """Give back what was freed and is kept for the next tensor: it would be of another size."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back_freed_memory()


def _commonest(feed: FeedPools) -> str:
    return max(feed.train, key=lambda pool: len(pool.rows)).bucket


def _write(path: str, videos: list[np.ndarray], fps: float | None) -> str:
    columns = int(np.ceil(np.sqrt(len(videos))))
    if fps is None:
        write.write_png(f"{path}-grid.png", write.grid([video[0] for video in videos], columns))
        return f"{path}-grid.png"
    tiled = np.stack([write.grid([video[t] for video in videos], columns) for t in range(len(videos[0]))])
    write.write_mp4(f"{path}.mp4", tiled, fps)
    return f"{path}.mp4"
