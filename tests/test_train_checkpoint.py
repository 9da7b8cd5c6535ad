from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from train import checkpoint, metrics


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
