"""A video that another process decodes ahead of the pass: frames come through shared memory, and are used where they lie.

A decoder with threads is in step with who asks it: while the pass works it waits, and the pass waits for it. A dozen frames ahead
neither does. It is one copy of every frame more; the pictures are the same to the bit, lines and padding included.
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import av
import numpy as np

from curate.forked import Forked, Line
from media.colour import Colour
from media.decode import Frame, Video
from media.probe import Probe, Unplayable
from media.upright import Upright

AT_ONCE, HAND_S = 8, 0.25  # frames that are handed over together; fewer after so long
BUDGET, LEAST, MOST = 64 << 20, 8, 32  # bytes of the shared memory; frames in it: at least, at most
PAGE = 4096


class Ahead:
    """What `media.decode.Video` is for its one pass, from a fork of this process. from_s: where to begin, at the key frame before.
    kept_px: a frame whose long side is no longer may be kept for long, and is copied.

    Raises Unplayable as Video does, ValueError where the container cannot be entered; what else the fork raises comes as a
    RuntimeError that says it.
    """

    def __init__(self, path: str, threads: int, from_s: float, kept_px: int):
        self.frames = self.faults = 0
        self._kept_px, self._free = kept_px, list[int]()
        self._memory, self._mapped = os.memfd_create("frames"), np.empty(0, np.uint8)
        self._way: tuple[Upright, Colour] = (Upright(), Colour(2, 2, 5, False))
        self._process = Forked(lambda line: Teller(line, self._memory).tell(path, threads, from_s), "decodes")
        try:
            head = self._process.receive()
            if "unplayable" in head:
                raise Unplayable(Probe(**head["unplayable"]))
            if "closed" in head:
                raise ValueError(head["closed"])
        except BaseException:
            self.close()
            raise
        self.time_base, self.probe = Fraction(*head["time_base"]), Probe(**head["probe"])

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.end()
        if self._memory >= 0:
            os.close(self._memory)
        self._memory = -1

    def __iter__(self) -> Iterator[Frame]:
        while "frames" in (hand := self._receive()):
            for one in hand["frames"]:
                yield self._frame(*one)
        self.probe, self._result, self.faults = Probe(**hand["probe"]), Probe(**hand["result"]), hand["faults"]

    def result(self) -> Probe:
        return self._result

    def _receive(self) -> Any:
        if self._free:
            free, self._free[:] = self._free[:], []
            self._process.send(free)
        return self._process.receive()

    def _frame(self, place: list[int], size: list[int], gap: bool, faults: int, at: int, kind: str,
               shape: list[int], strides: list[int], way: list[Any] | None) -> Frame:  # fmt: skip
        if way is not None:
            self._way = (Upright(*way[0]), Colour(*way[1]))
        upright, colour = self._way
        picture = self._picture(at, kind, *shape, strides)
        self.frames, self.faults = self.frames + 1, faults
        return Frame(*place, self.time_base, picture, tuple(size), upright, colour, gap)  # type: ignore[call-arg, arg-type]

    def _picture(self, first: int, kind: str, width: int, height: int, strides: list[int]) -> Any:
        if first >= len(self._mapped):
            size = os.fstat(self._memory).st_size
            self._mapped = np.frombuffer(mmap.mmap(self._memory, size, prot=mmap.PROT_READ), np.uint8)
        halves = [strides[0] // 2] * 2
        if max(width, height) > self._kept_px and kind in ("yuv420p", "yuvj420p") and strides[1:] == halves and not (
            width % 2 or height % 4
        ):  # fmt: skip
            lines = self._mapped[first : first + strides[0] * height * 3 // 2].reshape(-1, strides[0])
            weakref.finalize(lines, self._free.append, first).atexit = False
            return av.VideoFrame.from_numpy_buffer(lines, kind, width)
        picture, at = av.VideoFrame(width, height, kind), first
        for plane, stride in zip(picture.planes, strides, strict=True):
            lines = self._mapped[at : at + stride * plane.height].reshape(-1, stride)
            into = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
            least = min(stride, into.shape[1])
            into[:, :least] = lines[:, :least]
            at += lines.size
        self._free.append(first)
        return picture


class Teller:
    """The other side."""

    def __init__(self, line: Line, memory: int):
        self._line, self._memory = line, memory
        self._mapped = np.empty(0, np.uint8)
        self._size, self._base, self._free = 0, 0, list[int]()  # bytes of a place; where the first lies
        self._hand: list[Any] = []
        self._way: Any = None
        self._sent_s = time.monotonic()

    def tell(self, path: str, threads: int, from_s: float) -> None:
        try:
            with Video(path, threads) as video:
                if from_s > 0 and not video.seek(from_s):
                    self._line.send({"closed": f"{path}: cannot be entered at {from_s:.0f} s"})
                    return
                self._line.send({"time_base": video.time_base.as_integer_ratio(), "probe": asdict(video.probe)})
                self._tell(video)
        except Unplayable as why:
            self._line.send({"unplayable": asdict(why.verdict)})

    def _tell(self, video: Video) -> None:
        for frame in video:
            told = self._told(frame, video.faults)
            self._hand.append(told)
            if len(self._hand) == AT_ONCE or time.monotonic() - self._sent_s > HAND_S:
                self._hand_over()
        self._hand_over()
        self._line.send({"probe": asdict(video.probe), "result": asdict(video.result()), "faults": video.faults})
        while self._line.receive() is not None:  # until the other side is done with the pictures, and ends this
            pass

    def _hand_over(self) -> None:
        if self._hand:
            self._line.send({"frames": self._hand})
        self._hand, self._sent_s = [], time.monotonic()

    def _told(self, frame: Frame, faults: int) -> list[Any]:
        picture, way = frame.picture, (frame.upright, frame.colour)
        planes = [np.frombuffer(plane, np.uint8) for plane in picture.planes]
        at = first = self._place(sum(one.size for one in planes))
        for one in planes:
            self._mapped[at : at + one.size] = one
            at += one.size
        told = way if way != self._way else None
        self._way = way
        return [(frame.index, frame.pts, frame.end_pts), (frame.width, frame.height), frame.gap, faults, first,
                picture.format.name, (picture.width, picture.height), [one.line_size for one in picture.planes], told]  # fmt: skip

    def _place(self, size: int) -> int:
        """Where so many bytes may lie, as soon as a place is free."""
        if size > self._size:
            self._grow(size)
        while not self._free:
            self._hand_over()
            free = self._line.receive()
            if free is None:
                raise BrokenPipeError
            self._free += [at for at in free if at >= self._base]
        return self._free.pop()

    def _grow(self, size: int) -> None:
        """Other memory, for larger pictures: the other side may still look at those in the old one."""
        self._base, self._size = len(self._mapped), -(-size // PAGE) * PAGE
        end = self._base + min(MOST, max(LEAST, BUDGET // self._size)) * self._size
        os.ftruncate(self._memory, end)
        self._mapped = np.frombuffer(mmap.mmap(self._memory, end), np.uint8)
        self._free = list(range(self._base, end, self._size))
