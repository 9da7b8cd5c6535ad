"""The stages of the shipped recipes: the curriculum's order, full micro-batches, both anchors in every step, even work."""

from __future__ import annotations

import fnmatch
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines
from cache.buckets import Bucket
from model.dit import DiT
from train import stages
from train.forecast import assumed_pools
from train.plan import Plan, share_out

SHIPPED = Path(pipelines.__file__).parent / "pipelines.yaml"
CURRICULUM = ("256px", "512px", "256px-video", "256px-video-long", "540px-video", "720px-video", "finetune")
OF_IMAGES = {"demo": ("i2v-pretrain", "i2v-finetune", "i2v-people"), "hunyuan": ("i2v-pretrain", "i2v-people")}
CASES = [(recipe, stage) for recipe in ("demo", "hunyuan") for stage in (*CURRICULUM, *OF_IMAGES[recipe])]
STEPS = 20


def plan_of(recipe: pipelines.Recipe, name: str) -> Plan:
    """Of a stage whose views have equally many clips in every bucket."""
    stage = recipe.stages[name]
    pools = [assumed_pools(recipe, feed.view, stage, stages.size_of(recipe)) for feed in stage.feeds]
    return Plan(pools, [feed.share for feed in stage.feeds], stage.micro_batches, stage.seed, stage.mix)


@pytest.mark.parametrize("recipe", ["demo", "hunyuan"])
def test_the_curriculum_is_there_in_order(recipe) -> None:
    assert tuple(pipelines.load(SHIPPED, recipe).stages) == CURRICULUM + OF_IMAGES[recipe]


@pytest.mark.parametrize("recipe", ["demo", "hunyuan"])
def test_image_to_video_stages_train_on_what_is_encoded_anyway_and_unfreeze_real_parameters(recipe) -> None:
    chosen = pipelines.load(SHIPPED, recipe)
    assert {feed.set for feed in chosen.stages["i2v-people"].feeds} == {"people"}
    first, *others = OF_IMAGES[recipe]
    source = chosen.stages[str(chosen.stages[first].start)]
    pairs = [{(feed.set, feed.view) for feed in one.feeds} for one in (source, chosen.stages[first])]
    assert pairs[0] == pairs[1], "the data of the stage it starts from"
    encoded = {feed.view for name in CURRICULUM for feed in chosen.stages[name].feeds}
    assert {feed.view for name in others for feed in chosen.stages[name].feeds} <= encoded, (
        "an empty set leaves no view empty"
    )
    assert chosen.cache.conditions == ("first_frame",), "only what the stages ask for"
    with torch.device("meta"):
        names = [name for name, _ in DiT(**stages.size_of(chosen)).named_parameters()]
    stages.stage_of(chosen, first)
    for name in others:
        stages.stage_of(chosen, name)
        groups = chosen.stages[name].unfreeze
        assert groups[0].at_step == 0 and groups[-1].at_step < chosen.stages[name].steps
        assert all(fnmatch.filter(names, pattern) for group in groups for pattern in group.trainable)


@pytest.mark.parametrize(("recipe", "name"), CASES)
def test_micro_batches_are_full_and_ranks_work_evenly(recipe, name) -> None:
    chosen = pipelines.load(SHIPPED, recipe)
    stage, plan = chosen.stages[name], plan_of(chosen, name)
    filled, excess = [], []
    for number in range(STEPS):
        micro = plan.step(number)
        filled += [Bucket.parse(one.bucket).tokens() * len(one.rows) / stage.tokens for one in micro]
        if stage.micro_batches % 8 == 0:
            costs = [one.cost for one in micro]
            loads = [sum(costs[i] for i in mine) for mine in share_out(costs, 8)]
            excess.append(max(loads) / np.mean(loads) - 1)
    assert max(filled) <= 1.0 and np.mean(filled) >= 0.9
    assert not excess or np.mean(excess) <= 0.1
    if "video" in name:
        assert any(chosen.views[feed.view].frames == 1 for feed in stage.feeds), "images in every video stage"


@pytest.mark.parametrize("recipe", ["demo", "hunyuan"])
def test_every_step_of_the_mix_scale_stage_holds_both_anchors(recipe) -> None:
    chosen = pipelines.load(SHIPPED, recipe)
    stage, plan = chosen.stages["512px"], plan_of(chosen, "512px")
    assert stage.mix == "every_step" and {chosen.views[feed.view].size for feed in stage.feeds} == {256, 512}
    wanted = {index: feed.share * stage.micro_batches for index, feed in enumerate(stage.feeds)}
    for number in range(STEPS):
        assert Counter(one.feed for one in plan.step(number)) == wanted
