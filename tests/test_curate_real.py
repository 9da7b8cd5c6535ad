"""Real footage in every state of repair, whole: the command ends well, and Ray gives the rows of one process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from curate.tables import Tables
from pipelines import load

CURATE = str(Path(sys.executable).with_name("curate"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def curate(footage: Path, workspace: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [CURATE, "--footage", str(footage), "--workspace", str(workspace), "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=3000, env=os.environ | environment)


@pytest.fixture(scope="module")
def alone(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace made in one process."""
    workspace = tmp_path_factory.mktemp("alone") / "work"
    done = curate(footage, workspace, "--local")
    assert done.returncode == 0, done.stderr[-3000:]
    return workspace


def test_every_file_is_a_row_with_a_reason(alone: Path, footage: Path) -> None:
    rows = Tables(load(None, "demo", footage=(str(footage),), workspace=str(alone))).read("videos").to_pylist()
    files = {str(path) for path in footage.rglob("*") if path.is_file()}
    assert {row["path"] for row in rows} == files
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    status = Counter(row["status"] for row in rows)
    assert status["ok"] > 100 and status["failed"] and status["unsupported"]


def test_a_second_run_decodes_nothing(alone: Path, footage: Path) -> None:
    done = curate(footage, alone, "--local")
    event = next(json.loads(line) for line in done.stdout.splitlines() if '"curated"' in line)
    assert done.returncode == 0 and event["frames_decoded"] == 0


def test_ray_gives_the_same_bytes(alone: Path, footage: Path, tmp_path: Path) -> None:
    """In the same place, as parts name their workspace: every Parquet file is equal to the bit."""
    kept, before = alone.with_name("kept"), contents(alone)
    alone.rename(kept)
    try:
        done = curate(footage, alone, RAY_ADDRESS="")
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(before) > 100 and contents(alone) == before
    finally:
        shutil.rmtree(alone, ignore_errors=True)
        kept.rename(alone)


def contents(workspace: Path) -> dict[str, str]:
    """Every table's part -> digest of its bytes."""
    files = sorted(workspace.rglob("*.parquet"))
    return {str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_loss_allowed_ends_with_the_first_that_failed(alone: Path, footage: Path) -> None:
    done = curate(footage, alone, "--local", "--set", "curate.max_loss=0.0")
    assert done.returncode == 4 and "first" in done.stderr
