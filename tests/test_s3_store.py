"""An object store, spoken to over HTTP: the same rows as from a local disk, and one line when it does not answer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.tables import Tables
from media import storage
from pipelines import Recipe, load
from tests.curate_runs import CURATE, LEAN, LEAN_OPTIONS

FILES = ("pans.mp4", "pans.json", "still.mp4", "empty.mp4", "picture_temple.png")
PLACES = ("path", "tag")  # columns that tell where a file lies and what its store calls its state


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The endpoint of an S3 server of this process, with a bucket `films` and keys in the environment."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server], an S3 server for tests")
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
                       "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
                       "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}  # fmt: skip
        for name, value in environment.items():
            patch.setenv(name, value)
        import fsspec
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("films")
        yield environment["AWS_ENDPOINT_URL"]
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def small(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for name in FILES:
        shutil.copy(generated / name, folder / name)
    return folder


def curate(*options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*CURATE, *options], capture_output=True, text=True, timeout=240, cwd="/")
    assert done.returncode == code, done.stderr[-3000:]
    return done


def curated(footage: str, workspace: str) -> dict[str, Any]:
    said = curate("--local", "--json", "--footage", footage, "--workspace", workspace, *SMALL).stdout
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return next(event for event in events if event["what"] == "curated")


SMALL = (*LEAN_OPTIONS, "--set", "curate.max_loss=0.5")


def recipe(workspace: str) -> Recipe:
    return load(None, "demo", (*LEAN, "curate.max_loss=0.5"), workspace=workspace)


@pytest.fixture(scope="module")
def both(store: str, small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Tables]:
    """The tables of a run from disk to disk, and of one from the store to the store."""
    for path in sorted(small.iterdir()):
        storage.write_bytes(f"s3://films/raw/{path.name}", path.read_bytes())
    local = str(tmp_path_factory.mktemp("local") / "work")
    curated(str(small), local)
    curated("s3://films/raw", "s3://films/work")
    return Tables(recipe(local)), Tables(recipe("s3://films/work"))


def rows(tables: Tables, name: str) -> list[dict[str, Any]]:
    table = tables.ledger(name.removeprefix("sets/")) if name.startswith("sets/") else tables.read(name)
    plain = table.drop_columns([column for column in PLACES if column in table.column_names])
    return sorted(plain.to_pylist(), key=repr)


def test_rows_are_those_of_a_local_run(both: tuple[Tables, Tables]) -> None:
    local, remote = both
    names = ["videos", "clips", "proxies", "hashes", "embeddings", "captions", "concepts"]
    names += [f"scores.{signal}" for signal in local.signals] + [f"sets/{name}" for name in local.recipe.sets]
    for name in names:
        assert rows(local, name) == rows(remote, name), name
        assert storage.name(local.folder(name)) == storage.name(remote.folder(name)) if "/" not in name else True
    assert {Path(path).name for path in remote.read("videos")["path"].to_pylist()} == set(FILES)
    assert remote.read("clips").num_rows >= 4


@pytest.mark.slow
def test_a_second_run_makes_nothing_and_fetches_no_film(both: tuple[Tables, Tables]) -> None:
    again = curated("s3://films/raw", both[1].workspace)
    assert (again["videos"], again["frames_decoded"], again["made"]) == (0, 0, [])


def test_no_lock_and_nothing_half_written_stays(both: tuple[Tables, Tables]) -> None:
    names = [storage.name(entry.path) for entry in storage.find(both[1].workspace)]
    assert not [name for name in names if name.startswith(".") or name.endswith(".part")]
    assert "index.html" in names


@pytest.mark.slow
def test_questions_are_answered_from_the_store(both: tuple[Tables, Tables]) -> None:
    place = ("--workspace", both[1].workspace, *SMALL)
    assert "kept" in curate("status", *place).stdout
    assert "video_256px" in curate("what-if", "sets.video_256px.keep.motion.min=5.0", *place).stdout
    assert "sharpness" in curate("explain", both[1].read("clips", ["clip_id"])["clip_id"][0].as_py(), *place).stdout


@pytest.mark.slow
def test_what_is_forgotten_is_gone_from_the_store(both: tuple[Tables, Tables]) -> None:
    clip = both[1].ledger("base")["clip_id"][0].as_py()
    curate("forget", clip, "--workspace", both[1].workspace)
    curate("gc", "--yes", *SMALL, "--workspace", both[1].workspace)
    after = Tables(recipe(both[1].workspace))
    assert clip not in after.ledger("base")["clip_id"].to_pylist()
    assert clip not in after.read("proxies")["clip_id"].to_pylist()
    parts = storage.find(after.folder("clips"), ".parquet")
    assert parts and all(clip.encode() not in storage.read_bytes(entry.path) for entry in parts)


def test_a_writer_that_fails_leaves_no_object(store: str) -> None:
    with pytest.raises(RuntimeError), storage.writing("s3://films/half.bin") as file:
        file.write(b"half")
        raise RuntimeError("killed here")
    assert not storage.exists("s3://films/half.bin") and storage.find("s3://films/absent") == []


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("place", ["footage", "workspace"])
def test_a_bucket_that_is_not_there_is_one_line_and_code_2(store: str, small: Path, tmp_path: Path, place: str) -> None:
    given = {"footage": str(small), "workspace": str(tmp_path / "work")} | {place: "s3://no-such-bucket/x"}
    said = curate("--local", "--footage", given["footage"], "--workspace", given["workspace"], code=2).stderr
    assert "no-such-bucket" in said and len(said.strip().splitlines()) == 1, said


@pytest.mark.parametrize("endpoint", ["refused", "silent"])
def test_a_store_that_does_not_answer_is_one_line_within_twenty_seconds(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """refused: nobody listens there. silent: packets vanish (TEST-NET, RFC 5737)."""
    address = f"http://127.0.0.1:{free_port()}" if endpoint == "refused" else "http://192.0.2.1:9"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    started = time.monotonic()
    options = ("--footage", "s3://films/raw", "--workspace", str(tmp_path / "work"))
    said = curate("--local", *options, code=2).stderr
    assert time.monotonic() - started < 25 and len(said.strip().splitlines()) == 1, said
    assert address in said and "Traceback" not in said
