"""A film: shots joined by cuts, dissolves and fades, rendered frame by frame, with the truth about each.

Time is laid out in frames; a frame's time is its presentation time, also where frames are spaced unevenly.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from . import effects
from .effects import Border, Logo, Look
from .encode import Coding
from .scenes import Scene, render_scene
from .textures import Image

UNEVEN_STEPS = (1, 1, 2, 1, 3, 1, 1, 4)  # of a VFR film: how many ticks of 1/fps each frame is shown


@dataclass(frozen=True)
class Shot:
    """A scene for so many seconds; `join` says how the next shot follows: "cut", "dissolve" or "fade" (over black)."""

    scene: Scene
    seconds: float
    look: Look = field(default_factory=Look)
    join: str = "cut"
    join_frames: int = 12


@dataclass(frozen=True)
class Variant:
    """How a copy of a film differs from it, beside its coding. Shares are of the side or the length."""

    of: str  # file name of the original
    how: str
    scale: float = 1.0
    crop: float = 0.0  # cut off in all, half of it at each side
    gain: float = 1.0
    lift: float = 0.0
    head: float = 0.0  # trimmed off the beginning
    tail: float = 0.0


@dataclass(frozen=True)
class Film:
    """width, height: upright, borders included. family: the concept. sidecar: "json" says what is in each shot, "txt" what
    is in the file; None is none."""

    file: str
    width: int
    height: int
    fps: float
    shots: tuple[Shot, ...]
    family: str = "shapes"
    caption: str = ""
    sidecar: str | None = "json"
    coding: Coding = field(default_factory=Coding)
    logo: Logo | None = None
    border: Border | None = None
    opens: int = 0  # frames of a fade from black at the beginning
    closes: int = 0  # frames of a fade to black at the end
    uneven: bool = False  # variable frame rate
    rotation: int = 0  # degrees clockwise by which a player has to turn the stored picture
    variant: Variant | None = None
    original: str = ""  # of a variant: whose random numbers it uses

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the picture inside the borders."""
        edge = self.border or Border()
        return self.width - edge.left - edge.right, self.height - edge.top - edge.bottom


class Span(NamedTuple):
    """Frames of the film in which a shot shows, mixed ones included; weights (T,) is its share in each of them."""

    shot: Shot
    first: int
    weights: Image

    @property
    def stop(self) -> int:
        return self.first + len(self.weights)


class Join(NamedTuple):
    """kind "cut": `first` is the first frame of the new shot; else first and last mixed frame."""

    kind: str
    first: int
    last: int


def frame_times(film: Film) -> Image:
    """Presentation times in s, (T,), of the whole film before a variant trims it."""
    count = layout(film)[0][-1].stop
    if not film.uneven:
        return np.arange(count) / film.fps
    steps = np.resize(UNEVEN_STEPS, count)
    return np.concatenate([[0], np.cumsum(steps)[:-1]]) / film.fps


def layout(film: Film) -> tuple[list[Span], list[Join]]:
    """Which frames each shot covers, and how they are joined."""
    spans: list[Span] = []
    joins: list[Join] = []
    start = 0
    for index, shot in enumerate(film.shots):
        before = film.shots[index - 1] if index else None
        weights = np.ones(round(shot.seconds * film.fps / _mean_step(film)))
        weights = _rise(weights, before.join, before.join_frames) if before else _rise(weights, "fade", film.opens * 2)
        last = index == len(film.shots) - 1
        weights = _fall(weights, "fade", film.closes * 2) if last else _fall(weights, shot.join, shot.join_frames)
        if before:
            start = spans[-1].stop - (before.join_frames if before.join == "dissolve" else 0)
            joins.append(_join(before, start))
        spans.append(Span(shot, start, weights))
    return spans, joins


def _mean_step(film: Film) -> float:
    return float(np.mean(UNEVEN_STEPS)) if film.uneven else 1.0


def _join(shot: Shot, start: int) -> Join:
    if shot.join == "cut":
        return Join("cut", start, start)
    if shot.join == "dissolve":
        return Join("dissolve", start, start + shot.join_frames - 1)
    half = shot.join_frames // 2
    return Join("fade", start - half, start + half - 1)


