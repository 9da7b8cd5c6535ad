"""Footage -> batches for training a VAE. A sample is a function of (seed, step, place in the batch) alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.buckets import Bucket
from cache.pixels import Crop, read_pixels
from media import storage
from media.probe import probe
from pipelines import RecipeError, VaePhase, VaeStage
from train.draws import generator

HOLDOUT_SHARE = 10  # one of so many files is held out where the stage names no footage to judge on
AHEAD_STEPS = 3

Item = TypeVar("Item")


class Source(NamedTuple):
    """A file that can be read to its end. Upright px; fps 0 and duration_s 0 for images."""

    path: str
    width: int
    height: int
    fps: float
    duration_s: float

    def seconds(self, frames: int, interval: int) -> float:
        """How long a clip of so many frames, `interval` source frames apart, lasts."""
        return ((frames - 1) * interval + 1) / self.fps if self.fps else 0.0


class Pick(NamedTuple):
    """What chance chose for a sample: where in which source, how far apart its frames, which part of the picture."""

    source: Source
    start_s: float
    frames: int
    interval: int
    crop: Crop
    mirrored: bool


class Listing(NamedTuple):
    """What can be trained on and judged on, and why other files can't be."""

    train: list[Source]
    holdout: list[Source]
    left_out: list[tuple[str, str]]

    def fingerprint(self) -> str:
        """Changes when the files do."""
        return hashlib.sha256(json.dumps([self.train, self.holdout]).encode()).hexdigest()[:16]


def list_footage(patterns: Iterable[str], holdout: Iterable[str]) -> Listing:
    """Every file of the patterns, checked by reading its last frame. Raises RecipeError when nothing is left."""
    left_out: list[tuple[str, str]] = []
    judged = _sources(holdout, left_out)
    named = {source.path for source in judged}
    found = [source for source in _sources(patterns, left_out) if source.path not in named]
    if not judged:
        judged = [source for source in found if _by_name(source) % HOLDOUT_SHARE == 0]
        found = [source for source in found if _by_name(source) % HOLDOUT_SHARE]
    if not found and not judged:
        raise RecipeError(f"footage: {', '.join(patterns)}: nothing there to train a VAE on")
    return Listing(found, judged, left_out)


def is_image_step(stage: VaeStage, step: int) -> bool:
    return bool(generator(stage.seed, "vae kind", step).random() < stage.images)


def pick(stage: VaeStage, phase: VaePhase, sources: list[Source], step: int, place: int) -> Pick:
    """The sample at `place` of the batch of `step`. The interval is drawn first, then a source that is long enough."""
    chance = generator(stage.seed, "vae sample", step, place)
    frames, interval = 1, 1
    if not is_image_step(stage, step):
        frames, interval = phase.frames, int(chance.integers(1, stage.max_interval + 1))
    fitting = long_enough(sources, frames, interval)
    source = fitting[int(chance.integers(len(fitting)))]
    spare_s = max(0.0, source.duration_s - source.seconds(frames, interval))
    start_s = _on_frame(chance.random() * spare_s, source.fps)
    return Pick(source, start_s, frames, interval, _window(chance, source, phase.size), bool(chance.random() < 0.5))


def long_enough(sources: list[Source], frames: int, interval: int) -> list[Source]:
    if frames == 1:
        return sources
    return [one for one in sources if one.fps and one.seconds(frames, interval) <= one.duration_s]


def check_lengths(stage: VaeStage, sources: list[Source]) -> None:
    """Raises RecipeError when an interval that may be drawn has no source: the draw would not be uniform."""
    for phase in stage.phases:
        if phase.frames > 1 and not long_enough(sources, phase.frames, stage.max_interval):
            raise RecipeError(
                f"no footage is long enough for {phase.frames} frames that are {stage.max_interval} apart: "
                "lower `max_interval` or `frames`, or give longer footage"
            )


