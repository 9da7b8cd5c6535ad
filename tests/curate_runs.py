"""Runs of the `curate` command from outside, for the tests that watch, kill and repeat them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import Recipe, load

BIN = Path(sys.executable).parent
CURATE = [str(BIN / "curate")]
FILES = ("pans.mp4", "pans.json", "pans_small.mp4", "still.mp4", "turned.mp4", "slow.avi", "squares.webm", "empty.mp4")
STILLS = ("letter.mp4", "picture_temple.png", "picture_flower.jpg", "picture_flower_small.jpg")
DEAR = ("camera", "clarity", "quality", "overlay", "text", "people")  # most of the cost, none of the orchestration
LEAN = ("curate.unit_videos=4", "sets.base.keep.text_left=null", "sets.people.keep=null",
        *(f"curate.signals.{name}=null" for name in DEAR))  # fmt: skip
LEAN_OPTIONS = tuple(word for change in LEAN for word in ("--set", change))


def fill(generated: Path, folder: Path) -> Path:
    """A dozen generated files, one of them under two names."""
    for name in (*FILES, *STILLS):
        shutil.copy(generated / name, folder / name)
    shutil.copy(generated / "still.mp4", folder / "the_same_again.mp4")
    return folder


def command(workspace: Path, footage: Path, *options: str, local: bool = True) -> list[str]:
    place = ["--footage", str(footage), "--workspace", str(workspace)]
    return [*CURATE, *place, "--json", *LEAN_OPTIONS, *options, *(["--local"] if local else [])]


def events(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def event(said: str, what: str) -> dict[str, Any]:
    return next((one for one in events(said) if one["what"] == what), {})


def curate(workspace: Path, footage: Path, *options: str, code: int = 0, local: bool = True,
           patience_s: float = 240.0) -> dict[str, Any]:  # fmt: skip
    """Run the command; the event `curated` of its --json, or {"error": what it said}."""
    done = subprocess.run(command(workspace, footage, *options, local=local), capture_output=True, text=True,
                          cwd=footage.parent, timeout=patience_s)  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    return event(done.stdout, "curated") or {"error": done.stderr}


def recipe(workspace: Path, footage: Path, *changes: str) -> Recipe:
    return load(None, "demo", (*LEAN, *changes), footage=(str(footage),), workspace=str(workspace))


# ----------------------------------------------------------------------------------------------------------- processes


def below(pid: int) -> dict[int, str]:
    """Every process that descends from one: pid -> command line."""
    every = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    parents = {one: parent(one) for one in every}
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {one for one, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return {one: line for one in found if (line := _command_line(one))}


def parent(pid: int) -> int:
    """0 for a process that is no more."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def hands(pid: int) -> list[int]:
    """Ray's processes below one that have begun to work."""
    return [one for one, line in below(pid).items() if line.startswith("ray::_Hand")]


def decoders(pid: int) -> list[int]:
    return [one for one, line in below(pid).items() if "curate.isolate" in line]


def until(found: Any, process: subprocess.Popen[Any], patience_s: float = 120.0) -> Any:
    """What `found()` gives as soon as it is something; nothing when the process ended first."""
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        if what := found():
            return what
        time.sleep(0.05)
    return None


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def listening(pids: Iterator[int] | list[int]) -> list[str]:
    """Addresses, in hexadecimal as the kernel shows them, on which any of the processes listens."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(handle))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            field = line.split()
            if field[3] == "0A" and f"socket:[{field[9]}]" in sockets:
                found.append(field[1].split(":")[0])
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
