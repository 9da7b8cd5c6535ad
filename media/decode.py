"""One pass over a video: every frame once, in order of presentation, with exact times, upright, at any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import av
import av.error
import cv2
import numpy as np

from media.clock import Clock
from media.colour import Colour, colour_of, luma_table, stretched, to_rgb
from media.probe import (
    Probe,
    Unplayable,
    declared_s,
    display_size,
    header,
    open_container,
    turned,
    upright_of,
    video_stream,
)  # fmt: skip
from media.reduce import averaged_420, reformatted
from media.upright import Upright

MAX_ERRORS = 100  # faulty packets after which the rest of a file is given up
MAX_SHORT = 0.02  # share of the promised packets, or of the promised length, that may be absent


class Frame:
    """A decoded picture and its place in time.

    index: 0-based, decoding order; pts, end_pts: ticks of `time_base`, half open; time_s, end_s: the same in seconds;
    width, height: upright px with square pixels; gap: frames were lost just before this one.
    """

    __slots__ = ("colour", "end_pts", "end_s", "gap", "height", "index", "picture", "pts", "time_base", "time_s",
                 "upright", "width")  # fmt: skip

    def __init__(self, index: int, pts: int, end_pts: int, time_base: Fraction, picture: Any, size: tuple[int, int],
                 upright: Upright, colour: Colour, gap: bool = False):  # fmt: skip
        self.index, self.pts, self.end_pts, self.time_base, self.gap = index, pts, end_pts, time_base, gap
        self.width, self.height = size
        up, down = time_base.as_integer_ratio()
        self.time_s, self.end_s = pts * up / down, end_pts * up / down
        self.picture, self.upright, self.colour = picture, upright, colour

    def shrunk(self, long_side: int) -> Frame:
        """The same frame with a picture of at most long_side px that holds no reference to the large one."""
        small = self._reduced(long_side, "yuv420p10le" if self.colour.hdr else "yuv420p")
        return self if small is self.picture else self._with(small, self._limited())

    def bare(self) -> Frame:
        """The same frame without its picture: its place in time and its size."""
        return self._with(None, self.colour)

    def luma(self, long_side: int | None = None) -> np.ndarray:
        """Full-range SDR luma, uint8 (h, w), upright, at most long_side px (None: as stored)."""
        return self.upright.apply(self._stored_luma(long_side))

    def bgr(self, long_side: int) -> np.ndarray:
        """uint8 (h, w, 3) upright, quick and only roughly the right colours: for detectors, not for eyes."""
        return self.rough(long_side).bgr

    def rough(self, long_side: int) -> Rough:
        """A small picture, at most long_side px, from the decoder's planes."""
        if self.picture.format.name not in ("yuv420p", "yuvj420p"):
            return Rough(self._reduced(long_side, "yuv420p").to_ndarray(), self._limited(), self.upright)
        planes = [_lines(plane)[:, : plane.width] for plane in self.picture.planes]
        return Rough(averaged_420(planes, *self._stored_size(long_side)), self.colour, self.upright)

    def rgb(self, long_side: int | None = None) -> np.ndarray:
        """SDR uint8 (h, w, 3), upright, square pixels, at most long_side px (None: full size). Never enlarges."""
        width, height = fitted(self.width, self.height, long_side)
        stored = (height, width) if self.upright.transpose else (width, height)
        return self.upright.apply(to_rgb(self.picture, self.colour, *stored))

    def _stored_luma(self, long_side: int | None) -> np.ndarray:
        small = self if self._planar() else self.shrunk(long_side or max(self.picture.width, self.picture.height))
        width, height = small.picture.width, small.picture.height
        if long_side is not None:
            width, height = self._stored_size(long_side)
        return shown(small._plane(0, width, height), small.colour)

    def _reduced(self, long_side: int, kind: str) -> Any:
        """The decoder's picture in another format, at most long_side px; the picture itself where nothing is to be done."""
        width, height = self._stored_size(long_side)
        picture, colour = self.picture, self._limited()
        if (picture.width, picture.height, picture.format.name) == (width, height, kind):
            return picture
        code = 2 if colour.full_range else 1
        return reformatted(
            picture, width, height, kind, interpolation="AREA", threads=1, src_colorspace=colour.matrix,
            dst_colorspace=colour.matrix, src_color_range=2 if picture.format.is_rgb else code, dst_color_range=code,
        )  # fmt: skip

    def _limited(self) -> Colour:
        """The colour of a reduced picture: RGB becomes limited."""
        return self.colour._replace(full_range=self.colour.full_range and not self.picture.format.is_rgb)

    def _with(self, picture: Any, colour: Colour) -> Frame:
        return Frame(self.index, self.pts, self.end_pts, self.time_base, picture, (self.width, self.height),
                     self.upright, colour, self.gap)  # fmt: skip

    def _stored_size(self, long_side: int) -> tuple[int, int]:
        """Even size before turning, long side at most long_side, shape of the square-pixel picture."""
        return _even(*self.upright.size(self.width, self.height), long_side)

    def _planar(self) -> bool:
        return self.picture.format.name in ("yuv420p", "yuvj420p", "yuv420p10le")

    def _plane(self, number: int, width: int, height: int) -> np.ndarray:
        """One plane as uint8 (height, width); the decoder's memory is read in place."""
        plane = self.picture.planes[number]
        deep = self.picture.format.name.endswith("10le")
        data = _lines(plane, np.uint16 if deep else np.uint8)[:, : plane.width]
        if deep:
            data = (data >> 2).astype(np.uint8)
        return data if data.shape == (height, width) else shrink(data, width, height)


