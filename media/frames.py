"""The frames that are shown at given times, as pixels to train on: upright, SDR, square pixels, cropped and resized.

decord serves the plain files (8-bit, upright, no edit list), PyAV all others; both give the same pixels and times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av.error
import cv2
import numpy as np

from media import storage
from media.decode import Frame, Unplayable, Video
from media.probe import classify, open_container, upright_of, video_stream
from media.still import read_still
from media.upright import Upright

FRAMES_VERSION = 1
Box = tuple[int, int, int, int]


def read_frames(path: str, times_s: Sequence[float], size: tuple[int, int] | None = None, crop: Box = (0, 0, 0, 0),
                threads: int = 1) -> np.ndarray:  # fmt: skip
    """RGB uint8 (T, H, W, 3): for each time the frame shown then (the last with time <= it; the first one before any).

    times_s: presentation times in seconds, in any order; an image gives its picture for every time. crop: px to cut at
    left, top, right, bottom of the upright picture. size: (height, width) of the result, covered and centre-cropped,
    areas averaged; None keeps the size. Raises ValueError, naming the file, when nothing can be decoded.
    """
    if not len(times_s):
        raise ValueError("times_s must name at least one time")
    kind, reason = classify(path)
    if kind == "unsupported" or reason:
        raise ValueError(f"{path}: {reason}")
    if kind == "image":
        return np.repeat(fit(read_still(path), size, crop)[None], len(times_s), axis=0)
    order = np.argsort(np.asarray(times_s, np.float64), kind="stable")
    wanted = np.asarray(times_s, np.float64)[order]
    pictures = _by_decord(path, wanted, threads)
    if pictures is None:
        pictures = _by_pyav(path, wanted, threads)
    fitted = [fit(picture, size, crop) for picture in pictures]
    out = np.empty((len(wanted), *fitted[0].shape), np.uint8)
    for place, picture in zip(order, fitted, strict=True):
        out[place] = picture
    return out


def fit(rgb: np.ndarray, size: tuple[int, int] | None, crop: Box = (0, 0, 0, 0)) -> np.ndarray:
    """uint8 (H, W, 3) -> cut by crop, then scaled to cover size (height, width) and centre-cropped to it."""
    left, top, right, bottom = crop
    rgb = rgb[top : rgb.shape[0] - bottom, left : rgb.shape[1] - right]
    if not rgb.size:
        raise ValueError(f"crop {crop} leaves nothing of the picture")
    if size is None:
        return np.ascontiguousarray(rgb)
    height, width = size
    scale = max(height / rgb.shape[0], width / rgb.shape[1])
    part_h, part_w = min(rgb.shape[0], round(height / scale)), min(rgb.shape[1], round(width / scale))
    y, x = (rgb.shape[0] - part_h) // 2, (rgb.shape[1] - part_w) // 2
    part = np.ascontiguousarray(rgb[y : y + part_h, x : x + part_w])
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


# --------------------------------------------------------------------------------------------------------------- PyAV


def _by_pyav(path: str, wanted: np.ndarray, threads: int) -> list[np.ndarray]:
    try:
        found = _shown(_from(path, float(wanted[0]), threads), wanted)
        if found is None:  # the seek went past the first time, or time does not run evenly: from the beginning
            found = _shown(_from(path, None, threads), wanted, strict=False)
    except Unplayable as why:
        raise ValueError(f"{path}: {why}") from why
    if not found:
        raise ValueError(f"{path}: no frame could be decoded")
    return found


def _from(path: str, start_s: float | None, threads: int) -> Iterator[Frame]:
    with Video(path, threads) as video:
        if start_s is None or video.seek(start_s):
            yield from video


def _shown(frames: Iterator[Frame], wanted: np.ndarray, strict: bool = True) -> list[np.ndarray] | None:
    """The picture shown at each of the rising times; None when the first frame comes after the first time."""
    out: list[np.ndarray] = []
    held: Frame | None = None
    for frame in frames:
        if strict and held is None and frame.time_s > wanted[0] + 1e-6:
            return None
        while held is not None and len(out) < len(wanted) and wanted[len(out)] < frame.time_s - 1e-6:
            out.append(held.rgb() if not out or wanted[len(out)] != wanted[len(out) - 1] else out[-1])
        if len(out) == len(wanted):
            return out
        held = frame
    if held is None:
        return None
    last = held.rgb()
    return out + [last] * (len(wanted) - len(out))


# -------------------------------------------------------------------------------------------------------------- decord


def _by_decord(path: str, wanted: np.ndarray, threads: int) -> list[np.ndarray] | None:
    """Pictures through decord, or None for a file that it would not show as it is."""
    if storage.is_remote(path) or not _plain(path):
        return None
    try:
        import decord
    except ImportError:
        return None
    try:
        reader = decord.VideoReader(path, num_threads=threads)
        stamps = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
        if not _trusted(path, stamps):
            return None
        places = np.maximum(np.searchsorted(stamps, wanted + 1e-6, side="right") - 1, 0)
        return list(reader.get_batch(places).asnumpy())
    except decord.DECORDError:
        return None


def _plain(path: str) -> bool:
    """Whether a picture is 8-bit 4:2:0, upright, with square pixels and a matrix that decord takes as we do."""
    try:
        with open_container(path) as container:
            stream = video_stream(container)
            picture: Any = next(iter(container.decode(stream)), None)
            aspect = stream.sample_aspect_ratio  # not later: a stream's memory goes with its container
    except (Unplayable, av.error.FFmpegError, ValueError):
        return False
    if picture is None or picture.format.name not in ("yuv420p", "yuvj420p") or upright_of(picture) != Upright():
        return False
    named = int(picture.colorspace) in (1, 5, 6) or picture.height < 720
    return named and aspect in (None, 0, 1)


def _trusted(path: str, stamps: np.ndarray) -> bool:
    """Whether decord's frames and times are the file's: it ignores edit lists and moves the start to 0."""
    with open_container(path) as container:
        stream = video_stream(container)
        if stream.frames != len(stamps) or stream.duration is None or len(stamps) < 2:
            return False
        start = float((stream.start_time or 0) * stream.time_base)
        length = float(stream.duration * stream.time_base)
    step = float(np.median(np.diff(stamps)))
    even = bool((np.diff(stamps) > 0).all())
    return even and abs(stamps[0] - start) < 1e-3 and abs(stamps[-1] + step - stamps[0] - length) < 0.6 * step
