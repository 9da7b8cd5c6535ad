"""A video decoded ahead of the pass, by a thread.

A decoder in the pass's own thread is in step with it: while the pass works the decoder soon waits, and then the pass waits for it. Some
frames ahead neither does. Decoding needs the interpreter for a moment every frame only, but it must get it soon: a thread that
works with small arrays gives it up after SWITCH_S at most, not after Python's 5 ms.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from media.decode import Frame, Video
from media.probe import Probe

MOST, MOST_BYTES = 64, 48 << 20  # frames ahead, and what they may take
LEAST = 2
SWITCH_S = 0.001


class Ahead:
    """A Video for its one pass. frames, faults: as they were when the frame was decoded that was given last.

    What decoding raises is raised where the next frame would be.
    """

    def __init__(self, video: Video):
        self.frames = self.faults = 0
        self.time_base: Fraction = video.time_base
        self._video = video
        self._ready: deque[tuple[Frame, int] | BaseException | None] = deque()
        self._some, self._room = threading.Semaphore(0), threading.Semaphore(0)
        self._left = False
        self._thread = threading.Thread(target=self._decode, daemon=True)
        self._switch_s = sys.getswitchinterval()

    @property
    def probe(self) -> Probe:
        return self._video.probe

    def result(self) -> Probe:
        return self._video.result()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        if self._thread.ident is not None:
            self._room.release()
            self._thread.join()
            sys.setswitchinterval(self._switch_s)
        self._video.close()

    def __iter__(self) -> Iterator[Frame]:
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()
        while (one := self._next()) is not None:
            frame, self.faults = one
            self.frames += 1
            yield frame

    def _next(self) -> tuple[Frame, int] | None:
        self._some.acquire()
        one = self._ready.popleft()
        if isinstance(one, BaseException):
            raise one
        self._room.release()
        return one

    def _decode(self) -> None:
        end: BaseException | None = None
        try:
            for frame in self._video:
                if frame.index == 0:
                    for _ in range(ahead(frame)):
                        self._room.release()
                self._room.acquire()
                if self._left:
                    return
                self._give((frame, self._video.faults))
        except BaseException as error:  # noqa: BLE001 (raised where the frames are taken)
            end = error
        self._give(end)

    def _give(self, one: tuple[Frame, int] | BaseException | None) -> None:
        self._ready.append(one)
        self._some.release()


def ahead(frame: Frame) -> int:
    """How many frames like this one may be decoded ahead."""
    return max(LEAST, min(MOST, MOST_BYTES // (2 * frame.width * frame.height)))
