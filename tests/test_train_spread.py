"""Weights spread over processes (FSDP2) against one process that holds them all: the same losses, norms and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from media import storage
from tests.spread_steps import CASES, COMPILED, run
from tests.test_s3_store import store
from train import adapters, checkpoint, stages
from train.distributed import World, parts_of

__all__ = ["store"]

ALONE = World(0, 1, torch.device("cpu"))


def numbers(told: list[dict[str, Any]]) -> list[float]:
    return [number for step in told for number in (*step["losses"], step["norm"])]


def launched(processes: int, script: str, *given: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(Path(__file__).with_name(script)), *given]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def together(folder: Path, processes: int, *cases: str) -> None:
    launched(processes, "spread_steps.py", str(folder), *cases)


def check(folder: Path, case: str) -> None:
    (folder / "one").mkdir(exist_ok=True)
    run(case, (CASES | COMPILED)[case] | {"compile": False}, ALONE, folder / "one")
    one, many = (json.loads((place / f"{case}.json").read_text()) for place in (folder / "one", folder))
    given = (CASES | COMPILED)[case]
    assert many["spread"] == (given["shard"] == "full") and not one["spread"]
    exact = given.get("precision") != "bfloat16"
    close = {"abs": 1e-9, "rel": 1e-9} if exact else {"abs": 0.02, "rel": 0.02}  # bf16 sums in another order
    assert numbers(many["steps"]) == pytest.approx(numbers(one["steps"]), **close)
    for record in (one, many):
        assert record["average_off"] < (1e-12 if exact else 1e-6)
        assert record["exchanged"]  # inside averaged() the network holds the average, to the bit
        assert record["resumed"] == record["steps"][3:]  # from a checkpoint written while step 4 changed the weights
    if exact:
        assert many["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-9)


def test_two_processes_equal_one_on_uneven_micro_batches(tmp_path):
    cases = ("full", "bfloat16")
    together(tmp_path, 2, *cases)
    for case in cases:
        check(tmp_path, case)
    saved = tmp_path / "full" / "checkpoints" / "step-00000003"
    assert [one.name for one in sorted(saved.iterdir())] == [
        "average-00000.safetensors", "average-00001.safetensors", "model.safetensors",
        "optimiser-00000.safetensors", "optimiser-00001.safetensors", "state.json",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [2, 4])
def test_every_way_of_spreading_equals_one_process(tmp_path, processes):
    """Four processes: two groups of two hold the same halves."""
    together(tmp_path, processes)
    for case in CASES:
        check(tmp_path, case)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_process_holds_the_whole_network(tmp_path):
    """Of 0.4 GB each of two processes takes its half and a tensor at a time; made whole it would take all and its half.
    Under adapters too, whose frozen weights are mapped: pages of a file, which the system takes back."""
    from tests import train_workspace
    from tests.spread_memory import SIZE, WIDTHS

    adapters.keep_base(
        stages.run_folder(train_workspace.recipe(tmp_path), "s"), stages.build(SIZE, WIDTHS, 0).state_dict()
    )
    meta, whole, lora = ([json.loads(line) for line in launched(2, "spread_memory.py", how, str(tmp_path)).splitlines()]
                         for how in ("meta", "whole", "lora"))  # fmt: skip
    assert len(meta) == len(whole) == len(lora) == 2
    assert all(one["added"] > one["whole"] for one in whole)
    assert all(one["added"] < 0.7 * one["whole"] for one in meta)
    assert all(
        one["added"] < 1.4 * one["whole"] for one in lora
    )  # its half, and at most the file: it was twice the whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", COMPILED)
def test_compiled_blocks_spread_equal_one_process_uncompiled(tmp_path, case):
    """torch.compile of every block, under FSDP2 and with what the backward pass repeats."""
    together(tmp_path, 2, case)
    check(tmp_path, case)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_save_into_a_store_what_they_save_on_a_disk(store, tmp_path, monkeypatch):
    together(tmp_path, 2, "full")
    (tmp_path / "far").mkdir()
    with monkeypatch.context() as patch:
        patch.setenv("SAVES", "s3://films/spread")
        together(tmp_path / "far", 2, "full")
    near, far = (json.loads((place / "full.json").read_text()) for place in (tmp_path, tmp_path / "far"))
    assert near == far  # what was read back into two processes went on alike
    names = [storage.name(one.path) for one in storage.find("s3://films/spread")]
    assert sorted(names) == [
        "average-00000.safetensors", "average-00001.safetensors", "model.safetensors",
        "optimiser-00000.safetensors", "optimiser-00001.safetensors", "state.json",
    ]  # fmt: skip
    loaded = [checkpoint.load(checkpoint.latest(place)) for place in (str(tmp_path / "full"), "s3://films/spread/full")]
    for group, tensors in loaded[0].items():
        assert tensors.keys() == loaded[1][group].keys()
        assert all(torch.equal(one, loaded[1][group][key]) for key, one in tensors.items())


def test_parts_must_divide_the_processes():
    assert [parts_of(shard, 8) for shard in ("none", "full", 4)] == [1, 8, 4]
    with pytest.raises(ValueError, match="shard: 3 does not divide 8 processes; one of 1, 2, 4, 8 does"):
        parts_of(3, 8)
