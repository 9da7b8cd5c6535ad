"""Frames of one shot after the other -> rows of `clips`, `proxies`, `hashes` and scores.

A shot longer than `max_s` is cut into equal spans; one that goes on for more than twice that gives up spans of `max_s`
while it runs, so that memory is bounded. A clip starts at the sharpest frame of its leading window.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curate.hashes import frame_hash
from curate.proxies import Candidate, Store, evenly, jpeg
from curate.seen import Clip, Record, Seen
from curate.sharpest import sharpest
from curate.spans import CUT_KINDS, Edge, parts, usable, window
from curate.waiting import SLOT_S, Waiting
from media.decode import Frame

if TYPE_CHECKING:
    from curate.signals.kinds import Signal
    from pipelines import Curate  # a scan is told its settings, and loads no recipes

HASH_STEP_S = 0.25
SLOTS = 128  # of the store that proxies are chosen from
WHOLE = (-math.inf, math.inf)


class Mark(NamedTuple):
    """The numbers of a frame that outlive its picture."""

    pts: int
    end_pts: int
    time_s: float
    end_s: float
    sharpness: float


def signals(want: frozenset[str]) -> dict[str, Signal]:
    """Those whose tables are wanted. They are loaded when one is: splitting alone needs none."""
    if not any(table.startswith("scores.") for table in want):
        return {}
    from curate.signals import SIGNALS

    return {name: signal for name, signal in SIGNALS.items() if f"scores.{name}" in want}


def clip_id(video_id: str, start_tick: int, end_tick: int) -> str:
    """16 hex digits of a span [start_tick, end_tick) before trimming: other rules of trimming and starting keep it."""
    return hashlib.sha256(f"{video_id} {start_tick} {end_tick}".encode()).hexdigest()[:16]


class ClipMaker:
    """begin (or begin_transition), add for every frame, ..., end. Rows go to the sink as shots end.

    part: seconds [start, end) of the film; spans that begin elsewhere give no rows. What a span is depends on at most
    3 max_s before it: a shot that goes on for longer is cut up at fixed times of the film. ready: returns when the records of all
    frames that were added are here; called as late as can be.
    """

    def __init__(self, video_id: str, path: str, settings: Curate, want: frozenset[str],
                 sink: Callable[[str, list[dict[str, Any]]], None], part: tuple[float, float] = WHOLE):  # fmt: skip
        self._identity = {"video_id": video_id, "path": path, "media": "video"}
        self._settings, self._want, self._sink = settings, want, sink
        self._records: dict[str, deque[Record]] = {}
        self._shot = -1
        self._open = False
        self._part = part
        self.ready: Callable[[], None] = lambda: None
        self.first_tick: int | None = None  # of the first span of this part
        self.next_tick: int | None = None  # of the first span after it

    def record(self, signal: str, record: Record) -> None:
        self._records.setdefault(signal, deque()).append(record)

    def begin(self, frame: Frame, edge: Edge) -> None:
        """A new shot begins with this frame; the one before, if any, ends here."""
        self.end(edge)
        self._shot += 1
        self._start_shot(frame, edge, None)

    def begin_transition(self, frame: Frame, edge: Edge) -> None:
        """Frames from here on are inside a gradual transition and belong to no shot."""
        self.end(edge)
        self._start_shot(frame, edge, edge.kind)

    def add(self, one: Waiting) -> None:
        frame = one.frame
        self._marks.append(Mark(frame.pts, frame.end_pts, frame.time_s, frame.end_s, one.sharpness))
        if one.chosen:
            self._choose(Candidate(frame.time_s, one.sharpness, frame))
        if one.luma is not None and frame.time_s >= self._next_hash_s - 1e-6:
            self._hashes.append((frame.time_s, frame_hash(one.luma)))
            self._next_hash_s += HASH_STEP_S * max(1, int((frame.time_s - self._next_hash_s) / HASH_STEP_S) + 1)
        limit = 2 * self._settings.shots.max_s
        if self._transition is None and frame.end_s - self._marks[0].time_s > limit:
            self._give_up_span()

    def _choose(self, candidate: Candidate) -> None:
        lead_s = self._settings.start.window_s + self._settings.shots.trim_s
        if not self._lead or self._lead[-1].time_s < self._marks[0].time_s + lead_s:
            self._lead.append(candidate)
        self._store.add(candidate)

    def end(self, edge: Edge) -> None:
        """The shot ends after the last frame that was added."""
        if not self._open:
            return
        self._open = False
        if not self._marks:  # one boundary directly after another: no frame lies between
            self._shot -= self._transition is None
            return
        if self._transition is not None:
            if self._ours(self._marks):
                self._spans.append(self._dropped(self._marks, edge, f"inside a {self._transition}"))
        else:
            for marks, last in self._cut_up():
                self._span(marks, edge if last else Edge("span", 1.0))
        end = self._marks[-1]
        shot = {"shot_end_s": end.end_s, "shot_end_tick": end.end_pts}
        if "clips" in self._want:
            self._sink("clips", [one | shot for one in self._spans])
        self._forget(end.end_s)

    def leave(self) -> None:
        """Hand out the spans of a shot that goes on after the part."""
        if self._open and self._spans and "clips" in self._want:
            self._sink("clips", [one | {"shot_end_s": None, "shot_end_tick": None} for one in self._spans])

    def _start_shot(self, frame: Frame, edge: Edge, transition: str | None) -> None:
        self._open, self._transition = True, transition
        self._first, self._edge = frame, edge
        self._spans: list[dict[str, Any]] = []
        self._start_stretch(frame.time_s)
        self._hashes: list[tuple[float, int]] = []
        self._next_hash_s = frame.time_s

    def _start_stretch(self, start_s: float) -> None:
        self._marks: list[Mark] = []
        self._lead: list[Candidate] = []
        self._store = Store(math.floor(start_s / SLOT_S + 1e-6) * SLOT_S, SLOT_S, SLOTS)

    # ---------------------------------------------------------------------------------------------------- spans

    def _cut_up(self) -> list[tuple[list[Mark], bool]]:
        """The marks of each span of the stretch, and whether it is the last."""
        starts = [mark.time_s for mark in self._marks]
        inner = parts(starts[0], self._marks[-1].end_s, self._settings.shots.max_s)
        cuts = [0, *(int(np.searchsorted(starts, at - 1e-9)) for at in inner), len(starts)]
        pieces = [self._marks[a:b] for a, b in pairwise(cuts) if b > a]
        return [(piece, k == len(pieces) - 1) for k, piece in enumerate(pieces)]

    def _give_up_span(self) -> None:
        """Hand on the beginning of a shot that is longer than twice `max_s`, up to the next multiple of `max_s` in the
        film's time, and go on with the rest. Its hashes are taken in step with that, too, from here on."""
        long_s = self._settings.shots.max_s
        until = (math.floor(self._marks[0].time_s / long_s + 1e-9) + 1) * long_s
        count = int(np.searchsorted([mark.time_s for mark in self._marks], until - 1e-9))
        kept, rest = self._marks[:count], self._marks[count:]
        if kept:
            self._span(kept, Edge("span", 1.0))
        self._forget(rest[0].time_s)
        candidates = [one for one in self._store.all() if one.time_s >= rest[0].time_s]
        self._start_stretch(rest[0].time_s)
        self._marks = rest
        for one in candidates:
            self._store.add(one)
        self._hashes = [one for one in self._hashes if one[0] >= rest[0].time_s]
        self._next_hash_s = until + HASH_STEP_S * math.ceil((rest[-1].end_s - until) / HASH_STEP_S - 1e-6)
        self._edge = Edge("span", 1.0)

    def _span(self, marks: list[Mark], end: Edge) -> None:
        """One span: a row, kept or dropped with its reason, and what is measured of it when it is kept."""
        if not self._ours(marks):
            return
        rules, start = self._settings.shots, self._edge if marks[0] is self._marks[0] else Edge("span", 1.0)
        low, high = usable(marks[0].time_s, marks[-1].end_s, start, end, rules)
        inside = [
            mark
            for mark in marks
            if low - 1e-9 <= mark.time_s and (end.kind not in CUT_KINDS or mark.end_s <= high + 1e-9)
        ]
        length = inside[-1].end_s - inside[0].time_s if inside else 0.0
        if length < rules.min_s - 1e-6:
            self._spans.append(self._dropped(marks, end, f"short: {length:.2f} s < {rules.min_s:g} s"))
            return
        inside = inside[self._sharpest(inside) :]
        done = self._row(marks, inside, start, end) | {"status": "ok", "reason": None}
        self._spans.append(done)
        self._measure(done, inside)

    def _ours(self, marks: list[Mark]) -> bool:
        """Whether the span begins in this part."""
        start, end = self._part
        if marks[0].time_s >= end and self.next_tick is None:
            self.next_tick = marks[0].pts
        ours = start <= marks[0].time_s < end
        if ours and self.first_tick is None:
            self.first_tick = marks[0].pts
        return ours

    def past(self) -> bool:
        """Whether all spans of the part are there: what is being gathered begins after it."""
        if self._open and self._marks and self.next_tick is None and self._marks[0].time_s >= self._part[1]:
            self.next_tick = self._marks[0].pts
        return self.next_tick is not None

    def _sharpest(self, marks: list[Mark]) -> int:
        """Index of the frame that the clip starts with, among those whose picture is still there."""
        length = marks[-1].end_s - marks[0].time_s
        reach = window(0.0, length, self._settings.start.window_s, self._settings.shots.min_s)
        there = {one.time_s for one in (*self._lead, *self._store.all())}
        scores = [mark.sharpness if mark.time_s in there else -1.0 for mark in marks]
        return sharpest([mark.time_s for mark in marks], scores, marks[0].time_s, reach)

    def _dropped(self, marks: list[Mark], end: Edge, reason: str) -> dict[str, Any]:
        start = self._edge if marks[0] is self._marks[0] else Edge("span", 1.0)
        return self._row(marks, marks, start, end) | {"status": "dropped", "reason": reason}

    def _row(self, marks: list[Mark], inside: list[Mark], start: Edge, end: Edge) -> dict[str, Any]:
        frame, base = self._first, self._first.time_base
        length = inside[-1].end_s - inside[0].time_s
        return self._identity | {
            "clip_id": clip_id(self._identity["video_id"], marks[0].pts, marks[-1].end_pts),
            "shot": None if self._transition else self._shot, "span": None if self._transition else len(self._spans),
            "shot_start_s": frame.time_s, "shot_start_tick": frame.pts,
            "tb_num": base.numerator, "tb_den": base.denominator,
            "start_s": inside[0].time_s, "end_s": inside[-1].end_s, "start_tick": inside[0].pts, "frames": len(inside),
            "start_kind": start.kind, "end_kind": end.kind, "start_confidence": start.confidence,
            "end_confidence": end.confidence, "width": frame.width, "height": frame.height,
            "fps": len(inside) / length if length > 0 else None,
        }  # fmt: skip

    # -------------------------------------------------------------------------------------------------- measured

    def _measure(self, done: dict[str, Any], marks: list[Mark]) -> None:
        start_s, end_s = done["start_s"], done["end_s"]
        clip = Clip(start_s, end_s, done["width"], done["height"])
        if "proxies" in self._want:
            self._sink("proxies", [{"clip_id": done["clip_id"]} | self._proxies(start_s, end_s)])
        if "hashes" in self._want:
            inside = [one for one in self._hashes if start_s <= one[0] < end_s]
            row = {"times_s": [one[0] for one in inside], "hashes": [one[1] for one in inside]}
            self._sink("hashes", [{"clip_id": done["clip_id"]} | row])
        self.ready()
        for name, signal in signals(self._want).items():
            if signal.summary is not None:
                records = [r for r in self._records.get(name, ()) if start_s <= r.since_s and r.time_s < end_s]
                self._sink(f"scores.{name}", [{"clip_id": done["clip_id"]} | signal.summary(records, clip)])

    def _proxies(self, start_s: float, end_s: float) -> dict[str, Any]:
        candidates = {one.time_s: one for one in (*self._store.all(), *self._lead) if one.time_s >= start_s}
        first = [candidates[start_s]] if start_s in candidates else []  # without a window any frame begins a clip
        stored = [one for one in self._store.all() if one.time_s > start_s]
        chosen = evenly([*first, *stored], start_s, end_s, self._settings.proxies.frames)
        side = self._settings.proxies.long_side_px
        return {"times_s": [one.time_s for one in chosen], "jpegs": [jpeg(one.frame.rgb(side)) for one in chosen]}

    def _forget(self, before_s: float) -> None:
        for records in self._records.values():
            while records and records[0].time_s < before_s - 1e-9:
                records.popleft()


