from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException

from media import storage
from train import adapters, checkpoint, fetched, metrics, pieces
from train.distributed import World
from train.saving import Saver


def tensors(value: float) -> checkpoint.Tensors:
    return {"model": {"a.b": torch.full((3, 2), value)}, "optimiser": {"step/a.b": torch.tensor(value)}}


def steps(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / "checkpoints").iterdir())


def test_what_is_saved_comes_back(tmp_path):
    checkpoint.save(str(tmp_path), 7, tensors(0.1), {"stage": "s"})
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and found.step == 7 and found.state["stage"] == "s"
    loaded = checkpoint.load(found)
    assert torch.equal(loaded["model"]["a.b"], torch.full((3, 2), 0.1))
    assert loaded["optimiser"]["step/a.b"].shape == ()
    assert steps(tmp_path) == ["step-00000007"]  # nothing half-made beside it


def test_the_newest_and_the_milestones_stay(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoint.save(str(tmp_path), step, tensors(step), {})
        checkpoint.prune(str(tmp_path), 2, {5})
    assert steps(tmp_path) == ["step-00000005", "step-00000015", "step-00000020"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "garble"])
def test_a_broken_one_is_set_aside_and_the_one_before_is_used(tmp_path, capsys, damage):
    for step in (5, 10):
        checkpoint.save(str(tmp_path), step, tensors(step), {})
    newest = tmp_path / "checkpoints" / "step-00000010"
    if damage == "truncate":
        (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-3])
    elif damage == "remove":
        (newest / "optimiser.safetensors").unlink()
    else:
        (newest / "state.json").write_text("{")
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and found.step == 5
    assert steps(tmp_path) == ["broken-step-00000010", "step-00000005"]
    assert "set aside" in capsys.readouterr().err


def test_a_flipped_bit_is_refused(tmp_path):
    path = Path(checkpoint.save(str(tmp_path), 5, tensors(5), {})) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = checkpoint.latest(str(tmp_path))
    assert found is not None
    with pytest.raises(ValueError, match="not the bytes that were written"):
        checkpoint.load(found)


def test_on_an_object_store_state_goes_last():
    folder = "memory://checkpoint-test/run"
    checkpoint.save(folder, 3, tensors(3), {})
    found = checkpoint.latest(folder)
    assert found is not None and found.step == 3
    assert torch.equal(checkpoint.load(found)["model"]["a.b"], torch.full((3, 2), 3.0))
    checkpoint.save(folder, 4, tensors(4), {})
    checkpoint.prune(folder, 1, ())
    assert checkpoint.latest(folder).step == 4


