"""A unit's scan with several processes: the parts are those of one, file by file, a broken file among them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from curate_runs import recipe
from table_digest import digest

import pipelines
from curate import unit
from curate.scanning import must_lie_here
from curate.tables import Tables
from curate.unit import SCAN, Decoder, Done, Job
from media import storage

FILES = ("letter.mp4", "still.mp4", "squares.webm", "picture_flower_small.jpg")
WANTED = ["clips", "proxies", "hashes", "scores.exposure", "scores.borders", "videos"]


@pytest.fixture(scope="module")
def footage(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unit")
    for name in FILES:
        shutil.copy(generated / name, folder / name)
    return folder


def scanned(footage: Path, workspace: Path, threads: int) -> tuple[Done, dict[str, str], list[str]]:
    """Done, tables, and what the worker said, of a unit of all files in an order that is not that of their lengths."""
    chosen = recipe(workspace, footage)
    files = [
        (entry.path, entry.bytes, entry.tag, f"{k:016x}", 0, False)
        for k, entry in enumerate(storage.find(str(footage)))
    ]
    said: list[str] = []
    with Decoder() as decoder:
        done = unit.run(Job(SCAN, 0, pipelines.resolved(chosen), files, WANTED, threads),
                        lambda what, _count: said.append(what), decoder)  # fmt: skip
    return done, digest(workspace), said


def test_three_processes_give_the_parts_of_one(footage: Path, tmp_path: Path) -> None:
    one, expected, _ = scanned(footage, tmp_path / "one", 1)
    three, made, said = scanned(footage, tmp_path / "three", 3)
    assert made == expected and len(made) == len(WANTED)
    assert said.count("video") == three.videos == len(FILES)
    assert (three.clips, three.frames, three.decoded, three.video_s) == (
        one.clips,
        one.frames,
        one.decoded,
        one.video_s,
    )
    rows = pq.read_table(Tables(recipe(tmp_path / "three", footage)).part("videos", 0)).to_pylist()
    assert [Path(row["path"]).name for row in rows] == sorted(FILES)
    assert {row["status"] for row in rows} == {"ok", "failed"}
    assert one.frames == sum(row["frames_decoded"] for row in rows) == one.decoded > 50
    assert 0 < one.kernel_s <= one.seconds and one.cpu_s > 0
    assert not list(tmp_path.rglob(".unit-*"))


def test_parts_that_a_worker_wrote_to_a_disk_of_its_own_are_missed(footage: Path, tmp_path: Path) -> None:
    """A machine that does not share the workspace: nothing was lost silently, and nothing is made of what is not there."""
    done, _, _ = scanned(footage, tmp_path / "there", 1)
    must_lie_here(Tables(recipe(tmp_path / "there", footage)), done)
    with pytest.raises(
        RuntimeError, match=r"clips.*: a worker wrote it and it is not here; put the workspace where all"
    ):
        must_lie_here(Tables(recipe(tmp_path / "here", footage)), done)
