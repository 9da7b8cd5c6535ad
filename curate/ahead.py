"""A film that another process decodes ahead of the pass: its front (`curate.front`) in a fork, frames through shared memory.

A decoder with threads is in step with who asks it: while the pass works it waits, and the pass waits for it. Some thirty frames
ahead neither does. Every frame is told in order, so the rows are those of one process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np

from curate.forked import Forked, Line, Slots, made, plain
from curate.front import Choice, Here, Look, Told
from curate.seen import SMALL_PX, Record
from media.colour import Colour
from media.decode import Frame, Rough
from media.planes import picture_of, planes_into
from media.probe import Probe, Unplayable
from media.upright import Upright

AT_ONCE, HAND_S = 8, 0.25  # frames that are handed over together; fewer after so long
MOST = 4  # such hands that the pass has not asked for yet
KINDS = {kind.__name__: kind for kind in (Record, Upright, Colour)}


class Ahead:
    """A `Film` that a fork of this process decodes. kinds: classes (named tuples) that the values of its signals' records consist
    of. What the fork raises is raised here, as a RuntimeError that says it; Unplayable and ValueError as `Here` does."""

    def __init__(self, path: str, threads: int, look: Look, kinds: Iterable[type], from_s: float = 0.0):
        count = (MOST + 1) * AT_ONCE
        self._small, self._large = Slots(count, 3 * SMALL_PX**2 // 2), Slots(count + 1, 3 * look.work_px**2)
        self._kinds = KINDS | {kind.__name__: kind for kind in kinds}
        self._process = Forked(lambda line: Teller(line, self._small, self._large).tell(path, threads, look, from_s), "decodes")
        self.last: Choice | None = None
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        head = self._process.receive()
        if "unplayable" in head:
            raise Unplayable(Probe(**head["unplayable"]))
        if "closed" in head:
            raise ValueError(head["closed"])
        self.time_base, self.probe = Fraction(*head["time_base"]), Probe(**head["probe"])

    def __iter__(self) -> Iterator[Told]:
        while "frames" in (hand := self._process.receive()):
            told = [self._told(one) for one in hand["frames"]]
            self._process.send("read")
            yield from told
        self.last = self._choice(hand["last"])
        self.probe, self._result = Probe(**hand["probe"]), Probe(**hand["result"])

    def result(self) -> Probe:
        return self._result

    def close(self) -> None:
        self._process.end()

    def _told(self, told: list[Any]) -> Told:
        place, gap, size, slot, shape, way, sharpness, records, chosen, faults = told
        upright, colour = made(way, KINDS)
        planes = self._small[slot][: shape[0] * shape[1]].reshape(shape).copy()
        frame = Frame(*place, self.time_base, None, tuple(size), upright, colour, gap)
        return Told(frame, Rough(planes, colour, upright), sharpness, made(records, self._kinds), self._choice(chosen), faults)

    def _choice(self, chosen: list[Any] | None) -> Choice | None:
        if chosen is None:
            return None
        place, gap, size, slot, shape, kind, way = chosen
        if slot is None:
            return Choice(place[0], None)
        upright, colour = made(way, KINDS)
        picture = picture_of(self._large[slot], kind, *shape)
        return Choice(place[0], Frame(*place, self.time_base, picture, tuple(size), upright, colour, gap))


class Teller:
    """The other side."""

    def __init__(self, line: Line, small: Slots, large: Slots):
        self._line, self._small, self._large = line, small, large
        self._free, self._free_large = list(range(len(small))), list(range(len(large)))
        self._hand: list[list[Any]] = []
        self._taken: tuple[list[int], list[int]] = ([], [])  # slots of the hand
        self._waiting: deque[tuple[list[int], list[int]]] = deque()  # and of those that are not free again
        self._sent_s = time.monotonic()

    def tell(self, path: str, threads: int, look: Look, from_s: float) -> None:
        try:
            film = Here(path, threads, look, from_s)
        except Unplayable as why:
            self._line.send({"unplayable": asdict(why.verdict)})
            return
        except ValueError as why:
            self._line.send({"closed": str(why)})
            return
        self._line.send({"time_base": film.time_base.as_integer_ratio(), "probe": asdict(film.probe)})
        for told in film:
            self._hand.append(self._told(told))
            if len(self._hand) == AT_ONCE or time.monotonic() - self._sent_s > HAND_S:
                self._hand_over()
        self._hand_over()
        last = self._choice(film.last)
        self._line.send({"last": last, "probe": asdict(film.probe), "result": asdict(film.result())})
        while self._line.receive() is not None:  # until the other side has read the last picture, and ends this
            pass

    def _hand_over(self) -> None:
        if self._hand:
            self._line.send({"frames": self._hand})
            self._waiting.append(self._taken)
        self._hand, self._taken, self._sent_s = [], ([], []), time.monotonic()
        while len(self._waiting) > MOST:
            self._line.receive()
            small, large = self._waiting.popleft()
            self._free += small
            self._free_large += large

    def _told(self, told: Told) -> list[Any]:
        frame, rough = told.frame, told.rough
        slot = self._free.pop()
        self._taken[0].append(slot)
        self._small[slot][: rough.planes.size].reshape(rough.planes.shape)[:] = rough.planes
        return [*_place(frame), slot, rough.planes.shape, plain((rough.upright, rough.colour)), told.sharpness,
                plain(told.records), self._choice(told.chosen), told.faults]  # fmt: skip

    def _choice(self, chosen: Choice | None) -> list[Any] | None:
        if chosen is None:
            return None
        if chosen.frame is None:
            return [(chosen.index,), None, None, None, None, None, None]
        picture, frame = chosen.frame.picture, chosen.frame
        slot = self._free_large.pop()
        self._taken[1].append(slot)
        planes_into(self._large[slot], picture)
        return [*_place(frame), slot, (picture.width, picture.height), picture.format.name, plain((frame.upright, frame.colour))]


def _place(frame: Frame) -> list[Any]:
    return [(frame.index, frame.pts, frame.end_pts), frame.gap, (frame.width, frame.height)]
