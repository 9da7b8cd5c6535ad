"""Pixels -> latents -> shards. The VAE sees one bucket at a time; frames are read ahead of it and tars written behind it,
and appear whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch

from cache.behind import Behind
from cache.buckets import Bucket
from cache.lanes import Lanes, Load
from cache.members import pack
from cache.plan import Item, Shard
from cache.readers import Request, Result, read_ahead
from cache.shards import writing_shard
from cache.state import BucketState
from model.devices import lack_of_memory
from model.image_tokens import ImageTokens
from model.sync import RATE, sound_features
from model.vae import Vae
from pipelines import Recipe

BATCH_PIXELS = 4 * 17 * 512 * 512  # px of all frames that go through a VAE on a GPU at once
LOG_SIGMA = (-3.0, 0.5)  # CogVideoX-1.5: noise of the condition image, sigma = exp(N(-3, 0.5))


Read = tuple[np.ndarray, ...]  # what was read of a sample: pixels, and where it is heard its sound


class Job(NamedTuple):
    """One bucket's shards that are to be made."""

    state: BucketState
    bucket: Bucket
    shards: tuple[Shard, ...]

    @property
    def samples(self) -> int:
        return sum(len(shard.items) for shard in self.shards)


class Networks(NamedTuple):
    """What encodes: the VAE, and, where the recipe wants image tokens, what sees."""

    vae: Vae
    seer: ImageTokens | None = None


def make_latents(recipe: Recipe, jobs: Sequence[Job], networks: Networks, workers: int,
                 done: Callable[[Bucket, int], None], stopping: Callable[[], bool]) -> None:  # fmt: skip
    """Make every shard of the jobs and index it.

    workers: processes that read; with 0 everything happens in this one, one thing after the other: a decoder that shares
    a process with threads and much memory crashed now and then. done(bucket, samples) is called as samples are made.
    After stopping() came true the shard at hand is finished. On a CPU several samples are encoded side by side: a latent's
    bytes don't depend on it.
    """
    requests = [
        one for job in jobs for shard in job.shards for item in shard.items
        for one in _requests(item, job.bucket, hears(recipe, job.bucket))
    ]  # fmt: skip
    with (
        closing(read_ahead(requests, min(workers, len(requests)), recipe.curate.stall_s)) as pixels,
        Behind(workers > 0) as behind,
        Lanes(networks.vae) if workers and _on_cpu(networks.vae) else nullcontext() as lanes,
    ):
        loads = (
            Load(_pixels(job.bucket), _Group(job.bucket, items, _read(recipe, job.bucket, items, pixels)))
            for job in jobs for shard in job.shards for items in _groups(job, shard, networks.vae)
        )  # fmt: skip
        encode = partial(_encoded, recipe, networks.seer)
        made = lanes.run(encode, loads) if lanes else (encode(networks.vae, load.given) for load in loads)
        for job in jobs:
            for shard in job.shards:
                if not stopping():
                    some = islice(made, len(_groups(job, shard, networks.vae)))
                    behind.feed(partial(_write_shard, job, shard, done), chain.from_iterable(some))
            behind.feed(lambda nothing, state=job.state: state.save())


def _write_shard(job: Job, shard: Shard, done: Callable[[Bucket, int], None],
                 made: Iterable[tuple[Item, dict[str, torch.Tensor] | str]]) -> None:  # fmt: skip
    with writing_shard(job.state.shard_path(shard.number)) as writer:
        for item, found in made:
            if isinstance(found, str):
                writer.fail(item.key, found)
            else:
                writer.add(item.key, pack(found), _facts(item, job.bucket))
            done(job.bucket, 1)
    job.state.add(shard.number, writer.places, writer.failed, writer.finite)


class _Group(NamedTuple):
    """Samples of a bucket that are encoded together, and what was read of each, or why nothing was."""

    bucket: Bucket
    items: tuple[Item, ...]
    read: list[Read | str]


def _groups(job: Job, shard: Shard, vae: Vae) -> list[tuple[Item, ...]]:
    size = batch_size(vae, job.bucket)
    return [shard.items[at : at + size] for at in range(0, len(shard.items), size)]


def _read(recipe: Recipe, bucket: Bucket, items: Sequence[Item], pixels: Iterator[Result]) -> list[Read | str]:
    heard = hears(recipe, bucket)
    return [_together(list(islice(pixels, 1 + heard))) for _ in items]


def _encoded(recipe: Recipe, seer: ImageTokens | None, vae: Vae,
             group: _Group) -> list[tuple[Item, dict[str, torch.Tensor] | str]]:  # fmt: skip
    """Each item with its tensors, or with the reason why it has none."""
    good = [(item, found) for item, found in zip(group.items, group.read, strict=True) if not isinstance(found, str)]
    found = [one for _, one in good]
    try:
        made = iter(
            tensors_of(recipe, group.bucket, [item for item, _ in good], found, Networks(vae, seer)) if good else ()
        )
    except (MemoryError, RuntimeError) as error:
        if (why := lack_of_memory(error)) is None:
            raise
        raise RuntimeError(
            f"{len(good)} samples of bucket {group.bucket.name} do not fit into memory while they are encoded ({why}); "
            f"{'' if recipe.cache.tiling else '`cache.tiling: true`, '}`cache.precision: bfloat16` or fewer processes help"
        ) from None
    return [(item, one if isinstance(one, str) else next(made)) for item, one in zip(group.items, group.read)]


