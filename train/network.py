"""The network of a stage with its start weights: on one process, or spread over several of which none ever holds it whole.

A spread network is made without numbers, cut up, and filled one tensor at a time: each process draws every start weight,
as one process would, and keeps its part. What a process needs is then its part and the largest single tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from model.dit import DiT, compile_blocks
from model.dit_start import each_start, handing_on
from model.published import shapes_of
from pipelines import Recipe, RecipeError
from train import adapters, distributed, stages
from train.distributed import World, barrier
from train.optim import DTYPES


def of_stage(recipe: Recipe, name: str, world: World, settings: dict[str, Any], folder: str) -> tuple[DiT, bool]:
    """The stage's network, and whether it is spread. settings: of the cache; folder: of the run.

    Raises RecipeError where adapters are to be put on weights of another network.
    """
    stage = recipe.stages[name]
    meta = stage.lora is not None or distributed.parts_of(stage.shard, world.size) > 1
    make = partial(stages.build, stages.size_of(recipe), stages.widths_of(settings), stage.seed, stage.checkpointing,
                   stage.image_to_video, stage.start)  # fmt: skip
    model, frozen = make(meta=meta), None
    if stage.lora:
        frozen = _frozen(recipe, name, world, folder, make)
        adapters.put_on(model, stage.lora, stage.seed)
    if stage.compile:
        compile_blocks(model)
    spread = distributed.spread(model, model.blocks(), stage.shard, DTYPES[stage.precision], world)
    if meta:
        into = dict(model.named_parameters())
        if frozen is None:
            begin(make(meta=True), stage.seed, stage.start, into)
        for key, one in (frozen or {}).items():
            distributed.put(into, key, one)
        adapters.begin(model, stage.seed, partial(distributed.put, into))
    return model, spread


def begin(blueprint: DiT, seed: int, start: str | None, into: Mapping[str, Tensor]) -> None:
    """Fill parameters, spread or whole, with what stages.build() gives them. blueprint: the network on the meta device."""
    put = partial(distributed.put, into)
    each_start(blueprint, seed, put)
    if start == stages.IDENTITY:
        with stages.identity_fits():
            for name, one in handing_on(blueprint, seed).items():
                put(name, one)


def _frozen(
    recipe: Recipe, name: str, world: World, folder: str, make: Callable[..., DiT]
) -> Mapping[str, Tensor] | None:
    """What the adapters are put on, mapped; kept in the run's folder. None is what begin() gives. make: the network."""
    frozen = stages.frozen_weights(recipe, name)
    if frozen is not None:
        refuse_others(make(meta=True), frozen, f"stages.{name}.start")
    barrier(world)  # all have looked whether it is kept
    if world.first and adapters.kept_base(folder) is None:
        held = make().state_dict() if frozen is None else {key: one.float() for key, one in frozen.items()}
        adapters.keep_base(folder, held)
    barrier(world)
    return frozen


def refuse_others(network: DiT, weights: Mapping[str, Tensor], place: str) -> None:
    """Raises RecipeError for weights that are not those of the network, of which only shapes are looked at."""
    wanted = {key: tuple(one.shape) for key, one in network.named_parameters()}
    found = shapes_of(weights)
    wrong = sorted(wanted.items() ^ found.items())
    if not wrong:
        return
    told = ", ".join(f"{key} {shape} is {'missing' if wanted.get(key) == shape else 'not known'}"
                     for key, shape in wrong[:4])  # fmt: skip
    guided = all(key.startswith("guidance_in.") for key, _ in wrong)
    hint = "; one of the two embeds guidance: see `model:` (hunyuan-13b, hunyuan-13b-guidance)" if guided else ""
    raise RecipeError(f"{place}: weights of another network: {told}{hint}")
