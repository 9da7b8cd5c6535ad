"""A long video as several parts that are scanned side by side, and one video again: the rows are those of one pass.

Every decision of a pass looks back at most HORIZON_S (shots), one second (signals) and three times `max_s` (spans, see
`ClipMaker`). So a worker that begins that much earlier, at the key frame before, sees its part as one pass would. Each
span belongs to the part that it begins in, and the worker of that part goes on until it has ended. Where two workers
do not agree on the span at their border, or a packet was faulty, the video is scanned again in one pass.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from media.decode import Frame

if TYPE_CHECKING:
    from pipelines import Curate  # a scan is told its settings, and loads no recipes

WARM_UP_S = 10.0  # shots, the network's tiles included, and signals
CONTAINERS = ("mov,mp4", "matroska,webm")  # can be entered anywhere, with true stamps
LEAST_RATE = 1_000  # bytes per second: no moving picture takes less, so a small file need not be asked for its length
MAX_SHORT = 2  # frames that the container promises and that are not there


class Piece(NamedTuple):
    """What the pass over a part found. frames, faults: decoded frames and faulty packets in it; first_tick, end_tick: of
    its frames; first_span, next_span: first ticks of its first span and of the first span after it; entered: tick of the
    first frame of all, before the part, with which no shot begins; tb_num, tb_den: seconds of a tick."""

    frames: int
    faults: int
    first_tick: int | None
    end_tick: int | None
    first_span: int | None
    next_span: int | None
    entered: int | None
    tb_num: int
    tb_den: int


class Own:
    """Counts the frames of a part."""

    def __init__(self) -> None:
        self.frames = 0
        self.entered: int | None = None
        self.first_tick: int | None = None
        self.end_tick: int | None = None

    def see(self, frame: Frame, part: tuple[float, float]) -> None:
        self.entered = frame.pts if self.entered is None else self.entered
        if part[0] <= frame.time_s < part[1]:
            self.frames += 1
            self.first_tick = frame.pts if self.first_tick is None else self.first_tick
            self.end_tick = frame.end_pts


def lead_s(settings: Curate) -> float:
    """How much before its part a worker begins."""
    return 3 * settings.shots.max_s + WARM_UP_S


def may_be_long(size_bytes: int, settings: Curate) -> bool:
    return size_bytes >= 2 * settings.segment_s * LEAST_RATE


def plan(container: str | None, duration_s: float | None, settings: Curate) -> list[tuple[float, float]]:
    """[start, end) in seconds of each part, the first from the beginning and the last to the end; empty for a video that is
    scanned in one pass: one that is shorter than two segments, or whose container cannot be entered anywhere."""
    length = max(settings.segment_s, lead_s(settings))
    if duration_s is None or duration_s < 2 * length or not (container or "").startswith(CONTAINERS):
        return []
    edges = [-1e12, *(k * length for k in range(1, int(duration_s / length))), 1e12]
    return list(pairwise(edges))


def agreed(videos: list[dict[str, Any]]) -> bool:
    """Whether the parts of a video fit together: no faults, the same span on both sides of every border, no frame lost."""
    if any("piece" not in video for video in videos):
        return False
    pieces = [Piece(**video["piece"]) for video in videos]
    declared = videos[0]["frames_declared"]
    whole = not declared or abs(declared - sum(piece.frames for piece in pieces)) <= MAX_SHORT
    meet = all(a.next_span is not None and a.next_span == b.first_span for a, b in pairwise(pieces))
    return whole and meet and not any(piece.faults for piece in pieces)


def one_row(videos: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of `videos` that one pass would give."""
    pieces = [Piece(**video["piece"]) for video in videos]
    first, last = pieces[0].first_tick, pieces[-1].end_tick
    assert first is not None and last is not None
    length = float((last - first) * Fraction(pieces[0].tb_num, pieces[0].tb_den))
    whole = {key: value for key, value in videos[0].items() if key != "piece"}
    return whole | {"duration_s": length, "frames_decoded": sum(piece.frames for piece in pieces)}


def one_film(parts: list[list[dict[str, Any]]], entered: list[int | None]) -> list[dict[str, Any]]:
    """Rows of `clips` of each part, and the tick at which each worker came in -> the rows, numbered as in one pass.

    A shot that a worker did not see begin is the one that the part before ended in; its end is known to the last of them.
    """
    film: list[dict[str, Any]] = []
    begun: dict[str, Any] = {}
    for number, rows in enumerate(parts):
        for row in rows:
            unseen = number > 0 and row["shot_start_tick"] == entered[number]
            if not begun or not (unseen or row["shot_start_tick"] == begun["shot_start_tick"]):
                numbered = begun.get("last", -1) + (row["shot"] is not None)
                begun = {"shot_start_tick": row["shot_start_tick"], "shot_start_s": row["shot_start_s"],
                         "shot": None if row["shot"] is None else numbered, "last": numbered, "spans": 0}  # fmt: skip
            told = {key: begun[key] for key in ("shot", "shot_start_s", "shot_start_tick")}
            film.append(row | told | {"span": None if begun["shot"] is None else begun["spans"]})
            begun["spans"] += 1
    ends = {row["shot_start_tick"]: (row["shot_end_s"], row["shot_end_tick"]) for row in film}  # the last one counts
    return [row | dict(zip(("shot_end_s", "shot_end_tick"), ends[row["shot_start_tick"]], strict=True)) for row in film]