def hears(recipe: Recipe, bucket: Bucket) -> bool:
    return "sound" in recipe.cache.conditions and bucket.frames > 1


def _requests(item: Item, bucket: Bucket, heard: bool) -> list[Request]:
    """What is read of a sample: its pixels, and where it is heard the sound of the same time."""
    pixels = Request(item.path, item.start_s, item.crop, bucket)
    if not heard:
        return [pixels]
    return [pixels, pixels._replace(samples=round(bucket.frames / (bucket.fps or 1.0) * RATE), rate=RATE)]


def _together(results: Sequence[Result]) -> Read | str:
    """Pixels and sound of a sample, or why one of them is not there."""
    wrong = [one for one in results if isinstance(one, str)]
    return wrong[0] if wrong else tuple(one for one in results if not isinstance(one, str))


def batch_size(vae: Vae, bucket: Bucket) -> int:
    """One on a CPU: there a batch saves nothing, and a sample's bytes must not depend on its neighbours."""
    return 1 if _on_cpu(vae) else max(1, BATCH_PIXELS // _pixels(bucket))


def _on_cpu(vae: Vae) -> bool:
    return torch.device(getattr(vae, "device", "cpu")).type == "cpu"


def _pixels(bucket: Bucket) -> int:
    return bucket.frames * bucket.height * bucket.width


def tensors_of(recipe: Recipe, bucket: Bucket, items: Sequence[Item], read: Sequence[Read],
               networks: Networks) -> list[dict[str, torch.Tensor] | str]:  # fmt: skip
    """What is stored for each of these samples: latent, and what the recipe asks for beside it."""
    vae, stacked = networks.vae, np.stack([one[0] for one in read])
    video = to_video(stacked, getattr(vae, "device", "cpu"))
    mean, logvar = vae.encode(video)
    wanted = bucket.latent_shape(vae.channels)
    if tuple(mean.shape[1:]) != wanted:
        raise ValueError(f"the VAE makes {tuple(mean.shape[1:])} of bucket {bucket.name}, it must make {wanted}")
    stored = {"latent": mean}
    if recipe.cache.logvar:
        if logvar is None:
            raise ValueError("cache.logvar: this VAE has no log-variance")
        stored["logvar"] = logvar
    if bucket.frames > 1:
        stored |= conditions(recipe, items, video[:, :, :1], vae)
        if networks.seer is not None:
            stored["image_tokens"] = networks.seer.encode(stacked[:, 0])
        if hears(recipe, bucket):
            wave = torch.from_numpy(np.stack([one[1] for one in read]))
            stored["sound"] = sound_features(wave, RATE, float(bucket.fps or 1.0), bucket.frames)
    dtype = getattr(torch, recipe.cache.dtype)
    whole = {name: tensor if name == "sigmas" else tensor.to(dtype).cpu() for name, tensor in stored.items()}
    return [_checked({name: tensor[at] for name, tensor in whole.items()}) for at in range(len(items))]


def conditions(recipe: Recipe, items: Sequence[Item], first: torch.Tensor, vae: Vae) -> dict[str, torch.Tensor]:
    """Latents of the first frame (B, 3, 1, H, W) encoded from its pixels on its own, never sliced out of the clip's:
    the norms of a VAE span time.

    first_frame (B, C, 1, h, w); noised_first_frame (B, K, C, 1, h, w) with the noise of draw k added before the VAE,
    and its sigmas (B, K). The draws of a sample depend on its clip and start alone.
    """
    found: dict[str, torch.Tensor] = {}
    if "first_frame" in recipe.cache.conditions:
        found["first_frame"] = vae.encode(first)[0]
    if "noised_first_frame" in recipe.cache.conditions:
        draws = [noise_of(item, recipe.cache.noise_draws, first.shape[1:]) for item in items]
        sigmas = torch.stack([sigma for sigma, _ in draws])
        noise = torch.stack([one for _, one in draws]).to(first.device)
        noised = first[:, None] + sigmas.to(first.device).view(*sigmas.shape, 1, 1, 1, 1) * noise
        found["sigmas"] = sigmas
        found["noised_first_frame"] = torch.stack([vae.encode(noised[:, k])[0] for k in range(noised.shape[1])], dim=1)
    return found


def to_video(pixels: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (B, T, H, W, 3) -> float32 (B, 3, T, H, W) in [-1, 1]. To a GPU bytes travel, not floats."""
    return torch.from_numpy(pixels).to(device).permute(0, 4, 1, 2, 3).contiguous().float() / 127.5 - 1.0


def noise_of(item: Item, draws: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """sigmas (K,), noise (K, *shape) of a clip's condition image: they depend on its id and its start alone."""
    generator = np.random.Generator(
        np.random.Philox(np.random.SeedSequence([int(item.clip_id, 16), item.start_tick % 2**63]))
    )
    sigmas = np.exp(generator.normal(*LOG_SIGMA, size=draws)).astype(np.float32)
    return torch.from_numpy(sigmas), torch.from_numpy(generator.standard_normal((draws, *shape), dtype=np.float32))


def _checked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | str:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    return f"not finite after encoding: {', '.join(broken)}" if broken else tensors


def _facts(item: Item, bucket: Bucket) -> dict[str, Any]:
    """What a reader of the tar alone can know of a sample."""
    return {
        "clip_id": item.clip_id,
        "start_tick": item.start_tick,
        "start_s": item.start_s,
        "crop": list(item.crop),
        "bucket": bucket.name,
        "fps": bucket.fps,
    }
