"""Processes that train together while one of them is busy, looks at the wrong disk, or fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cache.read import open_cache
from pipelines import RecipeError
from tests import train_workspace
from tests.spread_faults import ADAPTED
from tests.test_train_spread import launched
from train import adapters, checkpoint, network, stages
from train.distributed import World, joined


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run's folder with 41 checkpoints, of which the first one is whole; and what two processes told of it."""
    folder = tmp_path_factory.mktemp("together")
    for step in range(1, 42):
        checkpoint.save(str(folder), step, {"model": {"a": torch.zeros(3)}}, {})
    for one in sorted((folder / "checkpoints").iterdir())[1:]:
        (one / "model.safetensors").write_bytes(b"")
    lines = [json.loads(line) for line in launched(2, "spread_faults.py", str(folder)).splitlines()]
    return folder, sorted(lines, key=lambda one: one["rank"])


@pytest.mark.slow
def test_one_may_work_alone_for_longer_than_a_sum_may_take(tmp_path: Path) -> None:
    """The first one draws samples, or sends a checkpoint to a store: longer than nccl's ten minutes."""
    lines = launched(2, "spread_faults.py", str(tmp_path), "patience").splitlines()
    assert [json.loads(line)["patience"] for line in lines] == ["together", "together"]


def test_all_look_for_the_newest_checkpoint_at_once(run) -> None:
    folder, told = run
    assert [one["broken"] for one in told] == [1, 1]
    left = sorted(one.name for one in (folder / "checkpoints").iterdir())
    assert left[-1] == "step-00000001" and len(left) == 41 and all(one.startswith("broken-") for one in left[:-1])


def test_machines_without_a_common_disk_are_told_so(run) -> None:
    first, second = (one["apart"] for one in run[1])
    assert first == "shared" and "put the workspace where all machines reach it" in second


def test_gradients_that_wait_to_be_summed_are_whole_in_the_probe_and_in_the_plan(run) -> None:
    """Of 13 billion weights 52 GB on each GPU, where the parts of eight are 6.5."""
    for one in (one["held"] for one in run[1]):
        assert one["step"] == one["plan"]
        assert one["micro_batch"] == pytest.approx(one["plan"] / 2, rel=0.01)


def test_adapters_on_a_network_that_no_process_holds_whole_begin_as_on_one(run, tmp_path: Path) -> None:
    """Its frozen weights and the adapters' start are those of a network that is made, loaded and adapted in one piece."""
    folder, told = run
    recipe = train_workspace.recipe(folder, ADAPTED)
    settings, stage = open_cache(recipe).settings, recipe.stages["s"]
    plain = stages.build(stages.size_of(recipe), stages.widths_of(settings), stage.seed)
    kept = adapters.base_of(str(folder / "runs" / "s"))
    assert kept is not None and stage.lora is not None
    assert all(torch.equal(one, kept[name]) for name, one in plain.state_dict().items()) and len(kept) > 50
    adapters.put_on(plain, stage.lora, stage.seed)
    wanted = {name: float(one.detach().double().sum()) for name, one in plain.named_parameters()}
    assert [one["adapted"] for one in told] == [pytest.approx(wanted, rel=1e-12)] * 2

    alone, spread = network.of_stage(
        recipe, "s", World(0, 1, torch.device("cpu")), settings, str(folder / "runs" / "s")
    )
    assert not spread and all(torch.equal(one, dict(plain.named_parameters())[name])
                              for name, one in alone.named_parameters())  # fmt: skip
    assert {name for name, one in alone.named_parameters() if one.requires_grad} == {
        name for name in wanted if name.endswith((".lora_A", ".lora_B"))
    }

    other = recipe.model_copy(update={"model": "small"})
    with pytest.raises(RecipeError, match=r"weights of another network: .* is (missing|not known)"):
        network.of_stage(other, "s", World(0, 1, torch.device("cpu")), settings, str(folder / "runs" / "s"))


def test_who_fails_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking leave is a collective too: with nccl it would wait for those who are in the middle of a sum."""
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    left: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "new_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append("left"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with joined("cpu"):
        pass
    assert left == ["left"]
    with pytest.raises(ValueError), joined("cpu"):
        raise ValueError
    assert left == ["left"]
