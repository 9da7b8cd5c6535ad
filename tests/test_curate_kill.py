"""Killed at random moments, driver and workers, in this process and on Ray: always the same tables in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from curate_runs import below, command, curate, decoders, event, fill, hands, kill, parent, recipe, until
from table_digest import digest

from curate.tables import Tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

VICTIMS = {True: ("driver", "decoder"), False: ("driver", "decoder", "hand")}


@pytest.fixture(scope="module")
def small(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(generated, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Tables of a run that nothing disturbed, and how long it took."""
    workspace, started = tmp_path_factory.mktemp("whole") / "work", time.monotonic()
    curate(workspace, small)
    return digest(workspace), time.monotonic() - started


def begun(workspace: Path, small: Path, local: bool, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(workspace, small, *options, local=local), stdout=-1, stderr=-1, text=True,
                            cwd=small.parent)  # fmt: skip


def victim(process: subprocess.Popen[str], who: str, draw: random.Random) -> int | None:
    if who == "driver":
        return process.pid
    found = until(lambda: (decoders if who == "decoder" else hands)(process.pid), process)
    return draw.choice(sorted(found)) if found else None


@pytest.mark.parametrize("local", [True, False], ids=["here", "ray"])
def test_killed_at_ten_random_moments(
    whole: tuple[dict[str, str], float], small: Path, tmp_path: Path, local: bool
) -> None:
    """A run whose driver is killed is begun again over what it left; one that loses a worker goes on, and a new one begins."""
    expected, seconds = whole
    draw, hit, finished, round_ = random.Random(17), dict.fromkeys(VICTIMS[local], 0), 0, 0
    for moment in range(25):  # some come too late: the run has ended by then, or nobody is there to be killed
        if sum(hit.values()) == 10:
            break
        workspace, started = tmp_path / f"work-{round_}", time.monotonic()
        process = begun(workspace, small, local)
        who = VICTIMS[local][moment % len(VICTIMS[local])]
        time.sleep(draw.uniform(0.2, 0.9 * seconds))
        pid = victim(process, who, draw)
        killed = pid is not None and process.poll() is None and kill(pid)
        hit[who] += killed
        _, said = process.communicate(timeout=240)
        wanted = -signal.SIGKILL if killed and who == "driver" else 0
        assert process.returncode == wanted, (moment, who, said[-2000:])
        assert "quarantined" not in said
        if process.returncode == 0:
            assert digest(workspace) == expected
            finished, round_ = finished + 1, round_ + 1
            seconds = seconds if killed else min(seconds, time.monotonic() - started)
    last = tmp_path / f"work-{round_}"
    curate(last, small, local=local)
    assert digest(last) == expected
    assert not list(last.rglob(".unit-*")) and not list(last.rglob("*.part"))
    assert sum(hit.values()) == 10 and all(hit.values()) and finished >= 3, (hit, finished)


def test_a_job_that_lost_its_worker_too_often_is_given_up_and_all_else_is_done(small: Path, tmp_path: Path) -> None:
    """With one attempt: the unit whose hand dies is left, the other two are done, the command ends with 1 and goes on later."""
    process = begun(tmp_path / "work", small, False, "--set", "curate.workers.attempts=1")
    found = until(lambda: decoders(process.pid), process)
    assert found and kill(parent(found[0]))
    out, said = process.communicate(timeout=240)
    assert process.returncode == 1 and "lost its worker 1 times" in said and "Traceback" not in said
    assert "scan of unit" in said and not event(out, "curated")
    parts = {path.name for path in (tmp_path / "work").glob("videos-*/unit-*.parquet")}
    assert len(parts) == 2, "the other units are there"
    assert curate(tmp_path / "work", small)["units"] == 1


def test_a_worker_that_hangs_is_ended_and_its_job_begun_again(
    whole: tuple[dict[str, str], float], small: Path, tmp_path: Path
) -> None:
    """A hand that is stopped for good, as by a library that never returns."""
    process = begun(tmp_path / "work", small, False, "--set", "curate.workers.hung_s=12.0")
    found = until(lambda: decoders(process.pid), process)
    assert found
    os.kill(parent(found[0]), signal.SIGSTOP)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0 and "hung: not a word in 12 s" in said and "begun again" in said, said[-2000:]
    assert digest(tmp_path / "work") == whole[0]


@pytest.mark.parametrize("local", [True, False], ids=["here", "ray"])
def test_a_decoder_that_hangs_twice_costs_one_video(small: Path, tmp_path: Path, local: bool) -> None:
    """A decoder is stopped for good, and so is the one that takes its place: the run goes on without that video."""
    process = begun(tmp_path / "work", small, local, "--set", "curate.stall_s=15.0", "--set", "curate.max_loss=0.5")
    seen: set[int] = set()

    def in_its_place() -> set[int]:
        """Decoders that have begun since the first one ended."""
        there = set(decoders(process.pid))
        if alive(first):
            seen.update(there)
        return there - seen

    (first, *_) = until(lambda: decoders(process.pid), process)
    os.kill(first, signal.SIGSTOP)
    second = until(in_its_place, process)
    assert second
    os.kill(second.pop(), signal.SIGSTOP)
    out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-2000:]
    videos = Tables(recipe(tmp_path / "work", small)).read("videos").to_pylist()
    lost = [row["reason"] for row in videos if row["status"] == "quarantined"]
    assert len(lost) == 1 and lost[0].startswith("2 strikes: hung: no frame in 15 s"), lost
    assert sum(row["status"] == "ok" for row in videos) >= 7 and event(out, "curated")


@pytest.mark.parametrize(("local", "number"), [(True, signal.SIGINT), (False, signal.SIGINT), (False, signal.SIGTERM)])
def test_a_signal_ends_a_run_with_its_code_and_nothing_stays(
    small: Path, tmp_path: Path, local: bool, number: int
) -> None:
    process = begun(tmp_path / "work", small, local)
    assert until(lambda: decoders(process.pid), process)
    left = set(below(process.pid))
    process.send_signal(number)
    out, said = process.communicate(timeout=240)
    assert process.returncode == 128 + number and "go on with: curate --footage" in said
    assert event(out, "stages")["stages"]["scan"]["jobs"] >= 1, (
        "the jobs at hand were finished, and what they cost is said"
    )
    until_gone(left)
    assert curate(tmp_path / "work", small)["made"]


def test_a_killed_driver_takes_its_private_ray_with_it(small: Path, tmp_path: Path) -> None:
    process = begun(tmp_path / "work", small, False)
    assert until(lambda: decoders(process.pid), process)
    left = set(below(process.pid))
    process.kill()
    process.communicate()
    until_gone(left)


def until_gone(pids: set[int], patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while (there := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not there, {pid: Path(f"/proc/{pid}/cmdline").read_bytes()[:80] for pid in there}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
