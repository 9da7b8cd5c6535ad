"""A workspace in buckets of a real S3 server: encoded there, read from there, locked there."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import cache_workspace as ws
import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer

import commands
from cache.read import open_cache
from cache.update import Options, update
from cache.verify import verify
from media import storage


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """s3://footage on a server of this machine; the endpoint is given as anybody would give it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": endpoint, **keys}.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # type: ignore[attr-defined]
        boto3.client("s3").create_bucket(Bucket="footage")
        yield "s3://footage"
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # type: ignore[attr-defined]
    server.stop()


def test_encoded_into_a_bucket_and_read_back(bucket: str, tmp_path: Path) -> None:
    files = ws.footage(tmp_path, videos=2, images=2)
    near = ws.fill(ws.recipe(tmp_path / "near"), files)
    far = ws.fill(ws.recipe(tmp_path, workspace=f"{bucket}/work"), files)
    options = Options(workers=0, device="cpu")
    local, remote = update(near, options, lambda line: None), update(far, options, lambda line: None)
    assert remote.folder.startswith("s3://footage/work/latents-")
    assert (remote.encoded, remote.failed, remote.buckets) == (local.encoded, local.failed, local.buckets)
    for path, data in ws.shard_bytes(local.folder).items():
        assert storage.read_bytes(storage.join(remote.folder, path)) == data
    again = update(far, options, lambda line: None)
    assert (again.encoded, again.text_tars) == (0, 0)
    ours, theirs = open_cache(near), open_cache(far, shelf=str(tmp_path / "shelf"))
    assert list(verify(theirs)) == [] and len(theirs) == 4
    for one, other in zip(ours.epoch("clip", "videos"), theirs.epoch("clip", "videos"), strict=True):
        assert one.clip_ids == other.clip_ids and torch.equal(one.latent, other.latent)


def test_what_is_broken_in_a_bucket_is_named(bucket: str, tmp_path: Path) -> None:
    """A flipped byte, a tar that is cut and one that is gone; nothing else."""
    chosen = ws.fill(ws.recipe(tmp_path, workspace=f"{bucket}/broken"), ws.footage(tmp_path, videos=2, images=2))
    folder = update(chosen, Options(workers=0, device="cpu"), lambda line: None).folder
    cache = open_cache(chosen, shelf=str(tmp_path / "shelf"))
    assert list(verify(cache)) == []
    name = max(cache.buckets, key=lambda one: len(cache.index(one)))
    path, start, size, _ = cache.rows(name).latents.place(0)
    data = bytearray(storage.read_bytes(path))
    data[start + size - 1] ^= 1
    storage.write_bytes(path, bytes(data))
    (fault,) = verify(cache)
    assert str(fault).startswith(f"{name}/{cache.index(name)['key'][0].as_py()}: its bytes")
    storage.write_bytes(path, bytes(data[: start + 10]))
    inside = cache.index(name)["shard"].to_pylist().count(0)
    found = list(verify(cache))
    assert len(found) == inside and all("ends before it" in one.what for one in found)
    storage.remove(path)
    found = list(verify(cache))
    assert len(found) == inside and all("is missing" in one.what for one in found)
    assert storage.join(folder, name, found[0].what.split()[2]) == path


def test_one_encoder_at_a_time_in_a_bucket(bucket: str) -> None:
    folder = f"{bucket}/work/latents-1"
    with commands.hold(folder, "encode"), pytest.raises(commands.Busy), commands.hold(folder, "encode"):
        pass
    with commands.hold(folder, "encode"):
        pass
