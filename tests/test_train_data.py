"""What is drawn: weights and splits of the ledgers reach the micro-batches, and nothing else does."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import train_workspace
from scipy import stats

from cache import index as tables
from cache.fingerprint import CacheError
from cache.read import open_cache
from pipelines import RecipeError
from train import batch, data, stages, validation
from train.draws import caption
from train.plan import Plan


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    recipe = train_workspace.recipe(tmp_path_factory.mktemp("data"))
    train_workspace.fill(recipe, images=42, videos=14)
    return recipe


def pools_of(recipe) -> list[data.FeedPools]:
    return data.stage_pools(open_cache(recipe), recipe.stages["s"], stages.cost_of(recipe))


def plan_of(recipe, pools) -> Plan:
    stage = recipe.stages["s"]
    return Plan([one.train for one in pools], [feed.share for feed in stage.feeds], stage.micro_batches, stage.seed)


def epoch(plan: Plan, feed: int, number: int):
    ordinal = 0
    while plan.locate(feed, ordinal)[0] <= number:
        if plan.locate(feed, ordinal)[0] == number:
            yield plan.micro_batch(feed, ordinal)
        ordinal += 1


def test_draws_per_concept_fit_the_weights(filled):
    """Concept k is clips 7k, ... of the images; over three epochs its draws must fit the sum of its weights."""
    pools = pools_of(filled)
    plan = plan_of(filled, pools)
    ledger = open_cache(filled).ledger("images").to_pylist()
    weights = {row["clip_id"]: row["weight"] for row in ledger if row["split"] == "train"}
    concept = {clip: i // 7 for i, clip in enumerate(sorted(weights))}
    drawn = Counter(concept[clip] for number in range(3) for one in epoch(plan, 0, number) for clip in one.clips)
    total = sum(drawn.values())
    share = Counter()
    for clip, weight in weights.items():
        share[concept[clip]] += weight / sum(weights.values())
    keys = sorted(share)
    found = stats.chisquare([drawn[k] for k in keys], [total * share[k] for k in keys])
    assert found.pvalue > 0.5  # systematic resampling is far closer than chance would be
    assert abs(total - 3 * sum(weights.values())) < 3


def test_validation_clips_are_never_trained_on(filled):
    pools = pools_of(filled)
    plan = plan_of(filled, pools)
    val = {row["clip_id"] for name in filled.sets for row in open_cache(filled).ledger(name).to_pylist()
           if row["split"] == "val"}  # fmt: skip
    trained = {clip for step in range(300) for one in plan.step(step) for clip in one.clips}
    validated = {name.split("/")[0] for part in validation.parts(pools) for name in part.names}
    assert validated == val and not trained & val
    assert len(trained) == (42 - 2) + (14 - 2)


def test_what_is_read_is_what_was_planned(filled):
    cache, pools = open_cache(filled), pools_of(filled)
    for one in plan_of(filled, pools).step(0):
        samples = cache.read(one.bucket, one.rows)
        assert tuple(sample.clip_id for sample in samples) == one.clips
        shards = cache.index(one.bucket)["shard"].to_numpy()
        assert set(shards[list(one.rows)].tolist()) == set(one.shards)


def test_a_clip_of_several_samples_shares_its_weight(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    cache = open_cache(recipe)
    path = tables.view_path(cache.folder, "clip")
    view, index_path = cache.view("clip"), tables.index_path(cache.folder, "5x64x64-8fps")
    first = view["clip_id"][0].as_py()
    more = pa.Table.from_pylist([{**view.to_pylist()[0], "start_tick": 9}], tables.VIEW)
    tables.write_table(path, pa.concat_tables([view, more]))
    for target, schema in ((index_path, tables.INDEX), (_text_index(cache), tables.TEXT_INDEX)):
        rows = tables.read_table(target, schema).to_pylist()
        extra = {**rows[0], "start_tick": 9, "key": f"{first}-9", "shard": rows[-1]["shard"]}
        tables.write_table(target, pa.Table.from_pylist([*rows, extra], schema))
    pool = pools_of(recipe)[1].train[0]
    mine = pool.clips == first.encode()
    ledger = open_cache(recipe).ledger("videos")
    weight = ledger.filter(pc.equal(ledger["clip_id"], first))["weight"][0].as_py()
    assert mine.sum() == 2 and np.allclose(pool.weights[mine], weight / 2)
    assert sorted(pool.ticks[mine].tolist()) == [0, 9]


def _text_index(cache) -> str:
    return tables.text_index_path(cache.folder, "5x64x64-8fps", cache.text)


def test_a_view_without_clips_is_an_error_that_says_where_they_went(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    cache = open_cache(recipe)
    path = tables.view_path(cache.folder, "clip")
    rows = [row | {"bucket": None, "reason": "too short: 0.2 s"} for row in cache.view("clip").to_pylist()]
    tables.write_table(path, pa.Table.from_pylist(rows, tables.VIEW))
    with pytest.raises(
        RecipeError, match=r"videos x clip: no clip to train on: the set keeps 4 train and 2 val.*6 too sh"
    ):
        pools_of(recipe)


def test_samples_that_are_not_encoded_are_an_error(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    cache = open_cache(recipe)
    extra = {"clip_id": cache.view("clip")["clip_id"][0].as_py(), "start_tick": 77, "bucket": "5x64x64-8fps"}
    rows = [*cache.view("clip").to_pylist(), extra]
    tables.write_table(tables.view_path(cache.folder, "clip"), pa.Table.from_pylist(rows, tables.VIEW))
    with pytest.raises(CacheError, match="1 of 7 samples are not encoded"):
        pools_of(recipe)


def test_changes_are_told_by_bucket():
    old = {"a x v": {"1x8x8": {"train": 3, "val": 1, "weight": 3.0, "digest": "0"}}}
    new = {"a x v": {"1x8x8": {"train": 4, "val": 1, "weight": 4.5, "digest": "1"}, "1x8x16": {
        "train": 1, "val": 0, "weight": 1.0, "digest": "2"}}}  # fmt: skip
    assert data.changes(old, old) == []
    assert data.changes(old, new) == [
        "a x v, 1x8x16: none -> 1 train + 0 val, weight 1 (2)",
        "a x v, 1x8x8: 3 train + 1 val, weight 3 (0) -> 4 train + 1 val, weight 4.5 (1)",
    ]


def test_a_micro_batch_holds_what_its_samples_hold(filled):
    """Gathered in one go it is what reading and padding them one by one gives, dropped texts among them."""
    cache, recipe = open_cache(filled), filled
    stage = recipe.stages["s"].model_copy(update={"text_dropout": 0.4})
    plan, dropped = batch.plan_of(stage, pools_of(recipe)), 0
    for step in range(6):
        for micro in plan.step(step):
            found, samples = batch.load(cache, stage, micro), cache.read(micro.bucket, micro.rows)
            names = [batch._name(stage, micro, i) for i in range(len(samples))]
            drawn = [caption(len(one.texts), 0.4, *name) for one, name in zip(samples, names)]
            texts = [batch.no_text(one.texts[v]) if gone else one.texts[v] for one, (v, gone) in zip(samples, drawn)]
            for got, wanted in zip((found.text, found.mask, found.pooled), batch.padded(texts), strict=True):
                assert torch.equal(got, wanted) and got.dtype == wanted.dtype
            assert torch.equal(found.data, torch.stack([one.latent for one in samples]).float())
            dropped += sum(gone for _, gone in drawn)
    assert dropped > 3


def test_a_tar_that_is_cut_under_the_trainer_is_an_error_and_no_signal(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    cache, stage = open_cache(recipe), recipe.stages["s"]
    micro = batch.plan_of(stage, pools_of(recipe)).step(0)[0]
    for _ in range(9):  # often enough for maps
        batch.load(cache, stage, micro)
    for path in tmp_path.glob("latents-*/*/*.tar"):
        os.truncate(path, 600)
    with pytest.raises(CacheError, match="ends before it"):
        batch.load(cache, stage, micro)
