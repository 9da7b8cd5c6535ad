"""The front of a pass: every frame decoded, its small picture made, and what needs a larger one measured on it.

One frame in every tenth of a second of the film may be looked at again (as the first of a clip, as a proxy): the sharpest of
them on the small picture. Only that one is reduced to the larger picture and keeps it; the others are a place in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple, Protocol

from curate.seen import Record, Seen, Watcher
from curate.sharpest import laplacian_variance
from media.decode import Frame, Rough, Video
from media.probe import Probe

SLOT_S = 0.1


class Choice(NamedTuple):
    """A frame that may be looked at again, and its picture, or None where none is asked for."""

    index: int
    frame: Frame | None


class Told(NamedTuple):
    """What a pass is told of a frame. frame: its place in time, without its picture; sharpness: of the small picture; chosen: the
    frame before this one that was; faults: packets until now that could not be decoded."""

    frame: Frame
    rough: Rough
    sharpness: float
    records: list[tuple[str, Record]]
    chosen: Choice | None
    faults: int


class Look(NamedTuple):
    """What is to be made of frames. watchers: of the signals that need more than the small picture; sharp: whether any frame is chosen;
    pictures: whether the chosen ones need theirs, of at most work_px."""

    watchers: dict[str, Watcher]
    sharp: bool
    pictures: bool
    work_px: int


class Film(Protocol):
    """A video for its one pass: iterate over it, then ask for the last choice and the result."""

    time_base: Fraction
    probe: Probe
    last: Choice | None

    def __iter__(self) -> Iterator[Told]: ...

    def result(self) -> Probe: ...

    def close(self) -> None: ...


class Front:
    """Frames in order in, what is told of them out."""

    def __init__(self, look: Look):
        self._look = look
        self._slot = -1
        self._best: tuple[float, Seen] | None = None

    def see(self, frame: Frame, faults: int) -> Told:
        look, seen = self._look, Seen(frame, self._look.work_px)
        found = [(name, watcher.see(seen)) for name, watcher in look.watchers.items()]
        records = [(name, record) for name, record in found if record is not None]
        if not look.sharp:
            return Told(frame.bare(), seen.rough, 0.0, records, None, faults)
        sharpness, chosen = laplacian_variance(seen.small_luma), None
        slot = math.floor(seen.time_s / SLOT_S + 1e-6)
        if slot != self._slot:
            self._slot, chosen = slot, self.choose()
        if self._best is None or sharpness > self._best[0]:
            self._best = (sharpness, seen)
        return Told(frame.bare(), seen.rough, sharpness, records, chosen, faults)

    def choose(self) -> Choice | None:
        """The tenth of a second is over: its sharpest frame."""
        best, self._best = self._best, None
        return None if best is None else Choice(best[1].frame.index, best[1].small if self._look.pictures else None)


class Here:
    """A `Film` that is decoded in this process. from_s: where to begin, at the key frame before. Raises Unplayable where there is no
    video in the file, ValueError where it cannot be entered."""

    def __init__(self, path: str, threads: int, look: Look, from_s: float = 0.0):
        self._video, self._front = Video(path, threads), Front(look)
        self.time_base, self.probe = self._video.time_base, self._video.probe
        self.last: Choice | None = None
        if from_s > 0 and not self._video.seek(from_s):
            self.close()
            raise ValueError(f"{path}: cannot be entered at {from_s:.0f} s")

    def __iter__(self) -> Iterator[Told]:
        for frame in self._video:
            yield self._front.see(frame, self._video.faults)
        self.last, self.probe = self._front.choose(), self._video.probe

    def result(self) -> Probe:
        return self._video.result()

    def close(self) -> None:
        self._video.close()
