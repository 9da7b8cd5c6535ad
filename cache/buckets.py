"""Buckets: the exact (frames, height, width, fps) that clips are cut to, and which clip goes to which.

A view names a size; its buckets are rectangles of about size x size px whose sides are multiples of `patch`, and one
frame count. HunyuanVideo's list (arXiv 2412.03603, 4.2) walks down a staircase of rectangles from wide to tall.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipelines import RecipeError, View

TIME_STRIDE = 4  # frames per latent frame, after the first
SPACE_STRIDE = 8  # px per latent px
SLACK_S = 1e-6
MAX_CROP = 0.05  # share of a picture that `aspects: auto` may crop away
_NAME = re.compile(r"^(\d+)x(\d+)x(\d+)(?:-([0-9.]+)fps)?$")


class Size(NamedTuple):
    height: int
    width: int

    @property
    def aspect(self) -> float:
        return self.width / self.height


class Bucket(NamedTuple):
    """One exact shape. fps is None for images."""

    frames: int
    height: int
    width: int
    fps: float | None = None

    @property
    def name(self) -> str:
        """`17x256x256-24fps`: frames x height x width - frames per second; an image `1x256x256`."""
        shape = f"{self.frames}x{self.height}x{self.width}"
        return shape if self.fps is None else f"{shape}-{self.fps:.6g}fps"

    @classmethod
    def parse(cls, name: str) -> Bucket:
        """The bucket of a name. Raises ValueError for anything else."""
        found = _NAME.match(name)
        if found is None:
            raise ValueError(f"{name!r} is no bucket: must be like 17x256x256-24fps or 1x256x256")
        frames, height, width, fps = found.groups()
        return cls(int(frames), int(height), int(width), None if fps is None else float(fps))

    def latent_shape(self, channels: int) -> tuple[int, int, int, int]:
        """(channels, 1 + (frames - 1) / 4, height / 8, width / 8)."""
        time = (self.frames - 1) // TIME_STRIDE + 1
        return (channels, time, self.height // SPACE_STRIDE, self.width // SPACE_STRIDE)

    def tokens(self, patch: tuple[int, int, int] = (1, 2, 2)) -> int:
        """Tokens of one sample for a transformer that groups latent cells by (time, height, width)."""
        _, *cells = self.latent_shape(1)
        return math.prod(-(-cell // side) for cell, side in zip(cells, patch))

    def seconds(self) -> float:
        """From the first frame's time to the last one's."""
        return 0.0 if self.fps is None else (self.frames - 1) / self.fps


def sizes(view: View, aspects: Iterable[float] = (), held: Sequence[Size] = ()) -> list[Size]:
    """The rectangles of a view, wide to tall.

    aspects (width / height of each clip) and held (sizes that already have samples) matter to `auto` alone.
    Raises RecipeError for sides that the VAE and the patches of the model cannot divide.
    """
    if view.patch % SPACE_STRIDE:
        raise RecipeError(f"patch must be a multiple of {SPACE_STRIDE} px (the VAE's stride), got {view.patch}")
    if view.aspects == "square":
        return [_of_aspect(view, 1.0)]
    if view.aspects == "hunyuan":
        return staircase(view.size, view.patch, view.max_ratio)
    if view.aspects == "auto":
        return fewest(staircase(view.size, view.patch, view.max_ratio), aspects, held)
    chosen = {_named(view, text) for text in view.aspects}
    return sorted(chosen, key=lambda size: -size.aspect)


def staircase(base: int, patch: int = 16, max_ratio: float = 4.0) -> list[Size]:
    """HunyuanVideo's rectangles of a base, wide to tall: 49 / 67 / 91 / 97 for bases 256 / 360 / 480 / 512 at patch 16.

    In patches: of each width every height from that of the next wider rectangle up to the area's limit.
    """
    area = round((base / patch) ** 2)
    found = []
    for width in range(area, 0, -1):
        for height in range(max(1, area // (width + 1)), area // width + 1):
            if max(width, height) <= max_ratio * min(width, height):
                found.append(Size(height * patch, width * patch))
    return found


def fewest(candidates: Sequence[Size], aspects: Iterable[float], held: Sequence[Size] = (),
           max_crop: float = MAX_CROP) -> list[Size]:  # fmt: skip
    """The fewest candidates that crop every aspect by at most max_crop, those that hold samples first.

    Going up the sorted aspects, the widest candidate that still covers the narrowest uncovered one is taken (the usual
    stabbing of intervals, exact). An aspect that no candidate covers gets its nearest.
    """
    chosen = list(dict.fromkeys(held))
    for aspect in sorted(set(aspects)):
        if any(cropped(size, aspect) <= max_crop for size in chosen):
            continue
        covering = [size for size in candidates if cropped(size, aspect) <= max_crop]
        best = max(covering, key=lambda size: size.aspect) if covering else nearest(candidates, aspect)
        if best not in chosen:
            chosen.append(best)
    return sorted(chosen, key=lambda size: -size.aspect)


def nearest(candidates: Sequence[Size], aspect: float) -> Size:
    """The size whose width / height is closest (HunyuanVideo's rule: the plain difference); of equals the first."""
    return min(candidates, key=lambda size: abs(size.aspect - aspect))


def cropped(size: Size, aspect: float) -> float:
    """Share in [0, 1) of a picture that a centre crop to this size takes away."""
    return 1.0 - min(size.aspect / aspect, aspect / size.aspect)


def frames_within(start_s: float, end_s: float, fps: float) -> int:
    """How many of the times start, start + 1/fps, ... lie in [start_s, end_s).

    Times are rationals that became floats, so one within SLACK_S of the end counts as the end.
    """
    return max(0, math.ceil((end_s - start_s - SLACK_S) * fps))


def times(start_s: float, frames: int, fps: float | None) -> list[float]:
    """The times in seconds whose shown frames make a sample: start_s + k / fps."""
    return [start_s] if fps is None else [start_s + k / fps for k in range(frames)]


def _of_aspect(view: View, aspect: float) -> Size:
    """About size x size px at this width / height, sides rounded to the patch."""
    height, width = view.size / math.sqrt(aspect), view.size * math.sqrt(aspect)
    return Size(*(max(1, round(side / view.patch)) * view.patch for side in (height, width)))


def _named(view: View, text: str) -> Size:
    """`16:9` is an aspect (width:height), `192x320` an exact height x width."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text):
        wide, tall = (float(part) for part in found.groups())
        if wide > 0 and tall > 0:
            return _of_aspect(view, wide / tall)
    if found := re.fullmatch(r"(\d+)x(\d+)", text):
        size = Size(*(int(part) for part in found.groups()))
        if all(side > 0 and side % view.patch == 0 for side in size):
            return size
    raise RecipeError(
        f"aspects: must be square, hunyuan, auto, or a list of width:height and HEIGHTxWIDTH whose sides are multiples "
        f"of patch {view.patch}, got {text!r}"
    )
