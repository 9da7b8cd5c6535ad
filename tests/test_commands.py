"""Exit codes, signals and the lock: seen from outside, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands

ROOT = Path(__file__).resolve().parent.parent


def ended(body: str) -> tuple[int, str]:
    code = f"import commands, pipelines\ndef body():\n    {body}\ncommands.main(body)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 0", 0),
        ("raise ValueError('what came')", 1),
        ("raise pipelines.RecipeError('sets.x: unknown key')", 2),
        ("open('/nonexistent/x')", 2),
        ("raise commands.Busy('held by 1')", 3),
        ("raise commands.TooMuchLost('2 of 3')", 4),
        ("raise commands.Interrupted(15)", 143),
    ],
)
def test_exit_codes_and_one_line_without_a_traceback(body: str, code: int) -> None:
    got, said = ended(body)
    assert got == code and "Traceback" not in said
    assert len(said.strip().splitlines()) == (0 if code == 0 else 1)


HOLDER = """
import commands, sys, time
def body():
    with commands.hold(sys.argv[1], "curate"):
        print("held", flush=True)
        time.sleep(60)
commands.main(body)
"""


@pytest.mark.parametrize("scheme", ["local"])
def test_a_second_holder_is_told_who_and_a_dead_one_is_replaced(tmp_path: Path, scheme: str) -> None:
    folder = str(tmp_path)
    first = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, cwd=ROOT)
    assert first.stdout is not None and first.stdout.readline() == b"held\n"
    second = subprocess.run([sys.executable, "-c", HOLDER, folder], capture_output=True, text=True, cwd=ROOT)
    assert second.returncode == 3 and f"process {first.pid}" in second.stderr
    first.kill()
    first.wait()
    with commands.hold(folder, "curate"):
        pass


def test_a_lease_on_a_store_is_exclusive_and_lapses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = f"memory://{tmp_path.name}-lease"
    with commands.hold(folder, "curate"), pytest.raises(commands.Busy), commands.hold(folder, "curate"):
        pass
    with commands.hold(folder, "curate"):
        monkeypatch.setattr(commands, "LEASE_S", 0.0)
        with commands.hold(folder, "curate"):
            pass


STOPPABLE = """
import commands, time
def body():
    stop = commands.Stop()
    print("ready", flush=True)
    for part in range(1000):
        time.sleep(0.05)
        stop.check()
commands.main(body)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_stops_between_parts_and_says_how_to_go_on(number: signal.Signals, code: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", STOPPABLE], stdout=-1, stderr=-1, text=True, cwd=ROOT)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, said = child.communicate(timeout=10)
    assert child.returncode == code and "go on with" in said


def test_progress_counts_and_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    progress = commands.Progress("clips", 4, as_json=True)
    progress.started = time.monotonic() - 2.0
    progress.add(2, frames=50)
    said = capsys.readouterr().out
    assert '"done": 2' in said and '"total": 4' in said and '"frames": 50' in said
    assert abs(float(said.split('"left_s": ')[1].split(",")[0].rstrip("}")) - 2.0) < 0.5


def test_clock() -> None:
    assert [commands.clock(s) for s in (5, 61, 3700)] == ["0:05", "1:01", "1:01:40"]