def _rise(weights: Image, kind: str, frames: int) -> Image:
    count = {"cut": 0, "dissolve": frames, "fade": frames // 2}[kind]
    ramp = np.arange(1, frames + 1) / (frames + 1) if kind == "dissolve" else np.arange(count) / max(1, count)
    return np.concatenate([ramp[:count], weights[count:]])


def _fall(weights: Image, kind: str, frames: int) -> Image:
    return _rise(weights[::-1], kind, frames)[::-1]


def film_seed(film: Film, seed: int, index: int) -> list[int]:
    """A shot's random numbers depend on the run's seed, the (original) file's name and its place: on nothing else."""
    return [seed, zlib.crc32((film.original or film.file).encode()), index]


def render_film(film: Film, seed: int) -> Iterator[Image]:
    """Frames as a viewer should see them, uint8 (H, W, 3) RGB, upright, before a variant trims them."""
    spans, _ = layout(film)
    times = frame_times(film)
    shots = [_render_shot(film, span, times, film_seed(film, seed, index)) for index, span in enumerate(spans)]
    for index in range(spans[-1].stop):
        mixed = None
        for span, frames in zip(spans, shots):
            if span.first <= index < span.stop:
                mixed = _mix(mixed, next(frames), float(span.weights[index - span.first]))
        assert mixed is not None, f"{film.file}: no shot shows frame {index}"
        yield effects.add_logo(effects.add_border(mixed, film.border), film.logo)[0]


def _mix(under: Image | None, frame: Image, weight: float) -> Image:
    if weight == 1.0:
        return frame
    share = cv2.convertScaleAbs(frame, alpha=weight)
    return share if under is None else cv2.add(under, share)


def _render_shot(film: Film, span: Span, times: Image, seed: list[int]) -> Iterator[Image]:
    rng = np.random.default_rng([*seed, 1])
    look = span.shot.look
    count = len(span.weights)
    frames = render_scene(span.shot.scene, seed, *film.inner, times[span.first : span.stop] - times[span.first])
    for index, frame in enumerate(frames):
        frame = effects.add_noise(effects.blur(effects.expose(frame, look), look), look, rng)
        frame = effects.whiten(frame, effects.flash_share(look, index, count))
        yield effects.write_texts(frame, look)[0]


def vary(film: Film, frames: Iterator[Image]) -> Iterator[Image]:
    """The frames that are stored: those of a variant trimmed, cropped, scaled and brightened."""
    first, stop = kept_frames(film)
    change = film.variant
    for index, frame in enumerate(frames):
        if index >= stop:
            return
        if index >= first:
            yield frame if change is None else _vary_frame(frame, change)


def kept_frames(film: Film) -> tuple[int, int]:
    """First frame and end of what a variant keeps of its original; all of a film that is no variant."""
    count = layout(film)[0][-1].stop
    if film.variant is None:
        return 0, count
    return int(film.variant.head * count), count - int(film.variant.tail * count)


def _vary_frame(frame: Image, change: Variant) -> Image:
    height, width = frame.shape[:2]
    left, top, wide, tall = crop_window(change, width, height)
    frame = np.ascontiguousarray(frame[top : top + tall, left : left + wide])
    if change.scale != 1.0:
        frame = cv2.resize(frame, scaled_size(wide, tall, change.scale), interpolation=cv2.INTER_AREA)
    return effects.expose(frame, Look(gain=change.gain, lift=change.lift))


def crop_window(change: Variant, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of what a variant keeps of each frame."""
    wide, tall = _even(width * (1 - change.crop)), _even(height * (1 - change.crop))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    return (width, height) if scale == 1.0 else (_even(width * scale), _even(height * scale))


def _even(value: float) -> int:
    return int(value) // 2 * 2


def stored_size(film: Film) -> tuple[int, int]:
    """Upright width and height of the frames that `vary` yields."""
    if film.variant is None:
        return film.width, film.height
    _, _, wide, tall = crop_window(film.variant, film.width, film.height)
    return scaled_size(wide, tall, film.variant.scale)
