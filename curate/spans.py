"""Shots -> spans: long shots are cut up, edges at cuts are trimmed, short ones are dropped. Times in seconds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipelines import Shots  # a scan is told its settings, and loads no recipes


CUT_KINDS = frozenset({"cut", "fade", "dissolve", "resize"})


class Edge(NamedTuple):
    """kind: start | end | cut | fade | dissolve | resize | span; confidence in [0, 1]."""

    kind: str
    confidence: float


def parts(start_s: float, end_s: float, max_s: float) -> list[float]:
    """Where a shot [start_s, end_s) is cut so that no part is longer than max_s: its inner times, equal parts."""
    count = max(1, math.ceil((end_s - start_s) / max_s - 1e-6))
    return [start_s + (end_s - start_s) * k / count for k in range(1, count)]


def usable(start_s: float, end_s: float, start: Edge, end: Edge, rules: Shots) -> tuple[float, float]:
    """The span without `trim_s` at each edge that is a cut."""
    trimmed_start = start_s + (rules.trim_s if start.kind in CUT_KINDS else 0.0)
    trimmed_end = end_s - (rules.trim_s if end.kind in CUT_KINDS else 0.0)
    return trimmed_start, max(trimmed_start, trimmed_end)


def window(start_s: float, end_s: float, window_s: float, min_s: float) -> float:
    """Length of the leading window in which the clip may start so that it stays at least min_s long."""
    return max(0.0, min(window_s, end_s - start_s - min_s))