def _lines(plane: Any, kind: Any = np.uint8) -> np.ndarray:
    """(height, width and more): a plane's lines with what lies behind them."""
    return np.frombuffer(plane, kind).reshape(plane.height, -1)


class Rough:
    """I420 planes uint8 (h * 3 / 2, w), not turned, and what is made of them when it is asked for."""

    def __init__(self, planes: np.ndarray, colour: Colour, upright: Upright):
        self.planes, self.colour, self.upright = planes, colour, upright

    @cached_property
    def bgr(self) -> np.ndarray:
        """uint8 (h, w, 3) upright, only roughly the right colours."""
        return self.upright.apply(cv2.cvtColor(self.planes, cv2.COLOR_YUV2BGR_I420))

    @cached_property
    def luma(self) -> np.ndarray:
        """Full-range SDR luma, uint8 (h, w), upright."""
        return self.upright.apply(shown(self.planes[: len(self.planes) * 2 // 3], self.colour))


def shown(plane: np.ndarray, colour: Colour) -> np.ndarray:
    """Luma codes, uint8 (h, w) -> full-range SDR luma."""
    if colour.hdr:
        return cv2.LUT(plane, luma_table(colour.transfer, colour.full_range))
    return plane if colour.full_range else stretched(plane)


@lru_cache(maxsize=32)
def _even(width: int, height: int, long_side: int) -> tuple[int, int]:
    width, height = fitted(width, height, long_side)
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def fitted(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    """The size with the long side at most long_side, at least 1 px each way; never larger than it was."""
    scale = min(1.0, long_side / max(width, height)) if long_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) resized: halved by area while that is exact and quick, the rest of the way by area too."""
    while (
        plane.shape[1] >= 2 * width and plane.shape[0] >= 2 * height and plane.shape[0] % 2 == plane.shape[1] % 2 == 0
    ):
        plane = cv2.resize(plane, (plane.shape[1] // 2, plane.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)


class Video:
    """A video that is open for its one pass.

    `for frame in video` gives every frame; afterwards `video.result()` is the Probe with what the pass found. `with`
    closes it. Raises Unplayable when there is no video in the file.
    """

    def __init__(self, path: str, threads: int = 1):
        self._container = open_container(path, threads)
        try:
            self.probe = header(self._container)
        except BaseException:
            self._container.close()
            raise
        self._stream = video_stream(self._container)
        self.time_base = Fraction(self._stream.time_base)
        self.frames = 0
        self._packets = self._discarded = 0
        self._read_to = 0
        self._first_pts: int | None = None
        self._clock = Clock(self._stream)
        self._errors: list[str] = []
        self._upright = Upright()
        self._shape: tuple[Any, ...] = ()
        self._size = (0, 0)
        self._colour = Colour(2, 2, 5, False)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def seek(self, time_s: float) -> bool:
        """Go on from the last key frame at or before a time; False where the container cannot (then open it anew).

        What `result` says is then about a part only.
        """
        try:
            self._container.seek(int(time_s / self.time_base), stream=self._stream, backward=True)
        except (av.error.FFmpegError, OSError):
            return False
        return True

    @property
    def faults(self) -> int:
        """Packets that could not be decoded, until now."""
        return len(self._errors)

    def __iter__(self) -> Iterator[Frame]:
        lost = False
        for packet in self._demuxed():
            try:
                pictures = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                lost = self._note(error)
                if len(self._errors) >= MAX_ERRORS:
                    return
                continue
            for picture in pictures:
                if lost and not picture.key_frame:
                    continue  # what follows lost data refers to it until the next key frame
                yield self._frame(picture, lost)
                lost = False

    def result(self) -> Probe:
        """The Probe after the pass: status ok, partial or failed with its reason, the length and size as decoded."""
        found = replace(self.probe, duration_s=self._seconds() or self.probe.duration_s)
        if not self.frames:
            said = f": {self._errors[0]}" if self._errors else ""
            return replace(found, status="failed", reason=f"no frame could be decoded{said}")
        short = (self._errors and f"{len(self._errors)} faulty packets ({self._errors[0]})") or self._missing()
        return replace(found, status="partial", reason=short) if short else found

    def _demuxed(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._packets += 1
                    self._discarded += packet.is_discard
                    self._read_to = max(self._read_to, (packet.pos or 0) + packet.size)
                yield packet
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._note(error)

    def _note(self, error: BaseException) -> bool:
        self._errors.append((getattr(error, "strerror", None) or str(error)).strip())
        return True

    def _frame(self, picture: Any, lost: bool) -> Frame:
        shape = (picture.width, picture.height, picture.format.name)
        if shape != self._shape:
            self._reshape(picture, shape)
        pts, end = self._clock.next(picture)
        self._first_pts = pts if self._first_pts is None else self._first_pts
        frame = Frame(self.frames, pts, end, self.time_base, picture, self._size, self._upright, self._colour, lost)
        self.frames += 1
        return frame

    def _reshape(self, picture: Any, shape: tuple[Any, ...]) -> None:
        if not self._shape:
            self._upright = upright_of(picture)
            self.probe = turned(self.probe, self._upright, picture.width, picture.height)
        stored = display_size(picture.width, picture.height, self.probe.sar_num, self.probe.sar_den)
        self._shape, self._size = shape, self._upright.size(*stored)
        self._colour = colour_of(picture, picture.height)

    def _seconds(self) -> float:
        if self._first_pts is None:
            return 0.0
        return float((self._clock.end - self._first_pts) * self.time_base)

    def _missing(self) -> str | None:
        """Why the file is held to be cut short, or None. Frames that an edit list hides are not missing."""
        declared = self._stream.frames
        if declared and declared - self._packets > max(2, MAX_SHORT * declared):
            return f"cut short: {self._packets} of {declared} declared frames are there"
        shown = self._packets - self._discarded
        if shown - self.frames > max(2, MAX_SHORT * shown) and not self._stream.codec_context.codec.name.startswith(
            "vp"
        ):
            return f"{shown - self.frames} of {shown} frames could not be decoded"
        promised = declared_s(self._container, self._stream)
        end = float(self._clock.end * self.time_base)
        if not declared and promised and promised - end > max(0.5, MAX_SHORT * promised) and self._at_end():
            return f"cut short: ends at {end:.2f} s of {promised:.2f} s"
        return None

    def _at_end(self) -> bool:
        """Whether the video's last packet ends where the file ends: other tracks that go on for longer are no loss."""
        size = self._container.size
        return bool(size and self._read_to >= size - max(16384, 0.01 * size))


__all__ = ["Frame", "Unplayable", "Video", "fitted", "shrink"]
