"""One line of progress: done / total, rate, time left. And the first signal, which asks a run to end well."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import TextIO

EVERY_S = 2.0  # between lines where the output is not a terminal; there the line is drawn over ten times as often


class Progress:
    """Counts units of work and says how it goes on a stream."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None):
        self._what, self._total, self._stream = what, total, stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._done, self._started, self._said = 0, time.monotonic(), 0.0

    def add(self, count: int, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        every = EVERY_S / 10 if self._terminal else EVERY_S
        if now - self._said >= every or self._done == self._total:
            self._said = now
            self._say(now - self._started, note)

    def _say(self, seconds: float, note: str) -> None:
        rate = self._done / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate else 0.0
        line = f"{self._what} {self._done}/{self._total}  {rate:.1f}/s  {clock(left)} left  {note}".rstrip()
        end = "\n" if not self._terminal or self._done == self._total else ""
        self._stream.write((f"\r\033[K{line}" if self._terminal else line) + end)
        self._stream.flush()


def clock(seconds: float) -> str:
    """3725 -> `1:02:05`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


class Signals:
    """While it is open the first SIGINT or SIGTERM is noted in `got`, and the second ends the process at once."""

    def __init__(self):
        self.got: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.got is not None:
            os._exit(128 + number)
        self.got = number
        print("\nfinishing the shard at hand; once more stops now", file=sys.stderr, flush=True)
