"""Clips with known truth for judging signals: the shots of the generated footage, and real files, as proxies would be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from curate.pictures import decode_jpeg
from curate.proxies import jpeg
from curate.seen import Seen
from curate.shots import ShotFinder
from curate.signals.camera_fit import Fit, fit
from curate.signals.flow import FlowPairs
from media.decode import Frame, Video
from media.still import still_frame

PROXIES, PROXY_PX = 8, 512
STILLS = (".jpg", ".jpeg", ".png", ".webp")


class ShotClip(NamedTuple):
    """file; shot: its number; frames: up to 8 RGB uint8 (H, W, 3) that went through JPEG; fits: of its flow; truth: the
    shot's record (examples/footage.py), empty for real files; film: the file's record; start_s: of the frames."""

    file: str
    shot: int
    frames: list[np.ndarray]
    fits: list[Fit]
    truth: dict[str, Any]
    film: dict[str, Any]


def generated_clips(folder: Path, only: Sequence[str] = ()) -> Iterator[ShotClip]:
    """Every shot of every whole video of the generated footage."""
    films = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["files"]
    for name, film in films.items():
        if film["media"] == "video" and film["expect"] == "ok" and (not only or name in only):
            spans = [(shot["start_s"], shot["end_s"]) for shot in film["shots"]]
            for number, (frames, fits) in enumerate(read_spans(folder / name, spans)):
                yield ShotClip(name, number, frames, fits, film["shots"][number], film)


def real_clip(folder: Path, name: str) -> ShotClip:
    """A whole real file as one clip."""
    path = folder / name
    if path.suffix.lower() in STILLS:
        return ShotClip(name, 0, [_proxy(still_frame(str(path)))], [], {}, {})
    frames, fits = next(read_spans(path, [(-np.inf, np.inf)]))
    return ShotClip(name, 0, frames, fits, {}, {})


def read_spans(path: Path, spans: Sequence[tuple[float, float]]) -> Iterator[tuple[list[np.ndarray], list[Fit]]]:
    """For each [start_s, end_s), in order: the proxies and the fits of the flow, in one pass."""
    kept: list[list[Frame]] = [[] for _ in spans]
    fits: list[list[Fit]] = [[] for _ in spans]
    pairs = FlowPairs()
    with Video(str(path), 1) as video:
        finder = ShotFinder(("content",), video.time_base)
        for frame in video:
            seen = Seen(frame, PROXY_PX)
            seen.content = finder.push(frame, seen.bgr)
            pair = pairs.see(seen)
            for k, (start_s, end_s) in enumerate(spans):
                if start_s - 1e-4 <= frame.time_s < end_s - 1e-4:
                    kept[k].append(seen.small)
                    if pair is not None and pair.since_s >= start_s - 1e-4:
                        fits[k].append(fit(pair.flow, pair.elapsed_s))
    for frames, moved in zip(kept, fits, strict=True):
        yield [_proxy(frame) for frame in spread(frames, PROXIES)], moved


def spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    return [frames[k] for k in sorted({int(k * len(frames) / count) for k in range(count)})] if frames else []


def _proxy(frame: Frame) -> np.ndarray:
    return decode_jpeg(jpeg(frame.rgb(PROXY_PX)))


def luma(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
