"""A decoder that dies or hangs costs one video: real child processes, really killed and really stopped."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from curate.isolate import Isolated, Task
from pipelines import Curate


@pytest.fixture
def video(generated: Path, tmp_path: Path) -> Path:
    """The longest generated video: long enough to be interrupted."""
    files = sorted(generated.glob("*.mp4"), key=lambda path: path.stat().st_size)
    return Path(shutil.copy(files[-1], tmp_path / "video.mp4"))


def task(path: Path) -> Task:
    return Task("0" * 16, str(path), path.stat().st_size, "1", ["clips", "proxies", "hashes", "scores.motion"])


class Disturbed:
    """Sends a signal to the child at its first beats, as often as told."""

    def __init__(self, child: Isolated, number: signal.Signals, times: int):
        self.child, self.number, self.left = child, number, times

    def __call__(self, _frames: int) -> None:
        if self.left and self.child.child is not None:
            self.left -= 1
            os.kill(self.child.child.pid, self.number)


def rows(child: Isolated, path: Path, spool: Path, disturb=lambda frames: None) -> tuple[dict, list]:
    spool.mkdir(exist_ok=True)
    scanned = child.scan(task(path), spool, disturb)
    return scanned.video, [batch.to_pylist() for batch in scanned.batches("clips")]


def test_a_child_killed_once_is_replaced_and_nothing_is_doubled(video: Path, tmp_path: Path) -> None:
    with Isolated(Curate()) as child:
        calm = rows(child, video, tmp_path / "calm")
        shaken = rows(child, video, tmp_path / "shaken", Disturbed(child, signal.SIGKILL, 1))
    assert calm[0]["status"] == "ok" and calm[1] and calm == shaken


def test_a_child_that_dies_between_two_videos_is_no_strike_against_the_next(video: Path, tmp_path: Path) -> None:
    with Isolated(Curate()) as child:
        calm = rows(child, video, tmp_path / "calm")
        for number in (signal.SIGKILL, signal.SIGTERM):
            assert child.child is not None
            child.child.send_signal(number)
            child.child.wait()
            assert rows(child, video, tmp_path / "next", Disturbed(child, signal.SIGKILL, 1)) == calm


def test_a_request_that_a_dying_child_never_reads_ends_as_a_strike(video: Path, tmp_path: Path) -> None:
    """The pipe breaks while it is written to, and again when it is closed with what it still holds."""
    with Isolated(Curate()) as child:
        calm = rows(child, video, tmp_path / "calm")
        assert child.child is not None
        child.child.kill()
        child.child.wait()
        answer, reason = child._ask(task(video), tmp_path / "calm", lambda frames: None)
        assert answer is None and "signal 9" in reason
        assert rows(child, video, tmp_path / "calm") == calm


def test_two_strikes_quarantine_the_video_and_the_next_one_is_scanned(video: Path, tmp_path: Path) -> None:
    with Isolated(Curate()) as child:
        row, clips = rows(child, video, tmp_path / "spool", Disturbed(child, signal.SIGKILL, 2))
        assert row["status"] == "quarantined" and "signal 9" in row["reason"] and clips == []
        assert rows(child, video, tmp_path / "spool")[0]["status"] == "ok"


def test_a_hung_decoder_is_ended_after_stall_s(video: Path, tmp_path: Path) -> None:
    with Isolated(Curate(stall_s=3.0)) as child:
        rows(child, video, tmp_path / "warm")
        started = time.monotonic()
        row, _ = rows(child, video, tmp_path / "spool", Disturbed(child, signal.SIGSTOP, 2))
        assert row["status"] == "quarantined" and "no frame in 3 s" in row["reason"]
        assert time.monotonic() - started < 20


def test_children_end_with_their_parent(video: Path, tmp_path: Path) -> None:
    with Isolated(Curate()) as child:
        rows(child, video, tmp_path / "spool")
        assert child.child is not None
        pid = child.child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
