"""Some samples decoded again beside the pixels they were made of: the eye sees a wrong crop, turn or colour at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.encode import to_video
from cache.networks import vae_of
from cache.pixels import Crop, read_pixels
from cache.read import LatentCache
from curate.tables import Tables
from model.devices import best_device
from pipelines import Recipe


class Pair(NamedTuple):
    """psnr: dB over all frames, RGB in [0, 255]; rgb: uint8 (H, 2 W, 3), the middle frame and what became of it."""

    name: str
    psnr: float
    rgb: np.ndarray


def decoded_back(recipe: Recipe, cache: LatentCache, count: int) -> Iterator[Pair]:
    """`count` samples, spread over the buckets. Raises FileNotFoundError when the footage is not there any more."""
    vae = vae_of(recipe, best_device())
    columns = ["clip_id", "path", "start_s", "start_tick", "tb_num", "tb_den"]
    clips = {row["clip_id"]: row for row in Tables(recipe).read("clips", columns).to_pylist()}
    for bucket, at in _spread(cache, count):
        (sample,) = cache.read(bucket, [at])
        clip = clips.get(sample.clip_id)
        if clip is not None:
            pixels = _pixels(cache, bucket, at, clip)
            with torch.no_grad():
                decoded = vae.decode(sample.latent[None].float().to(best_device()))[0].float().cpu()
            yield _pair(f"{bucket}/{sample.clip_id}", pixels, decoded)


def _spread(cache: LatentCache, count: int) -> list[tuple[str, int]]:
    """(bucket, row): the buckets in turn, in each one rows evenly apart."""
    rows = {name: len(cache.index(name)) for name in cache.buckets}
    each = math.ceil(count / max(1, len(rows)))
    chosen = {name: [k * held // min(each, held) for k in range(min(each, held))] for name, held in rows.items()}
    turns = [(name, some[k]) for k in range(each) for name, some in chosen.items() if k < len(some)]
    return turns[:count]


def _pixels(cache: LatentCache, bucket: str, at: int, clip: dict) -> np.ndarray:
    key = cache.index(bucket)["key"][at].as_py()
    plan = tables.read_table(tables.plan_path(cache.folder, bucket), tables.PLAN).to_pylist()
    row = next(one for one in plan if one["key"] == key)
    tick_s = clip["tb_num"] / clip["tb_den"] if clip["tb_den"] else 0.0
    start_s = clip["start_s"] + (row["start_tick"] - (clip["start_tick"] or 0)) * tick_s
    crop = Crop(*(row[f"crop_{side}"] for side in Crop._fields))
    return read_pixels(clip["path"], start_s, crop, Bucket.parse(bucket))


def _pair(name: str, pixels: np.ndarray, decoded: torch.Tensor) -> Pair:
    error = (decoded.clamp(-1, 1) - to_video(pixels[None])[0]) * 127.5
    psnr = 20 * math.log10(255 / max(1e-3, float(error.square().mean().sqrt())))
    middle = len(pixels) // 2
    picture = ((decoded[:, middle].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Pair(name, psnr, np.concatenate([pixels[middle], picture], axis=1))
