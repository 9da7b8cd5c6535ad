"""Frames -> video files, with the codecs and faults that real footage has. Bytes depend on the frames alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream


@dataclass(frozen=True)
class Coding:
    """codec: a key of CODECS. crf: quality, smaller is better (of mpeg4: the quantiser)."""

    codec: str = "h264"
    crf: int = 20
    pixels: str = "yuv420p"
    gop: int = 48


# name -> encoder of ffmpeg, its options without the quality, and the name of the quality option. One thread each:
# files are made side by side, and some encoders' bytes depend on the number of threads. x264 goes without its
# macroblock tree: its assembly gave 4 different files from the same frames in 8 runs (version 165, B-frames on).
CODECS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264": ("libx264", {"preset": "veryfast", "x264-params": "mbtree=0"}, "crf"),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "pools=none:frame-threads=1:log-level=none"}, "crf"),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0"}, "crf"),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, "crf"),
    "mpeg4": ("mpeg4", {"flags": "+qscale"}, "global_quality"),
    "ffv1": ("ffv1", {}, ""),
}


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: Fraction, coding: Coding,
                times_s: np.ndarray | None = None, rotation: int = 0) -> None:  # fmt: skip
    """Frames uint8 (H, W, 3) RGB, even sides -> a file; its suffix is the container.

    times_s: presentation times (T,), ascending from 0; None is frame / fps.
    rotation: degrees clockwise by which a player has to turn the stored picture (written as display matrix).
    """
    base = 1 / fps if times_s is None else Fraction(1, 90_000)
    with av.open(os.fspath(path), "w", options=CONTAINER_OPTIONS.get(os.path.splitext(path)[1], {})) as container:
        stream = None
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = _open(container, pixels.shape[1], pixels.shape[0], fps, coding, base, rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = base
            frame.pts = index if times_s is None else round(float(times_s[index]) * 90_000)
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame, got none")
        container.mux(stream.encode(None))


CONTAINER_OPTIONS = {
    ".mp4": {"movflags": "+faststart", "fflags": "+bitexact"},
    ".mov": {"fflags": "+bitexact"},
    ".mkv": {"fflags": "+bitexact"},
    ".webm": {"fflags": "+bitexact"},
    ".avi": {"fflags": "+bitexact"},
}


def _open(container: OutputContainer, width: int, height: int, fps: Fraction, coding: Coding,
          base: Fraction, rotation: int) -> VideoStream:  # fmt: skip
    encoder, options, quality = CODECS[coding.codec]
    chosen = options | ({quality: str(coding.crf)} if quality else {}) | {"g": str(coding.gop), "threads": "1"}
    if quality == "global_quality":
        chosen[quality] = str(coding.crf * 118)  # in ffmpeg's units of lambda
    stream = container.add_stream(encoder, rate=fps, options=chosen)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, coding.pixels
    stream.codec_context.time_base = base
    stream.codec_context.thread_count = 1
    if rotation:
        stream.set_display_rotation(-rotation)
    return stream


def cut_short(path: str | os.PathLike[str], share: float) -> None:
    """Keeps the first `share` of a file's bytes, as an interrupted copy would."""
    with open(path, "r+b") as file:
        file.truncate(int(os.path.getsize(path) * share))


def presentation_times(path: str | os.PathLike[str]) -> np.ndarray:
    """Presentation times in s, (T,), ascending, as the container has them: read from its packets, nothing decoded."""
    with av.open(os.fspath(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = sorted(stamp for one in packets if (stamp := one.dts if one.pts is None else one.pts) is not None)
        return np.array([float(stamp * stream.time_base) for stamp in stamps])
