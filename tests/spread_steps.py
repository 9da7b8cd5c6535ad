"""Five steps on micro-batches of unequal sizes and shapes, by as many processes as started this file with torchrun.

    torchrun --nproc-per-node 2 tests/spread_steps.py FOLDER full

For every named case (all without names) the first process writes losses and norms to FOLDER/<case>.json. Checkpoints are
saved and read there, or under SAVES (a folder, s3://...) of the environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from media import storage
from model.dit import compile_blocks
from pipelines import Stage
from train import checkpoint, network, stages
from train.batch import Batch
from train.distributed import World, joined, parts_of, spread, spread_like, whole
from train.optim import DTYPES, Weights, decay
from train.plan import MicroBatch
from train.saving import Saver
from train.step import train_step

STEPS = 5
# 30 wide: neither matrices nor norms divide evenly by 4 processes.
SIZE = {"width": 30, "heads": 3, "double_blocks": 1, "single_blocks": 2, "refiner_blocks": 1, "rope_axes": (2, 4, 4)}
WIDTHS = stages.Widths(channels=4, text=6, pooled=5)
SHAPES = (
    (3, (1, 4, 4)),
    (1, (3, 4, 6)),
    (2, (2, 2, 4)),
    (1, (1, 2, 2)),
    (2, (1, 6, 4)),
)  # samples, latent (frames, height, width)
CASES: dict[str, dict[str, Any]] = {
    "whole": {"shard": "none"},
    "full": {"shard": "full"},
    "by micro-batch": {"shard": "full", "reduce": "micro_batch"},
    "checkpointed": {"shard": "full", "checkpointing": "full"},
    "bfloat16": {"shard": "full", "precision": "bfloat16"},
}
COMPILED: dict[str, dict[str, Any]] = {  # minutes each: only where they are named
    "compiled": {"shard": "full", "compile": True},
    "compiled, checkpointed": {"shard": "full", "compile": True, "checkpointing": "full"},
    "compiled, attention kept": {"shard": "full", "compile": True, "checkpointing": "selective"},
}


def stage(case: dict[str, Any]) -> Stage:
    given = {"feeds": [{"set": "a", "view": "b"}], "tokens": 16, "steps": 20, "lr": 1e-2, "precision": "float64",
             "weight_decay": 0.1, "clip_norm": 0.5}  # fmt: skip
    return Stage.model_validate(given | case)


def make(case: dict[str, Any], world: World) -> Weights:
    """Whole on one process; where it is spread, no process ever holds it whole."""
    rule = stage(case)
    meta = parts_of(rule.shard, world.size) > 1
    model = stages.build(SIZE, WIDTHS, 0, rule.checkpointing, meta=meta)
    if rule.compile:
        compile_blocks(model)
    spread_out = spread(model, model.blocks(), rule.shard, DTYPES[rule.precision], world)
    parameters = dict(model.named_parameters())
    if meta:
        network.begin(stages.build(SIZE, WIDTHS, 0, meta=True), 0, None, parameters)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in parameters.values():  # modulations start at zero, and most gradients with them
            one += spread_like(0.1 * torch.randn(one.shape, generator=generator), one)
    return Weights(model, rule, spread_out)


def batches(step: int) -> tuple[list[MicroBatch], list[Batch]]:
    """Five micro-batches: neither two nor four processes can have equally many."""
    micro, found = [], []
    for number, (count, shape) in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(100 * step + number)
        data, noise = torch.randn(2, count, 4, *shape, generator=generator)
        mask = torch.arange(3)[None] < torch.arange(count)[:, None] + 1
        text, pooled = torch.randn(count, 3, 6, generator=generator), torch.randn(count, 5, generator=generator)
        t = torch.rand(count, generator=generator, dtype=torch.float64)
        found.append(Batch("b", 4, ("x",) * count, data, noise, t, text * mask[..., None], mask, pooled))
        zeros = (0,) * count
        micro.append(MicroBatch(0, "b", 0, zeros, zeros, ("c",) * count, zeros, (0,), 1.0))
    return micro, found


def steps(weights: Weights, world: World, first: int, last: int) -> list[dict[str, Any]]:
    told = []
    for step in range(first, last):
        micro, found = batches(step)
        mine = list(range(world.rank, len(micro), world.size))
        result = train_step(weights, micro, mine, [found[i] for i in mine], world, step)
        told.append({"losses": result.losses.tolist(), "norm": result.norm})
    return told


def run(name: str, case: dict[str, Any], world: World, folder: Path) -> None:
    weights = make(case, world)
    saves = storage.join(os.environ.get("SAVES", str(folder)), name)
    start = {key: whole(one.detach()).clone() for key, one in weights.masters.items()}
    expected = start  # the average by its closed form: a sum over all earlier weights
    told = []
    with Saver(saves, world, 1, ()) as saver:
        for step in range(STEPS):
            if step == 3:
                saver.save(step, weights.tensors(), {"case": name})  # written while the next step runs
            told += steps(weights, world, step, step + 1)
            keep = decay(weights.stage, step)
            expected = {key: keep * expected[key] + (1 - keep) * whole(one.detach()).clone()
                        for key, one in weights.masters.items()}  # fmt: skip
    resumed = make(case, world)
    found = checkpoint.latest(saves)
    assert found is not None and found.step == 3
    resumed.make_room(checkpoint.names(found, "optimiser"))
    checkpoint.restore(found, resumed.tensors(), world)
    resumed.refresh()
    again = steps(resumed, world, 3, STEPS)
    average = {key: whole(one) for key, one in weights.average.items()}
    with weights.averaged():
        inside = {key: whole(one.detach()).clone() for key, one in weights.model.named_parameters()}
    after = {key: whole(one.detach()) for key, one in weights.masters.items()}
    if world.first:
        distance = max(float((average[key] - expected[key]).abs().max()) for key in average)
        exchanged = all(torch.equal(inside[key], average[key].to(inside[key].dtype)) for key in average)
        record = {"steps": told, "resumed": again, "average_off": distance, "exchanged": exchanged,
                  "weights": sum(float(one.double().sum()) for one in after.values()),
                  "spread": weights.spread}  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    with joined("cpu") as world:
        for name in sys.argv[2:] or CASES:
            case = (CASES | COMPILED)[name]
            if world.size > 2 and case["shard"] == "full":
                case = case | {"shard": 2}
            run(name, case, world, Path(sys.argv[1]))