def still_rows(video_id: str, path: str, seen: Seen, records: dict[str, Record | None], settings: Curate,
               want: frozenset[str]) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """The rows of an image: one clip of one frame at time 0."""
    frame, key = seen.frame, clip_id(video_id, 0, 0)
    clip = Clip(0.0, 0.0, frame.width, frame.height)
    rows: dict[str, dict[str, Any]] = {
        "clips": {
            "video_id": video_id, "path": path, "media": "image", "shot": 0, "span": 0,
            "shot_start_s": 0.0, "shot_end_s": 0.0, "shot_start_tick": 0, "shot_end_tick": 0,
            "tb_num": 1, "tb_den": 1000, "start_s": 0.0, "end_s": 0.0,
            "start_tick": 0, "frames": 1, "start_kind": "start", "end_kind": "end",
            "start_confidence": 1.0, "end_confidence": 1.0, "width": frame.width, "height": frame.height,
            "fps": None, "status": "ok", "reason": None,
        },
        "proxies": {"times_s": [0.0], "jpegs": [jpeg(seen.small.rgb(settings.proxies.long_side_px))]},
        "hashes": {"times_s": [0.0], "hashes": [frame_hash(seen.small_luma)]},
    }  # fmt: skip
    measured = signals(want)
    for name, record in records.items():
        summary = measured[name].summary
        assert summary is not None
        rows[f"scores.{name}"] = summary([record] if record else [], clip)
    return {table: [{"clip_id": key} | one] for table, one in rows.items() if table in want}
