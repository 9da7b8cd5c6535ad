"""Stamps of decoded pictures -> times that always go on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


class Clock:
    """Stamps as decoded -> strictly increasing ticks.

    A stamp that is absent follows the one before; one that repeats or slips back a little is put one tick later; one
    that falls back by more than a second starts a new reckoning there. AVI has no presentation stamps: the order of
    decoding is taken.
    """

    def __init__(self, stream: Any):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._step = max(1, round(1 / (Fraction(rate) * Fraction(stream.time_base))))
        self._by_dts = stream.container.format.name == "avi"
        self._second = max(1, round(1 / Fraction(stream.time_base)))
        self._shift = 0
        self._last: int | None = None
        self.end = 0

    def next(self, picture: Any) -> tuple[int, int]:
        """(pts, end) in ticks of the next picture."""
        stamp = picture.dts if self._by_dts and picture.dts is not None else picture.pts
        if stamp is None:
            stamp = picture.dts
        pts = self.end if stamp is None else stamp + self._shift
        if self._last is not None and pts <= self._last:
            if self._last - pts > self._second:
                self._shift += self.end - pts
                pts = self.end
            else:
                pts = self._last + 1
        if self._last is not None and pts - self._last < self._second:
            self._step = pts - self._last
        self._last = pts
        self.end = pts + (picture.duration or self._step)
        return pts, self.end
