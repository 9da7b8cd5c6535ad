"""The network of a stage with its start weights: on one process, or spread over several of which none ever holds it whole.

A spread network is made without numbers, cut up, and filled one tensor at a time: each process draws every start weight,
as one process would, and keeps its part. What a process needs is then its part and the largest single tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from model.dit import DiT, compile_blocks
from model.dit_start import each_start, handing_on
from pipelines import Recipe
from train import adapters, distributed, stages
from train.distributed import World, barrier
from train.optim import DTYPES


def of_stage(recipe: Recipe, name: str, world: World, settings: dict[str, Any], folder: str) -> tuple[DiT, bool]:
    """The stage's network, and whether it is spread. settings: of the cache; folder: of the run.

    One that adapters are put on is whole on every process until it is cut up.
    """
    stage = recipe.stages[name]
    meta = distributed.parts_of(stage.shard, world.size) > 1 and not stage.lora
    make = partial(stages.build, stages.size_of(recipe), stages.widths_of(settings), stage.seed, stage.checkpointing,
                   stage.image_to_video, stage.start)  # fmt: skip
    model = make(meta=meta)
    if stage.lora:
        _adapt(model, recipe, name, world, folder)
    if stage.compile:
        compile_blocks(model)
    spread = distributed.spread(model, model.blocks(), stage.shard, DTYPES[stage.precision], world)
    if meta:
        begin(make(meta=True), stage.seed, stage.start, dict(model.named_parameters()))
    return model, spread


def begin(blueprint: DiT, seed: int, start: str | None, into: Mapping[str, Tensor]) -> None:
    """Fill parameters, spread or whole, with what stages.build() gives them. blueprint: the network on the meta device."""
    put = partial(distributed.put, into)
    each_start(blueprint, seed, put)
    if start == stages.IDENTITY:
        with stages.identity_fits():
            for name, one in handing_on(blueprint, seed).items():
                put(name, one)


def _adapt(model: DiT, recipe: Recipe, name: str, world: World, folder: str) -> None:
    """Load what the adapters are put on, keep it in the run's folder, put them on."""
    stage = recipe.stages[name]
    frozen = stages.frozen_weights(recipe, name)
    if frozen is not None:
        model.load_state_dict(frozen)
    barrier(world)  # all have looked whether it is kept
    if world.first and adapters.base_of(folder) is None:
        adapters.keep_base(folder, model.state_dict())
    barrier(world)
    assert stage.lora is not None
    adapters.put_on(model, stage.lora, stage.seed)
