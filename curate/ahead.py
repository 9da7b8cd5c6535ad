"""A video that another process decodes ahead of the pass: frames come through shared memory, and are used where they lie.

A decoder with threads is in step with who asks it: while the pass works it waits, and the pass waits for it. Some frames ahead
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
BUDGET, LEAST, MOST = 64 << 20, 12, 32  # bytes of the shared memory; frames in it: at least, at most
PAGE = 4096


class Decoder:
    """A fork of this process that decodes one film after the other."""

    def __init__(self) -> None:
        self._memory, self._mapped = os.memfd_create("frames"), np.empty(0, np.uint8)
        self._free: list[int] = []  # places that the fork is not told of yet
        self._fork = Forked(Teller(self._memory).serve, "decodes")

    @property
    def alive(self) -> bool:
        return self._fork.alive

    def cpu_s(self) -> float:
        return self._fork.cpu_s()

    def ask(self, question: list[Any]) -> None:
        self._fork.send(question)

    def answer(self) -> Any:
        if self._free:
            free, self._free[:] = self._free[:], []
            self._fork.send(free)
        return self._fork.receive()

    def end(self) -> None:
        self._fork.end()
        if self._memory >= 0:
            os.close(self._memory)
        self._memory = -1

    def picture(self, at: int, kind: str, width: int, height: int, strides: list[int], kept: bool) -> Any:
        """The picture that lies at a place. kept: it may be kept for long, and is copied; else its place is free when it is gone."""
        if at >= len(self._mapped):
            size = os.fstat(self._memory).st_size
            self._mapped = np.frombuffer(mmap.mmap(self._memory, size, prot=mmap.PROT_READ), np.uint8)
        here = kind in ("yuv420p", "yuvj420p") and strides[1:] == [strides[0] // 2] * 2 and not (width % 2 or height % 4)
        if kept or not here:  # what PyAV cannot use where it lies
            self._free.append(at)
            return self._copied(at, av.VideoFrame(width, height, kind), strides)
        lines = self._mapped[at : at + strides[0] * height * 3 // 2].reshape(-1, strides[0])
        weakref.finalize(lines, self._free.append, at).atexit = False
        return av.VideoFrame.from_numpy_buffer(lines, kind, width)

    def _copied(self, at: int, picture: Any, strides: list[int]) -> Any:
        for plane, stride in zip(picture.planes, strides, strict=True):
            lines = self._mapped[at : at + stride * plane.height].reshape(-1, stride)
            into = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
            least = min(stride, into.shape[1])
            into[:, :least] = lines[:, :least]
            at += lines.size
        return picture


class Ahead:
    """What `media.decode.Video` is for its one pass, from a Decoder. from_s: where to begin, at the key frame before. kept_px: a frame
    whose long side is no longer may be kept for long.

    It is opened while this process does other things. Entered it raises Unplayable as Video does, ValueError where the container cannot
    be entered; what else happens in the Decoder comes as a RuntimeError that says it. Left before its end it ends the Decoder.
    """

    def __init__(self, decoder: Decoder, path: str, threads: int, from_s: float, kept_px: int):
        self.frames = self.faults = 0
        self._decoder, self._kept_px, self._result = decoder, kept_px, None
        self._way: tuple[Upright, Colour] | None = None
        decoder.ask([path, threads, from_s])

    def __enter__(self) -> Ahead:
        head = self._decoder.answer()
        if "unplayable" in head:
            raise Unplayable(Probe(**head["unplayable"]))
        if "closed" in head:
            raise ValueError(head["closed"])
        self.time_base, self.probe = Fraction(*head["time_base"]), Probe(**head["probe"])
        return self

    def __exit__(self, *_: object) -> None:
        if self._result is None:
            self._decoder.end()

    def __iter__(self) -> Iterator[Frame]:
        while "frames" in (hand := self._decoder.answer()):
            for one in hand["frames"]:
                yield self._frame(*one)
        self.probe, self._result, self.faults = Probe(**hand["probe"]), Probe(**hand["result"]), hand["faults"]

    def result(self) -> Probe:
        assert self._result is not None, "the film is not at its end"
        return self._result

    def _frame(self, place: list[int], size: list[int], gap: bool, faults: int, at: int, kind: str, shape: list[int],
               strides: list[int], way: list[Any] | None) -> Frame:  # fmt: skip
        if way is not None:
            self._way = (Upright(*way[0]), Colour(*way[1]))
        assert self._way is not None
        picture = self._decoder.picture(at, kind, *shape, strides, max(shape) <= self._kept_px)  # type: ignore[misc]
        self.frames, self.faults = self.frames + 1, faults
        return Frame(*place, self.time_base, picture, tuple(size), *self._way, gap)  # type: ignore[call-arg, arg-type]


class Teller:
    """The fork's side."""

    def __init__(self, memory: int):
        self._memory, self._mapped = memory, np.empty(0, np.uint8)
        self._size, self._base = 0, 0  # bytes of a place; where the first lies
        self._free: list[int] = []
        self._hand: list[Any] = []
        self._way: Any = None
        self._sent_s = 0.0

    def serve(self, line: Line) -> None:
        while True:
            message = line.receive()
            if isinstance(message[0], str):
                self._tell(line, *message)
            else:
                self._freed(message)

    def _tell(self, line: Line, path: str, threads: int, from_s: float) -> None:
        try:
            with Video(path, threads) as video:
                if from_s > 0 and not video.seek(from_s):
                    line.send({"closed": f"{path}: cannot be entered at {from_s:.0f} s"})
                    return
                line.send({"time_base": video.time_base.as_integer_ratio(), "probe": asdict(video.probe)})
                self._way, self._sent_s = None, time.monotonic()
                for frame in video:
                    told = self._told(line, frame, video.faults)
                    self._hand.append(told)
                    if len(self._hand) == AT_ONCE or time.monotonic() - self._sent_s > HAND_S:
                        self._hand_over(line)
                self._hand_over(line)
                line.send({"probe": asdict(video.probe), "result": asdict(video.result()), "faults": video.faults})
        except Unplayable as why:
            line.send({"unplayable": asdict(why.verdict)})

    def _hand_over(self, line: Line) -> None:
        if self._hand:
            line.send({"frames": self._hand})
        self._hand, self._sent_s = [], time.monotonic()

    def _told(self, line: Line, frame: Frame, faults: int) -> list[Any]:
        picture, way = frame.picture, (frame.upright, frame.colour)
        planes = picture.planes
        lines = [np.frombuffer(plane, np.uint8) for plane in planes]
        at = first = self._place(line, sum(one.size for one in lines))
        for one in lines:
            self._mapped[at : at + one.size] = one
            at += one.size
        told = way if way != self._way else None
        self._way = way
        return [(frame.index, frame.pts, frame.end_pts), (frame.width, frame.height), frame.gap, faults, first,
                picture.format.name, (picture.width, picture.height), [one.line_size for one in planes], told]  # fmt: skip

    def _place(self, line: Line, size: int) -> int:
        """Where so many bytes may lie, as soon as a place is free."""
        if size > self._size:
            self._grow(size)
        while not self._free:
            self._hand_over(line)
            self._freed(line.receive())
        return self._free.pop()

    def _freed(self, places: list[int]) -> None:
        self._free += [at for at in places if at >= self._base]

    def _grow(self, size: int) -> None:
        """Other memory, for larger pictures: the other side may still look at those in the old one."""
        self._base, self._size = len(self._mapped), -(-size // PAGE) * PAGE
        end = self._base + min(MOST, max(LEAST, BUDGET // self._size)) * self._size
        os.ftruncate(self._memory, end)
        self._mapped = np.frombuffer(mmap.mmap(self._memory, end), np.uint8)
        self._free = list(range(self._base, end, self._size))
