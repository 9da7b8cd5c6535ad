"""Frames per second from files to shards, against the loop everybody writes first: read a clip, encode it, save it.

    python -m benchmarks.encode [--vae FOLDER] [--clips 24] [--side 256] [--frames 17] [--device cpu] [--json FILE]

Both read frames with the same function and encode with the same VAE (by default AutoencoderKLHunyuanVideo with random
weights, so small that reading takes about as long as encoding); the loop saves one safetensors file a clip, dailies
writes shards. They take turns, the best of three counts. On a CPU the VAE has one thread, as it has one GPU elsewhere.
`waits`: share of the time between the VAE's first and last batch in which it had nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch

import pipelines
from cache import index as tables
from cache.buckets import Bucket
from cache.encode import Job, make_latents, to_video
from cache.pixels import Crop, read_pixels
from cache.plan import Item, Shard
from cache.state import BucketState
from compat import mend_torchvision
from media.write import write_mp4
from model.vae import Vae, load_vae

FPS, PER_SHARD, ROUNDS, SOURCE = 24.0, 4, 3, (360, 640)
TINY = {"latent_channels": 16, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


class Watched:
    """A VAE, and when it works."""

    def __init__(self, vae: Vae, device: str):
        self.vae, self.device, self.channels = vae, torch.device(device), vae.channels
        self.busy, self.first, self.last = 0.0, 0.0, 0.0

    def encode(self, video: torch.Tensor) -> Any:
        started = time.perf_counter()
        found = self.vae.encode(video)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.last = time.perf_counter()
        self.first = self.first or started
        self.busy += self.last - started
        return found

    @property
    def waits(self) -> float:
        return 1 - self.busy / (self.last - self.first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("clips", 24), ("side", 256), ("frames", 17), ("workers", os.cpu_count())):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vae")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    if asked.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dailies-encode-") as name:
        found = _measured(Path(name), asked)
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def _measured(folder: Path, asked: Any) -> dict[str, Any]:
    recipe = pipelines.load(None, "demo", (f"cache.precision={'float32' if asked.device == 'cpu' else 'bfloat16'}",))
    bucket, vae = Bucket(asked.frames, asked.side, asked.side, FPS), _vae(folder, asked)
    items = _footage(folder, asked.clips, asked.frames)
    rates: dict[str, list[float]] = {"loop": [], "dailies": []}
    waits: dict[str, list[float]] = {"loop": [], "dailies": []}
    for turn in range(ROUNDS):
        for name in rates:
            watched, started = Watched(vae, asked.device), time.perf_counter()
            if name == "loop":
                _loop(folder / f"loop{turn}", items, bucket, watched)
            else:
                _ours(folder / f"dailies{turn}", items, bucket, watched, recipe, asked.workers)
            rates[name].append(asked.clips * asked.frames / (time.perf_counter() - started))
            waits[name].append(watched.waits)
    best = {name: int(np.argmax(some)) for name, some in rates.items()}
    told = {
        name: {"frames_per_s": round(rates[name][at], 1), "waits": round(waits[name][at], 3)}
        for name, at in best.items()
    }
    ratio = told["dailies"]["frames_per_s"] / told["loop"]["frames_per_s"]
    about = {"bucket": bucket.name, "clips": asked.clips, "device": asked.device, "load": os.getloadavg()}
    return {**told, "ratio": round(ratio, 2), **about, "peak_mb": _peak(asked.device)}


def _loop(folder: Path, items: list[Item], bucket: Bucket, vae: Watched) -> None:
    folder.mkdir()
    for item in items:
        video = to_video(read_pixels(item.path, item.start_s, item.crop, bucket)[None])
        latent = vae.encode(video.to(vae.device))[0][0].bfloat16().cpu()
        safetensors.torch.save_file({"latent": latent.contiguous()}, folder / f"{item.key}.safetensors")


def _ours(
    folder: Path, items: list[Item], bucket: Bucket, vae: Watched, recipe: pipelines.Recipe, workers: int
) -> None:
    state = BucketState(str(folder), bucket.name, print)
    groups = [items[at : at + PER_SHARD] for at in range(0, len(items), PER_SHARD)]
    crop = {f"crop_{side}": 0 for side in Crop._fields}
    rows = [
        {"shard": number, "key": item.key, "clip_id": item.clip_id, "start_tick": 0, **crop}
        for number, some in enumerate(groups)
        for item in some
    ]
    state.write_plan(pa.Table.from_pylist(rows, schema=tables.PLAN))
    job = Job(state, bucket, tuple(Shard(number, tuple(some)) for number, some in enumerate(groups)))
    make_latents(recipe, [job], vae, workers, lambda bucket, count: None, lambda: False)  # type: ignore[arg-type]
    if state.counts() != (len(items), 0):
        raise SystemExit(f"samples made and failed: {state.counts()}")


def _footage(folder: Path, clips: int, frames: int) -> list[Item]:
    """One H.264 file per four clips: drifting colours and noise, which cost a decoder what real footage does."""
    items, generator = [], np.random.default_rng(0)
    noise = generator.integers(0, 40, (64, *SOURCE, 3), dtype=np.uint8)
    y, x = np.mgrid[: SOURCE[0], : SOURCE[1]]
    for file in range(-(-clips // 4)):
        path = str(folder / f"{file}.mp4")
        waves = [np.sin((x * (1 + file % 3) + y) / 60 + t / 9)[..., None] * 80 + 100 for t in range(4 * frames + 2)]
        write_mp4(path, np.stack([wave + noise[t % 64] for t, wave in enumerate(waves)]).astype(np.uint8), FPS)
        for part in range(min(4, clips - 4 * file)):
            key = f"{file * 4 + part:016x}"
            items.append(Item(key, key, 0, part * frames / FPS, path, Crop()))
    return items


def _vae(folder: Path, asked: Any) -> Vae:
    if asked.vae is None:
        mend_torchvision()
        from diffusers import AutoencoderKLHunyuanVideo

        torch.manual_seed(0)
        AutoencoderKLHunyuanVideo(**TINY).save_pretrained(folder / "vae")
    precision = "float32" if asked.device == "cpu" else "bfloat16"
    return load_vae(asked.vae or str(folder / "vae"), asked.device, False, precision)


def _peak(device: str) -> int:
    """Of the GPU's memory, or of this process."""
    import resource

    if device == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
