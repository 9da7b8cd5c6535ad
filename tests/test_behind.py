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

from curate.behind import AT_ONCE, MOST, Behind, Measurer, made, plain
from curate.beside import Beside
from curate.forked import can_fork
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


def seen_by(frames: list[Any], process: Measurer | None, make: Callable[[], Any]) -> list[tuple[str, Record]]:
    found: list[tuple[str, Record]] = []
    with Behind(make, [], lambda name, record: found.append((name, record)), process) as behind:
        for frame in frames:
            behind.push(frame)
        behind.wait(len(frames))
    return found


def echo(fails_at: float = np.inf) -> Callable[[], Any]:
    return lambda: {"echo": Echo(fails_at)}


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.usefixtures("one_thread")
def test_every_frame_comes_back_in_order_from_another_process(begun: Callable[[], list[str]]) -> None:
    frames = glances(3 * (MOST + 1) * AT_ONCE + 3)
    here = seen_by(frames, None, echo())
    with Beside() as beside:
        there = seen_by(frames, beside.measurer(frozenset("e"), echo()), echo())
    assert [record._replace(values=record.values[1:]) for _, record in there] == [
        record._replace(values=record.values[1:]) for _, record in here
    ]
    assert {record.values[0] for _, record in here} == {os.getpid()}
    assert len(others := {record.values[0] for _, record in there}) == 1 and os.getpid() not in others
    assert begun() == []


@pytest.mark.usefixtures("one_thread")
def test_only_what_was_asked_for_is_waited_for() -> None:
    found: list[float] = []
    with (
        Beside() as beside,
        Behind(echo(), [], lambda _, one: found.append(one.time_s), beside.measurer(frozenset(), echo())) as behind,
    ):
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
        seen_by(glances(100), Measurer(echo(20.0)) if apart else None, echo(20.0))
    assert begun() == []


@pytest.mark.usefixtures("one_thread")
def test_a_process_that_dies_is_told_of(begun: Callable[[], list[str]]) -> None:
    process = Measurer(echo())
    with pytest.raises(RuntimeError, match="status -9"), Behind(echo(), [], lambda *_: None, process) as behind:
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


@pytest.mark.usefixtures("one_thread")
def test_one_process_measures_film_after_film_each_anew(begun: Callable[[], list[str]]) -> None:
    frames, makes = glances(20), iter(range(10))

    def make() -> dict[str, Any]:
        return {"echo": Counting(next(makes))}

    with Beside() as beside:
        films, processes = [], []
        for _ in range(3):
            processes.append(beside.measurer(frozenset("e"), make))
            films.append([record.values for _, record in seen_by(frames, processes[-1], make)])
        assert len({id(one) for one in processes}) == 1 and len(begun()) == 1
        assert [[count for _, count in film] for film in films] == [list(range(20))] * 3, "nothing is left of a film"
        assert len({which for film in films for which, _ in film}) == 3
        assert beside.measurer(frozenset("f"), make) is not processes[0] and len(begun()) == 1
    assert begun() == []


@pytest.mark.usefixtures("one_thread")
def test_a_film_that_is_left_by_an_error_costs_its_process_and_no_other(begun: Callable[[], list[str]]) -> None:
    with Beside() as beside:
        first, found = beside.measurer(frozenset(), echo()), []
        with Behind(echo(), [], lambda _, one: found.append(one), first) as behind:
            for frame in glances(3 * AT_ONCE + 1):
                behind.push(frame)
        assert first.alive and len(found) == 3 * AT_ONCE, "what was handed over is taken"
        with pytest.raises(ValueError, match="no clip"), Behind(echo(), [], lambda *_: None, first) as behind:
            for frame in glances(3 * AT_ONCE):
                behind.push(frame)
            raise ValueError("no clip")
        assert not first.alive and begun() == []
        assert len(seen_by(glances(30), beside.measurer(frozenset(), echo()), echo())) == 30


@pytest.mark.usefixtures("one_thread")
def test_a_process_that_was_killed_between_two_films_is_no_fault_of_the_next(begun: Callable[[], list[str]]) -> None:
    with Beside() as beside:
        first = beside.measurer(frozenset(), echo())
        assert len(seen_by(glances(20), first, echo())) == 20
        os.kill(int(begun()[0]), signal.SIGKILL)
        until = time.monotonic() + 5
        while first.alive and time.monotonic() < until:
            time.sleep(0.01)
        assert len(seen_by(glances(20), beside.measurer(frozenset(), echo()), echo())) == 20


class Counting:
    """Says which of its kind it is, and how many frames it saw before."""

    def __init__(self, which: int):
        self.which, self.count = which, 0

    def see(self, seen: Glance) -> Record | None:
        self.count += 1
        return Record(seen.time_s, seen.time_s, (self.which, self.count - 1))


def test_no_fork_where_opencv_has_threads() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    assert not can_fork()
    cv2.setNumThreads(before)


ORPHAN = """
import os, time, cv2
from tests.test_behind import Behind, Echo, Measurer, children, glances
class Slow(Echo):
    def see(self, seen):
        time.sleep(60)
cv2.setNumThreads(1)
make = lambda: {"slow": Slow()}
behind = Behind(make, [], print, Measurer(make))
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
