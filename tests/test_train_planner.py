"""The planner: operations, memory and time of a stage before it runs, with and without a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import train_workspace
import yaml

import commands
import pipelines
from model.dit import DiT
from model.flops import parameters, training_flops
from model.sizes import SIZES
from pipelines import Lora, RecipeError
from train import forecast as forecasts
from train import planner
from train.gpus import GPUS, known
from train.memory import job_of, memory

TINY = SIZES["tiny"] | {"text_width": 64, "pooled_width": 32}


def saved_bytes(checkpointing: str, tokens: int, text: int) -> int:
    """What autograd really keeps of a forward pass, parameters and inputs aside: another way to count the same."""
    model = DiT(**TINY, checkpointing=checkpointing)
    inputs = (torch.randn(1, 16, 1, 16, tokens // 4), torch.rand(1), torch.randn(1, text, 64), None, torch.randn(1, 32))
    known_storages = {one.untyped_storage()._cdata for one in (*model.parameters(), *inputs) if one is not None}
    kept: dict[int, int] = {}

    def note(one: torch.Tensor) -> torch.Tensor:
        storage = one.untyped_storage()
        if storage._cdata not in known_storages:
            kept[storage._cdata] = storage.nbytes()
        held.append(one)
        return one

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda one: one):
        out = model(*inputs)
    assert out.requires_grad
    return sum(kept.values())


def test_activations_are_those_that_autograd_keeps() -> None:
    tokens, text = 512, 64
    found = memory(job_of(TINY, "none", "float32"), 1, tokens, text).activations
    assert found == pytest.approx(saved_bytes("none", tokens, text), rel=0.05)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing() -> None:
    none, selective, full = (
        memory(job_of(TINY, mode, "float32"), 2, 640, 32) for mode in ("none", "selective", "full")
    )
    assert full.activations < selective.activations < none.activations / 3
    double = memory(job_of(TINY, "none", "float32"), 4, 640, 32).activations
    assert double == pytest.approx(2 * none.activations, rel=0.05)


def test_states_are_counted_per_parameter() -> None:
    count = parameters(TINY)
    wide = memory(job_of(TINY, "none", "float32"), 1, 256, 32)
    assert (wide.weights, wide.gradients, wide.optimiser, wide.average) == (
        4 * count, 4 * count, 8 * count, 4 * count,
    )  # fmt: skip
    narrow = memory(job_of(TINY, "none", "bfloat16"), 1, 256, 32)
    assert (narrow.weights, narrow.gradients, narrow.optimiser) == (6 * count, 6 * count, 8 * count)
    split = memory(job_of(TINY, "none", "bfloat16", shards=4), 1, 256, 32)
    assert split.optimiser * 4 == narrow.optimiser and split.gathered > 0


def test_adapters_have_states_and_the_rest_has_none() -> None:
    adapted = memory(job_of(TINY, "none", "bfloat16", Lora(rank=2, targets=("qkv",))), 1, 256, 32)
    trained = 2 * sum(
        one.in_features + one.out_features
        for name, one in DiT(**TINY).named_modules()
        if "blocks" in name and "qkv" in name and isinstance(one, torch.nn.Linear) and "refiner" not in name
    )
    assert adapted.optimiser <= 8 * 2 * trained and adapted.weights < 2.5 * parameters(TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planner")
    recipe = train_workspace.fill(train_workspace.recipe(folder, {"micro_batches": 8}))
    plain = {key: value for key, value in pipelines.resolved(recipe).items() if key != "name"}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"default": "test", "recipes": {"test": plain}}))
    return folder


def leave(folder: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        given = ["--config", str(folder / "pipelines.yaml"), "--stage", "s", *arguments]
        commands.run(lambda: planner.app(given, standalone_mode=False))
    return int(left.value.code or 0)


def test_with_a_cache_samples_are_counted_and_without_one_views_are_taken(folder, tmp_path, capsys) -> None:
    assert leave(folder, "--json", "--gpus", "2") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"] == "cache" and [row["samples"] for row in found["buckets"]] == [8, 4]
    assert (found["micro_batches"], found["per_gpu"]) == (8, 4) and found["tokens_per_step"] <= 8 * 64
    size = SIZES["tiny"] | {"text_width": 640, "pooled_width": 128}
    row = found["buckets"][0]
    assert row["tokens"] == 16 and row["batch"] == 4 and row["filled"] == 1.0
    assert row["flops"] == pytest.approx(training_flops(size, 16, 64), rel=0.2)
    assert leave(folder, "--json", "--workspace", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["source"].startswith("views (")


def test_what_cannot_fit_is_named_and_numbers_of_gpus_are_refused(folder, capsys) -> None:
    assert leave(folder, "--gpu", "4090", "--set", "stages.s.tokens=500000") == 2
    told = capsys.readouterr()
    assert "DOES NOT FIT" in told.out and "buckets do not fit 24 GB" in told.err
    assert leave(folder, "--gpus", "3") == 2
    assert "cannot be shared out to 3 ranks, only to 1, 2, 4 or 8" in capsys.readouterr().err
    assert leave(folder, "--gpu", "h20") == 2
    assert "must be one of b200, h200" in capsys.readouterr().err


def test_gradients_held_between_micro_batches_are_counted_whole(folder) -> None:
    """FSDP2 sums them over the GPUs after the last of a step, unless the stage says otherwise."""

    def gradients(gpus: int, *more: str) -> float:
        recipe = pipelines.load(folder / "pipelines.yaml", None, ("stages.s.shard=full", *more))
        return forecasts.forecast(recipe, "s", GPUS["h100"], gpus, 0.5).buckets[0].memory.gradients

    whole = gradients(1)
    assert gradients(4) == whole  # two micro-batches on each
    assert gradients(4, "stages.s.reduce=micro_batch") == whole / 4
    assert gradients(8) == whole / 8


def test_seconds_are_operations_over_speed(folder) -> None:
    recipe = pipelines.load(folder / "pipelines.yaml")
    found = forecasts.forecast(recipe, "s", GPUS["h100"], 1, 0.5)
    assert found.seconds_per_step == pytest.approx(found.flops_per_step / (67e12 * 0.5))
    assert found.mfu == pytest.approx(0.5) and found.imbalance == pytest.approx(0)
    with pytest.raises(RecipeError, match="no stage 'x'"):
        forecasts.forecast(recipe, "x", GPUS["h100"], 1, 0.5)


def test_devices_are_known_by_their_names() -> None:
    assert known("NVIDIA H100 80GB HBM3") is GPUS["h100"] and known("NVIDIA H200") is GPUS["h200"]
    assert known("NVIDIA A100-SXM4-80GB") is GPUS["a100"] and known("NVIDIA GeForce RTX 4090") is GPUS["4090"]
    assert known("NVIDIA H100 PCIe") is GPUS["h100-pcie"] and known("cpu") is None


@pytest.mark.slow
@pytest.mark.parametrize("gpu, gpus, stages", [("h200", 64, None), ("h100", 64, "256px"), ("h200", 8, "256px")])
def test_the_shipped_recipe_fits_the_machines_that_it_names(gpu: str, gpus: int, stages: str | None, tmp_path: Path):
    recipe = pipelines.load(None, "hunyuan", workspace=str(tmp_path))
    for name in recipe.stages if stages is None else (one for one in recipe.stages if one.startswith(stages)):
        used = min(gpus, recipe.stages[name].micro_batches)  # fine-tuning is shared out to 32 at most
        found = forecasts.forecast(recipe, name, GPUS[gpu], used, 0.5)
        assert not [(name, row.bucket, row.memory.total) for row in found.buckets if not row.fits]
