"""A video decoded ahead by a thread: the frames of one that is not, bounded, its errors raised, and nothing left behind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.ahead import LEAST, MOST, SWITCH_S, Ahead, ahead
from media.decode import Frame, Video


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    threads, switch_s = threading.active_count(), sys.getswitchinterval()
    yield
    assert threading.active_count() == threads and sys.getswitchinterval() == switch_s


class Film:
    """A Video that counts what it decoded, and may fail."""

    def __init__(self, video: Video, fails_at: int = -1):
        self.video, self.fails_at, self.decoded, self.closed = video, fails_at, 0, False
        self.time_base, self.probe, self.faults = video.time_base, video.probe, 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.video:
            if self.decoded == self.fails_at:
                raise ValueError("no more")
            self.decoded, self.faults = self.decoded + 1, frame.index // 10
            yield frame

    def result(self) -> Any:
        return self.video.result()

    def close(self) -> None:
        self.closed = True
        self.video.close()


def film(path: Path, fails_at: int = -1) -> Any:
    return Film(Video(str(path)), fails_at)


@pytest.mark.parametrize("name", ["pans.mp4", "uneven.mp4", "truncated.mp4"])
def test_frames_and_verdict_are_those_of_the_video(generated: Path, name: str) -> None:
    with Video(str(generated / name)) as video:
        here = [(frame.pts, frame.gap, int(frame.luma(64).sum()), video.faults) for frame in video]
        verdict = video.result()
    with Ahead(Video(str(generated / name))) as video:
        there = [(frame.pts, frame.gap, int(frame.luma(64).sum()), video.faults) for frame in video]
        assert video.result() == verdict and video.frames == len(here)
    assert there == here


def test_it_decodes_so_far_ahead_and_no_farther(generated: Path) -> None:
    made = film(generated / "pans.mp4")
    with Ahead(made) as video:
        for taken, frame in enumerate(video, 1):
            until = time.monotonic() + 5
            while made.decoded < taken + ahead(frame) and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.02)
            assert made.decoded <= taken + ahead(frame) + 1, "one more is in the thread's hands"
            assert video.faults == (taken - 1) // 10, "as when this frame was decoded, not as now"
            if taken == 12:
                break
        assert made.decoded >= 12 + ahead(frame)
    assert made.closed and made.decoded < 12 + ahead(frame) + 3


@pytest.mark.parametrize("fails_at", [0, 5])
def test_what_decoding_raises_is_raised_behind_the_frames_before(generated: Path, fails_at: int) -> None:
    seen = []
    with pytest.raises(ValueError, match="no more"), Ahead(film(generated / "pans.mp4", fails_at)) as video:
        for frame in video:
            seen.append(frame.index)
    assert seen == list(range(fails_at))


def test_left_before_it_began_it_is_closed() -> None:
    class Closed:
        time_base, closed = None, False

        def close(self) -> None:
            self.closed = True

    closed: Any = Closed()
    with Ahead(closed):
        pass
    assert closed.closed


def test_large_frames_are_fewer() -> None:
    def sized(width: int, height: int) -> Any:
        return type("Sized", (), {"width": width, "height": height})()

    assert ahead(sized(640, 360)) == MOST and ahead(sized(7680, 4320)) == LEAST < ahead(sized(1920, 1080)) <= MOST
    assert sys.getswitchinterval() > SWITCH_S
