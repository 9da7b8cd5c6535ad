"""The sides of benchmarks.encode, and the footage and weights they share."""

from __future__ import annotations

import argparse
import copy
import os
import resource
import shutil
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
from cache.encode import Job, Networks, make_latents
from cache.members import unpack
from cache.pixels import Crop
from cache.plan import Item, Shard
from cache.state import BucketState
from compat import keep_freed_memory, mend_torchvision
from media import storage
from media.frames import fit
from media.write import write_mp4
from model.vae import load_vae

FPS, PER_FILE, PER_SHARD, SOURCE = 24.0, 3, 3, (360, 640)
TINY = {"latent_channels": 16, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


class Watched:
    """A VAE's encode, and when it works."""

    def __init__(self, encode: Any, device: str):
        self._encode, self.device, self.channels = encode, torch.device(device), 16
        self.calls: list[tuple[float, float]] = []  # of all copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        other = Watched(copy.deepcopy(self._encode), str(self.device))
        other.calls = self.calls
        return other

    def encode(self, video: torch.Tensor) -> Any:
        started = time.perf_counter()
        found = self._encode(video)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.calls.append((started, time.perf_counter()))
        return found

    @property
    def waits(self) -> float:
        """Share of the time between the first and the last call in which no copy works."""
        calls = sorted(self.calls)
        busy, until = 0.0, calls[0][0]
        for start, stop in calls:
            busy += max(0.0, stop - max(start, until))
            until = max(until, stop)
        return 1 - busy / (until - calls[0][0])


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One side over all clips: frames per second, share of time the VAE waits, CPU seconds of its processes."""
    torch.set_grad_enabled(False)
    out = asked.folder / asked.side
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    side = _dailies(asked, out) if asked.side == "dailies" else _loop(asked, out)
    return side | {"peak_mb": _peak(asked.device)}


def prepare(folder: Path, asked: argparse.Namespace) -> None:
    """Random weights, and one H.264 file per PER_FILE clips: drifting colours and noise, as hard to decode as footage."""
    mend_torchvision()
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    AutoencoderKLHunyuanVideo(**(TINY if asked.size == "tiny" else {})).save_pretrained(folder / "vae")
    noise = np.random.default_rng(0).integers(0, 40, (16, *SOURCE, 3), dtype=np.uint8)
    y, x = np.mgrid[: SOURCE[0], : SOURCE[1]]
    for file in range(-(-asked.clips // PER_FILE)):
        waves = (
            np.sin((x * (1 + file % 3) + y) / 60 + t / 9)[..., None] * 80 + 100 for t in range(PER_FILE * asked.frames)
        )
        frames = np.stack([(wave + noise[t % 16]).astype(np.uint8) for t, wave in enumerate(waves)])
        write_mp4(str(folder / f"{file}.mp4"), frames, FPS)


def bucket_of(asked: argparse.Namespace) -> Bucket:
    return Bucket(asked.frames, asked.side_px, asked.side_px, FPS)


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {os.cpu_count()} cores"


def difference(folder: Path, loop: str) -> float:
    """Largest absolute difference between the latents that the loop saved and those in the shards."""
    held: dict[str, torch.Tensor] = {}
    bucket = tables.buckets(str(folder / "dailies"))[0]
    for row in tables.read_table(tables.index_path(str(folder / "dailies"), bucket), tables.INDEX).to_pylist():
        path = folder / "dailies" / bucket / tables.shard_name(row["shard"])
        data = bytearray(storage.read_range(str(path), row["offset"], row["bytes"]))
        held[row["key"]] = unpack(memoryview(data), path)[0]["latent"].float()
    theirs = {path.stem: safetensors.torch.load_file(path)["latent"].float() for path in (folder / loop).iterdir()}
    if held.keys() != theirs.keys():
        raise SystemExit(f"{len(held)} latents in the shards, {len(theirs)} of the loop")
    return max(float((held[key] - theirs[key]).abs().max()) for key in held)


def _items(asked: argparse.Namespace) -> list[Item]:
    keys = [f"{at:016x}" for at in range(asked.clips)]
    return [
        Item(key, key, 0, at % PER_FILE * asked.frames / FPS, str(asked.folder / f"{at // PER_FILE}.mp4"), Crop())
        for at, key in enumerate(keys)
    ]


def _loop(asked: argparse.Namespace, out: Path) -> dict[str, Any]:
    mend_torchvision()
    import decord
    from diffusers import AutoencoderKLHunyuanVideo

    if asked.side == "loop, one thread":
        torch.set_num_threads(1)
    dtype = torch.float32 if asked.device == "cpu" else torch.bfloat16
    network = AutoencoderKLHunyuanVideo.from_pretrained(asked.folder / "vae", torch_dtype=dtype).to(asked.device).eval()
    vae = Watched(lambda video: network.encode(video).latent_dist.mean, asked.device)
    network.encode(torch.zeros(1, 3, 1, asked.side_px, asked.side_px, dtype=dtype, device=asked.device))
    started, cpu_s = time.perf_counter(), time.process_time()
    for item in _items(asked):
        reader = decord.VideoReader(item.path)
        first = round(item.start_s * FPS)
        frames = reader.get_batch(range(first, first + asked.frames)).asnumpy()
        pixels = np.stack([fit(frame, (asked.side_px, asked.side_px)) for frame in frames])
        video = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latent = vae.encode(video.to(asked.device, dtype)) * network.config.scaling_factor
        safetensors.torch.save_file({"latent": latent[0].float().cpu().contiguous()}, out / f"{item.key}.safetensors")
    return _told(asked, started, cpu_s, vae)


def _dailies(asked: argparse.Namespace, out: Path) -> dict[str, Any]:
    recipe, bucket = pipelines.load(None, "demo", ("cache.dtype=float32",)), bucket_of(asked)
    state, items = BucketState(str(out), bucket.name, print), _items(asked)
    groups = [items[at : at + PER_SHARD] for at in range(0, len(items), PER_SHARD)]
    crop = {f"crop_{side}": 0 for side in Crop._fields}
    rows = [
        {"shard": number, "key": item.key, "clip_id": item.clip_id, "start_tick": 0, **crop}
        for number, some in enumerate(groups)
        for item in some
    ]
    state.write_plan(pa.Table.from_pylist(rows, schema=tables.PLAN))
    job = Job(state, bucket, tuple(Shard(number, tuple(some)) for number, some in enumerate(groups)))
    inner = load_vae(str(asked.folder / "vae"), asked.device, False, "float32" if asked.device == "cpu" else "bfloat16")
    vae = Watched(inner.encode, asked.device)
    inner.encode(torch.zeros(1, 3, 1, asked.side_px, asked.side_px))
    started, cpu_s = time.perf_counter(), time.process_time()
    if asked.device == "cpu":
        keep_freed_memory()
    make_latents(recipe, [job], Networks(vae), asked.workers, lambda bucket, count: None, lambda: False)  # type: ignore[arg-type]
    if state.counts() != (len(items), 0):
        raise SystemExit(f"samples made and failed: {state.counts()}")
    return _told(asked, started, cpu_s, vae)


def _told(asked: argparse.Namespace, started: float, cpu_s: float, vae: Watched) -> dict[str, Any]:
    """CPU seconds without those of readers, which are children that were killed and not waited for by rusage."""
    rate = asked.clips * asked.frames / (time.perf_counter() - started)
    readers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "frames_per_s": round(rate, 2),
        "waits": round(vae.waits, 4),
        "cpu_s": round(time.process_time() - cpu_s + readers.ru_utime + readers.ru_stime, 1),
    }


def _peak(device: str) -> int:
    """Of the GPU's memory, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
