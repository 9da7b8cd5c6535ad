"""One file -> its row in `videos` and the rows of its clips, in one decode pass. Plain Python: no Ray, no processes.

Shots are found on a very small picture of every frame, signals and proxies work on a larger one. Frames wait in a bounded queue
until it is certain which shot they belong to; a shot hands its rows to the sink as soon as it ends.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2

from curate.ahead import Ahead
from curate.behind import Behind
from curate.beside import Beside
from curate.clips import WHOLE, ClipMaker, signals, still_rows
from curate.forked import can_fork
from curate.seen import WORK_PX, Seen, Watcher
from curate.segments import Own, Piece, lead_s
from curate.shots import Boundary, ShotFinder
from curate.spans import Edge
from curate.waiting import Line
from media.decode import Frame, Video
from media.probe import Probe, Unplayable, classify

if TYPE_CHECKING:
    from pipelines import Curate  # a scan is told its settings, and loads no recipes

BEAT_FRAMES, BEAT_S = 16, 2.0


class Source(NamedTuple):
    """A file: its identity, where it is, its size in bytes and the tag that changes when its content does."""

    video_id: str
    path: str
    bytes: int
    tag: str


Sink = Callable[[str, list[dict[str, Any]]], None]


def told(settings: str) -> Curate:
    """JSON of settings that were checked -> an object with their attributes. To load what checks them takes as long as NumPy does."""
    return json.loads(settings, object_hook=lambda values: SimpleNamespace(**values))  # type: ignore[no-any-return]


def scan_video(source: Source, settings: Curate, want: frozenset[str], sink: Sink, beat: Callable[[int], None],
               threads: int | None = None, part: tuple[float, float] | None = None, beside: Beside | None = None
               ) -> dict[str, Any]:  # fmt: skip
    """Rows of the wanted tables (`clips`, `proxies`, `hashes`, `scores.<signal>`) go to the sink; returns the video's.

    Does not raise for what is in the file: a bad one has a status and a reason. threads: of the decoder, as many as OpenCV
    may use when not given; with two or more, and OpenCV on one, the decoder has a thread ahead of the pass and `small`
    signals a process behind it. beside: that process, for who scans one film after the other. part: seconds
    [start, end) of a long video; then only spans that begin there give rows, and the row has two further keys: `piece`
    (`curate.segments.Piece`) and `decoded`, frames with those of the lead-in.
    """
    kind, reason = classify(source.path)
    if kind == "unsupported" or reason:
        status = "unsupported" if kind == "unsupported" else "failed"
        return row(source, Probe(kind, status, reason), 0)
    if kind == "image":
        return _scan_still(source, settings, want, sink)
    try:
        threads = threads or cv2.getNumThreads()
        with ExitStack() as stack:
            beside = beside or stack.enter_context(Beside())
            one = _pass(source, settings, want, sink, beat, threads, part, beside, stack)
            return one.run() if part is None else one.run_part(part)
    except Unplayable as why:
        return row(source, why.verdict, 0)


def _pass(source: Source, settings: Curate, want: frozenset[str], sink: Sink, beat: Callable[[int], None], threads: int,
          part: tuple[float, float] | None, beside: Beside, stack: ExitStack) -> _Pass:  # fmt: skip
    """The pass and what it consists of, left with the stack."""
    small, from_s = _small(want), max(0.0, part[0] - lead_s(settings)) if part else 0.0
    apart = threads > 1 and can_fork() and bool(small)
    process = beside.measurer(small, partial(_watchers, small)) if apart else None
    video = stack.enter_context(_film(source.path, threads, apart, from_s))
    clips = ClipMaker(source.video_id, source.path, settings, want, sink, part or WHOLE)
    kinds = [kind for signal in signals(want).values() for kind in signal.kinds]
    behind = stack.enter_context(Behind(partial(_watchers, small), kinds, clips.record, process))
    return _Pass(source, settings, want, video, clips, behind, beat)


def _film(path: str, threads: int, apart: bool, from_s: float) -> Video | Ahead:
    """apart: the decoder has a thread of its own, and others next to the pass; else it has two for each that it may keep busy, so that it
    is not waited for."""
    ours = max(1, threads - 1) if apart else threads if threads == 1 else 2 * threads
    video = Video(path, ours)
    if from_s > 0 and not video.seek(from_s):
        video.close()
        raise ValueError(f"{path}: cannot be entered at {from_s:.0f} s")
    return Ahead(video) if apart else video


def row(source: Source, probe: Probe, frames: int) -> dict[str, Any]:
    """The row of `videos`."""
    return source._asdict() | asdict(probe) | {"frames_decoded": frames}


def _scan_still(source: Source, settings: Curate, want: frozenset[str], sink: Sink) -> dict[str, Any]:
    from media.still import probe_still, still_frame  # PIL is loaded where there are images

    probe = probe_still(source.path)
    if probe.status != "ok":
        return row(source, probe, 0)
    try:
        frame = still_frame(source.path)
    except ValueError as error:
        return row(source, replace(probe, status="failed", reason=str(error)), 0)
    seen = Seen(frame, _work_px(settings))
    records = {name: watcher.see(seen) for name, watcher in _watchers(want).items()}
    for table, rows in still_rows(source.video_id, source.path, seen, records, settings, want).items():
        sink(table, rows)
    return row(source, probe, 1)


class _Pass:
    """The state of one pass over one video."""

    def __init__(self, source: Source, settings: Curate, want: frozenset[str], video: Video | Ahead, clips: ClipMaker,
                 behind: Behind, beat: Callable[[int], None]):  # fmt: skip
        self.source, self.settings, self.video, self.beat = source, settings, video, beat
        self.clips, self.behind = clips, behind
        clips.ready = lambda: behind.wait(self.released)
        self.finder = ShotFinder(settings.shots.detectors, video.time_base, settings.shots.mode)
        sharp = settings.start.window_s > 0 or "proxies" in want
        self.waiting = Line(sharp, "proxies" in want, "hashes" in want)
        self.watchers, self.work_px = _watchers(want - _small(want)), _work_px(settings)
        self.released = 0
        self.boundaries: deque[Boundary] = deque()
        self._beaten = (0, time.monotonic())

    def run(self) -> dict[str, Any]:
        for frame in self.video:
            self._take(frame)
            self._settle(ended=False)
            self._beat(frame.index + 1)
        self._settle(ended=True)
        if self.video.frames:
            self.clips.end(Edge("end", 1.0))
        return row(self.source, self.video.result(), self.video.frames)

    def run_part(self, part: tuple[float, float]) -> dict[str, Any]:
        """From well before the part until the last span that begins in it has ended."""
        own, early = Own(), 0
        for frame in self.video:
            early = self.video.faults if frame.time_s < part[0] else early
            own.see(frame, part)
            self._take(frame)
            self._settle(ended=False)
            self._beat(frame.index + 1)
            if self.clips.past():
                break
        else:
            self._settle(ended=True)
            self.clips.end(Edge("end", 1.0))
        self.clips.leave()
        piece = Piece(own.frames, self.video.faults - early, own.first_tick, own.end_tick, self.clips.first_tick,
                      self.clips.next_tick, own.entered, *self.video.time_base.as_integer_ratio())  # fmt: skip
        found = row(self.source, self.video.probe, own.frames)
        return found | {"piece": piece._asdict(), "decoded": self.video.frames}

    def _take(self, frame: Frame) -> None:
        seen = Seen(frame, self.work_px)
        seen.content = self.finder.push(frame, seen.bgr)
        for name, watcher in self.watchers.items():
            if record := watcher.see(seen):
                self.clips.record(name, record)
        self.waiting.push(seen)
        self.behind.push(seen)

    def _settle(self, ended: bool) -> None:
        if ended:
            self.waiting.choose()
        self.boundaries.extend(self.finder.settle(ended))
        certain = self.finder.settled if ended else min(self.finder.settled, self.behind.taken)
        while self.waiting and self.released < certain:
            self._release()

    def _release(self) -> None:
        one = self.waiting.pop()
        if self.released == 0:
            self.clips.begin(one.frame, Edge("start", 1.0))
        while self.boundaries and self.boundaries[0].first <= self.released:
            edge = self.boundaries.popleft()
            self.clips.begin(one.frame, Edge(edge.kind, edge.confidence))
        if self.boundaries and self.boundaries[0].last == self.released:
            edge = self.boundaries[0]
            self.clips.begin_transition(one.frame, Edge(edge.kind, edge.confidence))
        self.clips.add(one)
        self.released += 1

    def _beat(self, frames: int) -> None:
        now = time.monotonic()
        if frames - self._beaten[0] >= BEAT_FRAMES or now - self._beaten[1] >= BEAT_S:
            self._beaten = (frames, now)
            self.beat(frames)


def _work_px(settings: Curate) -> int:
    return max(WORK_PX, settings.proxies.long_side_px)


def _watchers(want: frozenset[str]) -> dict[str, Watcher]:
    return {name: signal.watch() for name, signal in signals(want).items() if signal.watch}


def _small(want: frozenset[str]) -> frozenset[str]:
    """The tables of signals that are measured on small pictures alone."""
    return frozenset(f"scores.{name}" for name, signal in signals(want).items() if signal.small)
