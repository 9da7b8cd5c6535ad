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

from tests.spread_steps import CASES, run
from train.distributed import World, parts_of

ALONE = World(0, 1, torch.device("cpu"))


def numbers(told: list[dict[str, Any]]) -> list[float]:
    return [number for step in told for number in (*step["losses"], step["norm"])]


def together(folder: Path, processes: int, *cases: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = str(Path(__file__).with_name("spread_steps.py"))
    subprocess.run([*launcher, script, str(folder), *cases], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def check(folder: Path, case: str) -> None:
    (folder / "one").mkdir(exist_ok=True)
    run(case, CASES[case], ALONE, folder / "one")
    one, many = (json.loads((place / f"{case}.json").read_text()) for place in (folder / "one", folder))
    assert many["spread"] == (CASES[case]["shard"] == "full") and not one["spread"]
    exact = CASES[case].get("precision") != "bfloat16"
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


def test_parts_must_divide_the_processes():
    assert [parts_of(shard, 8) for shard in ("none", "full", 4)] == [1, 8, 4]
    with pytest.raises(ValueError, match="shard: 3 does not divide 8 processes; one of 1, 2, 4, 8 does"):
        parts_of(3, 8)