def test_processes_of_a_machine_fetch_from_a_store_once(tmp_path, monkeypatch):
    """Eight of them, each with its own 52 GB of 13 billion weights, would fill most disks for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = "memory://checkpoint-once/run"
    checkpoint.save(folder, 3, tensors(3), {})
    found = checkpoint.latest(folder)
    assert found is not None
    with checkpoint._fetching(found) as one:
        path = Path(one("model.safetensors"))
        with checkpoint._fetching(found) as other:
            before = path.stat()
            assert other("model.safetensors") == str(path) and path.stat() == before
        assert path.exists()  # the first one still reads it
    assert not path.exists() and not list(tmp_path.glob("*/"))
    checkpoint.save(folder, 3, tensors(4), {})  # a run that went back: what a killed process left is not taken for it
    again = checkpoint.latest(folder)
    assert again is not None
    with checkpoint._fetching(found) as one, checkpoint._fetching(again) as other:
        assert Path(other("model.safetensors")).parent != path.parent
        with pytest.raises(ValueError, match="not the bytes that were written"):
            one("model.safetensors")


def test_what_another_put_where_weights_are_fetched_to_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with fetched.together(["here"]) as folder:
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    (tmp_path / "theirs").mkdir()
    Path(folder).symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError, match="made by another user; set TMPDIR"), fetched.together(["here"]):
        pass


def test_frozen_weights_come_back_from_a_store_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, state = "memory://base-once/run", {"a.b": torch.arange(6.0).view(3, 2)}
    assert adapters.base_of(folder) is None and adapters.kept_base(folder) is None
    adapters.keep_base(folder, state)
    found = adapters.base_of(folder)
    assert found is not None and torch.equal(found["a.b"], state["a.b"]) and adapters.kept_base(folder)
    assert not list(tmp_path.glob("*/"))


def saver(folder: Path) -> Saver:
    return Saver(str(folder), World(0, 1, torch.device("cpu")), keep_last=2, milestones=())


def test_what_is_saved_beside_the_training_are_the_weights_of_that_step(tmp_path):
    weights = tensors(1.0)
    with saver(tmp_path) as saving:
        saving.save(1, weights, {})
        weights["model"]["a.b"].fill_(7.0)  # the next step, while the thread writes
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and torch.equal(checkpoint.load(found)["model"]["a.b"], torch.full((3, 2), 1.0))


@pytest.mark.parametrize("moment", ["save_file", "file_of"])
def test_a_save_that_dies_half_way_leaves_the_former_one(tmp_path, monkeypatch, moment):
    checkpoint.save(str(tmp_path), 5, tensors(5), {})
    with monkeypatch.context() as broken:
        broken.setattr(pieces, moment, lambda *given: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(CheckpointException, match="no space left"), saver(tmp_path) as saving:
            saving.save(10, tensors(10), {})
    assert steps(tmp_path) == [".step-00000010.part", "step-00000005"]
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and found.step == 5
    checkpoint.save(str(tmp_path), 10, tensors(10), {})
    assert steps(tmp_path) == ["step-00000005", "step-00000010"]


@pytest.mark.parametrize("folder", ["local", "memory://checkpoint-pieces/run"])
def test_pieces_of_several_processes_are_read_whole_and_in_part(tmp_path, folder):
    """Files as three processes leave them, one without a row of its own."""
    root = str(tmp_path) if folder == "local" else folder
    whole = torch.arange(10.0).view(5, 2)
    path = Path(checkpoint.save(str(tmp_path / "made"), 4, {"average": {"w": whole}, "model": {"w": whole}}, {}))
    state = json.loads((path / "state.json").read_text())
    del state["files"]["average.safetensors"]
    for rank, rows in ((0, slice(0, 3)), (2, slice(3, 5))):
        file = str(path / f"average-{rank:05d}.safetensors")
        save_file({"w": whole[rows].clone()}, file, {"pieces": json.dumps({"w": [[rows.start, 0], [5, 2]]})})
        made = pieces.file_of(file)
        state["files"][made.name] = {"bytes": made.bytes, "crc": made.crc}
    target = storage.join(root, "checkpoints", "step-00000004")
    for name in state["files"]:
        storage.write_bytes(storage.join(target, name), (path / name).read_bytes())
    storage.write_bytes(storage.join(target, "state.json"), json.dumps(state).encode())
    found = checkpoint.latest(root)
    assert found is not None
    assert torch.equal(checkpoint.load(found)["average"]["w"], whole)
    into = {"average": {"w": torch.zeros(5, 2)}}
    checkpoint.restore(found, into)
    assert torch.equal(into["average"]["w"], whole)
    with pytest.raises(ValueError, match="average of another network: missing \\['v'\\]"):
        checkpoint.restore(found, {"average": {"w": torch.zeros(5, 2), "v": torch.zeros(1)}})
    with pytest.raises(ValueError, match="Size mismatch"):
        checkpoint.restore(found, {"average": {"w": torch.zeros(5, 3)}})
    joined = tmp_path / "one.safetensors"
    pieces.write_whole([str(path / name) for name in state["files"] if name.startswith("average")], str(joined))
    assert torch.equal(load_file(joined)["w"], whole)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.latest(str(tmp_path / "nowhere")) is None


def test_metrics_are_cut_back_to_the_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0 / step}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 5, "lo')
    metrics.cut_back(str(path), 3)
    assert [one["step"] for one in metrics.read(str(path))] == [1, 2, 3]
    metrics.cut_back(str(tmp_path / "absent"), 3)


def test_clock():
    assert [metrics.clock(s) for s in (3.4, 59.6, 125, 7384)] == ["3 s", "1 min 00 s", "2 min 05 s", "2 h 03 min"]
