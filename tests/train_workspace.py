"""A small workspace to train on, written by the cache's own shard writer: real codec latents of drawn pictures and clips,
real text states, ledgers with weights and splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import cache_folder, latent_settings, text_settings
from cache.members import pack
from cache.shards import writing_shard
from curate.tables import SCHEMAS, Tables, typed, write_part
from model import codec
from model.bytes_text import BytesText
from pipelines import Recipe, check, fingerprint

COLOURS = {"red": (1.0, -0.6, -0.6), "green": (-0.6, 0.8, -0.6), "blue": (-0.6, -0.4, 1.0), "grey": (0.1, 0.1, 0.1)}
SHAPES = ("disc", "bar")


class Clip(NamedTuple):
    clip_id: str
    caption: str
    video: torch.Tensor  # (3, T, H, W) in [-1, 1]
    weight: float
    split: str


def recipe(workspace: Path, stage: dict[str, Any] | None = None, more: dict[str, Any] | None = None) -> Recipe:
    """Two sets, two views (64px pictures and 5-frame clips), one stage `s` of the size `tiny`."""
    settings = {
        "feeds": [{"set": "images", "view": "picture", "share": 0.6}, {"set": "videos", "view": "clip", "share": 0.4}],
        "micro_batches": 2, "tokens": 64, "steps": 12, "lr": 1.0e-3, "checkpoint_every": 4, "validate_every": 6,
    }  # fmt: skip
    return check({
        "name": "test", "footage": [], "workspace": str(workspace),
        "sets": {"images": {"media": "image"}, "videos": {"media": "video"}},
        "views": {"picture": {"size": 64}, "clip": {"size": 64, "frames": 5, "fps": 8.0}},
        "cache": {"caption_variants": 2}, "model": "tiny", "stages": {"s": settings | (stage or {})},
        "curate": {"signals": {}},
    } | (more or {}))  # fmt: skip


def fill(chosen: Recipe, images: int = 10, videos: int = 6, per_shard: int = 4, val: int = 2, seed: int = 0) -> Recipe:
    """Write ledgers and cache of a recipe from recipe(). The last `val` clips of each set are for validation."""
    for name, view, count, bucket in (
        ("images", "picture", images, Bucket(1, 64, 64)), ("videos", "clip", videos, Bucket(5, 64, 64, 8.0)),
    ):  # fmt: skip
        clips = [clip(name, i, bucket.frames, count - val, seed) for i in range(count)]
        _ledger(chosen, name, clips)
        _bucket(chosen, view, bucket, clips, per_shard)
    return chosen


def clip(name: str, i: int, frames: int, train: int = 0, seed: int = 0) -> Clip:
    """A coloured shape that moves, number i of a set; clips before `train` are for training."""
    generator = np.random.default_rng([seed, len(name), i])
    colour, shape = list(COLOURS)[i % len(COLOURS)], SHAPES[i // len(COLOURS) % len(SHAPES)]
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    centre, speed = generator.uniform(-0.5, 0.5, 2), generator.uniform(-0.2, 0.2, 2)
    video = torch.full((3, frames, 64, 64), -0.2)
    for t in range(frames):
        away_x, away_y = x - centre[0] - speed[0] * t, y - centre[1] - speed[1] * t
        inside = away_x**2 + away_y**2 < 0.16 if shape == "disc" else away_x.abs() < 0.25
        for channel, value in enumerate(COLOURS[colour]):
            video[channel, t][inside] = value
    number = i + (1 << 20) * frames
    split = "train" if i < train else "val"
    return Clip(f"{number:016x}", f"a {colour} {shape}", video, 0.5 + 0.25 * (i % 5), split)


def _ledger(chosen: Recipe, name: str, clips: Sequence[Clip]) -> None:
    rows = [{"clip_id": c.clip_id, "kept": True, "reason": None, "weight": c.weight, "split": c.split} for c in clips]
    rows.append({"clip_id": "f" * 16, "kept": False, "reason": "motion 0.1 < 0.3", "weight": 0.0, "split": "train"})
    write_part(Tables(chosen).ledger_path(name), typed(rows, SCHEMAS["ledger"]))


def _bucket(chosen: Recipe, view: str, bucket: Bucket, clips: Sequence[Clip], per_shard: int) -> None:
    wanted, texts = latent_settings(chosen), text_settings(chosen)
    folder, made_by = cache_folder(chosen, wanted), fingerprint(texts)
    tables.write_json(f"{folder}/cache.json", {"settings": wanted, "text": {made_by: texts}})
    latents, states = [], []
    for shard, start in enumerate(range(0, len(clips), per_shard)):
        some = clips[start : start + per_shard]
        with writing_shard(f"{folder}/{bucket.name}/{tables.shard_name(shard)}") as tar:
            for clip in some:
                tensors = {"latent": codec.encode(clip.video[None])[0], **_conditions(chosen, clip)}
                tensors = {name: one.to(torch.bfloat16) for name, one in tensors.items()}
                tar.add(clip.clip_id, pack(tensors), {"clip_id": clip.clip_id})
        latents += [_row(clip, shard, place) for clip, place in zip(some, tar.places)]
        text_tar = tables.text_name(shard, made_by)
        with writing_shard(f"{folder}/{bucket.name}/{text_tar}") as tar:
            for clip in some:
                tar.add(clip.clip_id, _texts(clip.caption))
        extra = {"tar": text_tar, "captions": ["", ""]}
        for clip, place in zip(some, tar.places):
            lengths = [len(one.states) for one in BytesText().encode(_captions(clip.caption))]
            states.append(_row(clip, shard, place) | extra | {"lengths": lengths})
    tables.write_table(tables.index_path(folder, bucket.name), pa.Table.from_pylist(latents, tables.INDEX))
    path = tables.text_index_path(folder, bucket.name, made_by)
    tables.write_table(path, pa.Table.from_pylist(states, tables.TEXT_INDEX))
    rows = [{"clip_id": c.clip_id, "start_tick": 0, "bucket": bucket.name, "reason": None} for c in clips]
    tables.write_table(tables.view_path(folder, view), pa.Table.from_pylist(rows, tables.VIEW))


def _conditions(chosen: Recipe, clip: Clip) -> dict[str, torch.Tensor]:
    """What cache.encode stores beside a clip: its first frame encoded on its own, and that with noise, twice."""
    if not chosen.cache.conditions or clip.video.shape[1] == 1:
        return {}
    first = clip.video[None, :, :1]
    noise = torch.randn(2, *first.shape[1:], generator=torch.Generator().manual_seed(int(clip.clip_id, 16)))
    sigmas = torch.tensor([0.02, 0.08])
    noised = first + sigmas.view(-1, 1, 1, 1, 1) * noise
    return {"first_frame": codec.encode(first)[0], "noised_first_frame": codec.encode(noised), "sigmas": sigmas}


def _captions(caption: str) -> list[str]:
    return [caption, f"{caption} on grey"]


def _texts(caption: str) -> bytes:
    variants = BytesText().encode(_captions(caption))
    states = torch.cat([one.states for one in variants]).to(torch.bfloat16)
    pooled = torch.stack([one.pooled for one in variants]).to(torch.bfloat16)
    lengths = ",".join(str(len(one.states)) for one in variants)
    return pack({"states": states, "pooled": pooled}, {"variants": "0,1", "lengths": lengths})


def _row(clip: Clip, shard: int, place: Any) -> dict[str, Any]:
    return {"clip_id": clip.clip_id, "start_tick": 0, "shard": shard, "offset": place.offset, "bytes": place.bytes,
            "xxh3": place.xxh3, "key": place.key}  # fmt: skip
