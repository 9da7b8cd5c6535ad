"""Signals behind the pass: the rows of one process, its errors told, and nothing left of the other process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curate.behind import AT_ONCE, MOST, Behind, can_be_apart, made, plain
from curate.scan import Source, scan_video
from curate.seen import Glance, Record
from curate.signals import SIGNALS
from curate.signals.motion import Pair, Step
from pipelines import Curate

ALL = frozenset(["clips", "proxies", "hashes", *(f"scores.{name}" for name, one in SIGNALS.items() if one.watch)])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """OpenCV as the process that curation scans in has it."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture
def begun() -> Callable[[], list[str]]:
    """Processes that this one has begun since the test did, and that are not gone."""
    before = set(children())
    return lambda: [one for one in children() if one not in before]


class Echo:
    """Says which frames it saw, and in which process."""

    def __init__(self, fails_at: float = np.inf):
        self.fails_at = fails_at

    def see(self, seen: Glance) -> Record | None:
        if seen.time_s == self.fails_at:
            raise ValueError(f"no {seen.time_s}")
        return Record(seen.time_s, seen.content, (os.getpid(), seen.small_luma.shape, int(seen.small_luma.sum())))


def glances(count: int) -> list[Any]:
    """More than the slots of the memory, and of two sizes."""
    rng = np.random.default_rng(7)
    return [Glance(float(k), k / 2, rng.integers(0, 256, (144 - k % 2, 256), np.uint8)) for k in range(count)]


def seen_by(frames: list[Any], watcher: Echo, apart: bool) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    with Behind({"echo": watcher}, [], lambda name, record: found.append((name, record)), apart) as behind:
        for frame in frames:
            behind.push(frame)
        behind.wait(len(frames))
    return found


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.usefixtures("one_thread")
def test_every_frame_comes_back_in_order_from_another_process(begun: Callable[[], list[str]]) -> None:
    frames = glances(3 * (MOST + 1) * AT_ONCE + 3)
    here, there = seen_by(frames, Echo(), apart=False), seen_by(frames, Echo(), apart=True)
    assert [record._replace(values=record.values[1:]) for _, record in there] == [
        record._replace(values=record.values[1:]) for _, record in here
    ]
    assert {record.values[0] for _, record in here} == {os.getpid()}
    assert len(others := {record.values[0] for _, record in there}) == 1 and os.getpid() not in others
    assert begun() == []


@pytest.mark.usefixtures("one_thread")
def test_only_what_was_asked_for_is_waited_for() -> None:
    found: list[float] = []
    with Behind({"echo": Echo()}, [], lambda _, record: found.append(record.time_s), True) as behind:
        for frame in glances(2 * AT_ONCE + 3):
            behind.push(frame)
        behind.wait(AT_ONCE)
        assert found == [float(k) for k in range(AT_ONCE)]
        behind.wait(2 * AT_ONCE + 1)  # in a hand that is not full yet
        assert found == [float(k) for k in range(2 * AT_ONCE + 3)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("apart", [False, True])
def test_what_a_watcher_raises_is_raised_and_nothing_is_left(begun: Callable[[], list[str]], apart: bool) -> None:
    with pytest.raises(RuntimeError if apart else ValueError, match=r"no 20\.0"):
        seen_by(glances(100), Echo(fails_at=20.0), apart)
    assert begun() == []


@pytest.mark.usefixtures("one_thread")
def test_a_process_that_dies_is_told_of(begun: Callable[[], list[str]]) -> None:
    with pytest.raises(RuntimeError, match="status -9"), Behind({"echo": Echo()}, [], lambda *_: None, True) as behind:
        os.kill(int(begun()[0]), signal.SIGKILL)
        for frame in glances(5 * MOST * AT_ONCE):
            behind.push(frame)
    assert begun() == []


def test_values_come_back_as_they_were() -> None:
    pair = Pair(0.1 + 0.2, 1e-300, float("-inf"), float(np.pi))
    step = Step(0.5, True, pair, 3.0, -np.inf)
    records = [("motion", Record(1.0, 0.9, step)), ("motion", Record(1.1, 1.0, step._replace(pair=None)))]
    told = json.loads(json.dumps(plain(records)))
    assert [made(one, {kind.__name__: kind for kind in (Record, Step, Pair)}) for one in told] == records


@pytest.mark.usefixtures("one_thread")
def test_rows_are_those_of_one_process(begun: Callable[[], list[str]], generated: Path) -> None:
    for name in ("pans.mp4", "fades.mp4", "uneven.mp4"):
        path, rows = generated / name, []
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        for threads in (1, 2):
            source, found = Source("0" * 16, str(path), path.stat().st_size, ""), []
            video = scan_video(
                source, Curate(), ALL, lambda *one, found=found: found.append(one), lambda _: None, threads
            )
            rows.append((repr(found), video))
        assert rows[0] == rows[1] and "scores.motion" in rows[0][0], name
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > used, (
            "motion was measured in a process of its own"
        )
    assert begun() == []


def test_no_fork_where_opencv_has_threads() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    assert not can_be_apart()
    cv2.setNumThreads(before)


ORPHAN = """
import os, time, cv2
from tests.test_behind import Behind, Echo, children, glances
class Slow(Echo):
    def see(self, seen):
        time.sleep(60)
cv2.setNumThreads(1)
behind = Behind({"slow": Slow()}, [], print, True)
for frame in glances(8):
    behind.push(frame)
print(children()[0], flush=True)
time.sleep(60)
"""


def test_it_ends_when_the_pass_is_killed_even_while_it_works() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
        until = time.monotonic() + 10
        while _runs(pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