def read(one: Pick, size: int) -> Tensor:
    """Video (3, frames, size, size) uint8."""
    fps = one.source.fps / one.interval if one.source.fps else None
    shown = read_pixels(one.source.path, one.start_s, one.crop, Bucket(one.frames, size, size, fps))
    shown = shown[:, :, ::-1] if one.mirrored else shown
    return torch.from_numpy(np.ascontiguousarray(shown.transpose(3, 0, 1, 2)))


def batch(stage: VaeStage, phase: VaePhase, sources: list[Source], step: int) -> Tensor:
    """Videos (batch, 3, frames, size, size) uint8 of a step; one frame in an image step."""
    return torch.stack([read(pick(stage, phase, sources, step, k), phase.size) for k in range(phase.batch)])


def to_signed(pixels: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 -> [-1, 1]."""
    return (pixels.to(device).float() / 127.5 - 1.0).to(dtype)


def middle(source: Source, frames: int) -> Pick:
    """The clip in the middle of a source, its largest centred square: what a VAE is judged on, the same every time."""
    frames = frames if long_enough([source], frames, 1) else 1
    start_s = _on_frame((source.duration_s - source.seconds(frames, 1)) / 2, source.fps)
    return Pick(source, start_s, frames, 1, Crop(), False)


def read_ahead(load: Callable[[int], Item], start: int, stop: int, workers: int) -> Generator[Item]:
    """load(step) for every step in order, read ahead by threads. Close it to stop them."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="footage")
    try:
        waiting = [pool.submit(load, step) for step in range(start, min(start + AHEAD_STEPS, stop))]
        for step in range(start, stop):
            if step + AHEAD_STEPS < stop:
                waiting.append(pool.submit(load, step + AHEAD_STEPS))
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)


def _sources(patterns: Iterable[str], left_out: list[tuple[str, str]]) -> list[Source]:
    paths = {entry.path for pattern in patterns for path in storage.expand(pattern) for entry in storage.find(path)}
    found = []
    for path in sorted(paths):
        head = probe(path)
        if head.media == "unsupported":
            continue
        reason = head.reason if head.status != "ok" else None
        source = Source(path, head.width or 0, head.height or 0, *_timing(head))
        reason = reason or _unreadable(source)
        if reason:
            left_out.append((path, reason))
        else:
            found.append(source)
    return found


def _timing(head) -> tuple[float, float]:
    """(fps, seconds); (0, 0) for an image."""
    if head.media == "image" or not head.fps_num or not head.duration_s:
        return 0.0, 0.0
    return head.fps_num / (head.fps_den or 1), head.duration_s


def _unreadable(source: Source) -> str | None:
    """Why the first or the last frame can't be read, or None."""
    if not source.width or not source.height:
        return "its size is not known"
    last_s = max(0.0, source.duration_s - 1.5 / source.fps) if source.fps else 0.0
    for start_s in dict.fromkeys((0.0, last_s)):
        try:
            read_pixels(source.path, start_s, Crop(), Bucket(1, 16, 16, None))
        except (ValueError, OSError) as error:
            return f"no frame at {start_s:.2f} s: {error}"
    return None


def _window(chance: np.random.Generator, source: Source, size: int) -> Crop:
    """A square window: anything from `size` px to the whole height, log-uniform, anywhere in the picture."""
    whole = min(source.width, source.height)
    side = min(whole, round(math.exp(chance.uniform(math.log(min(size, whole)), math.log(whole)))))
    left, top = (int(chance.integers(extent - side + 1)) for extent in (source.width, source.height))
    return Crop(left, top, source.width - side - left, source.height - side - top)


def _on_frame(start_s: float, fps: float) -> float:
    """The middle of the frame that is shown at start_s: no rounding there turns it into another one."""
    return (math.floor(start_s * fps) + 0.5) / fps if fps else 0.0


def _by_name(source: Source) -> int:
    return int(hashlib.sha256(storage.name(source.path).encode()).hexdigest()[:8], 16)
