"""SIGKILL inside the saving of a checkpoint: the last good one is used, nothing half written is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BEFORE, NEXT = 5, 10


def killed_saves(folder: Path, *seconds: str) -> list[dict[str, Any]]:
    script = str(Path(__file__).with_name("kill_saves.py"))
    done = subprocess.run([sys.executable, script, str(folder), *seconds], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def whole(found: dict[str, Any]) -> bool:
    """All numbers of all files are those of one step."""
    return found == {"step": found["step"], "said": found["step"], "values": [found["step"]]}


def test_a_kill_at_any_step_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    told = killed_saves(tmp_path)
    assert [one["killed"] for one in told] == [True] * (len(told) - 1) + [False]
    assert (
        len(told) > 15
    )  # the folder made, three files and state.json written, synced, renamed, the former one removed
    assert all(whole(one["found"]) for one in told)
    steps = [one["found"]["step"] for one in told]
    assert steps == sorted(steps) and set(steps) == {BEFORE, NEXT}  # from some step on it is the new one
    assert any(f".step-{NEXT:08d}.part" in one["left"] for one in told)
    assert all(one["after"] == {"step": NEXT, "said": NEXT, "values": [NEXT]} for one in told)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_the_bytes(tmp_path: Path) -> None:
    """Files of 12 MB, killed from outside at ten times of a save."""
    told = killed_saves(tmp_path, *(f"{0.01 * 1.6**k:.3f}" for k in range(10)))
    assert all(whole(one["found"]) for one in told)
    assert all(one["after"]["step"] == NEXT and whole(one["after"]) for one in told)
    assert any(any(name.endswith(".part") for name in one["left"]) for one in told)
