"""Local files and object stores behave alike; nothing half-written is ever seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from media import storage


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    return f"memory://{tmp_path.name}"


def test_write_read_find_remove(root: str) -> None:
    path = storage.join(root, "a", "b.bin")
    assert not storage.exists(path) and storage.find(root) == []
    storage.write_bytes(path, b"0123456789")
    storage.write_bytes(storage.join(root, "a", "c.txt"), b"x")
    assert storage.read_bytes(path) == b"0123456789" and storage.read_range(path, 3, 4) == b"3456"
    assert [storage.name(entry.path) for entry in storage.find(root, ".bin")] == ["b.bin"]
    assert [entry.bytes for entry in storage.find(root)] == [10, 1]
    assert storage.folders(root) == ["a"]
    storage.remove(storage.join(root, "a"))
    assert storage.find(root) == []


def test_a_failing_writer_leaves_the_old_file_and_no_rest(root: str) -> None:
    path = storage.join(root, "table.parquet")
    storage.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), storage.writing(path) as file:
        file.write(b"new, half")
        raise RuntimeError("killed here")
    assert storage.read_bytes(path) == b"old"
    assert [storage.name(entry.path) for entry in storage.find(root)] == ["table.parquet"]


def test_the_tag_changes_with_the_content(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    storage.write_bytes(path, b"1")
    before = storage.stat(path)
    os.utime(path, ns=(0, 12345))
    assert storage.stat(path).tag != before.tag


def test_only_regular_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "absent")
    assert [storage.name(entry.path) for entry in storage.find(str(tmp_path))] == ["real.mp4"]


def test_patterns(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c[1].mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert len(storage.expand(f"{tmp_path}/*.mp4")) == 3
    assert storage.expand(f"{tmp_path}/c[1].mp4") == [f"{tmp_path}/c[1].mp4"]  # a name that exists is itself
    assert storage.expand(f"{tmp_path}/none-*.mp4") == []
