"""Proposed bounds keep what was asked: against brute force, at the ends, under ties, and after pasting them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import yaml

from curate import select, tune
from pipelines import Bound, RecipeError
from tests.select_tables import make_facts, make_recipe

SETS = {
    "base": {"keep": {"borders": {"max": 0.9}}},
    "video": {"parent": "base", "media": "video", "keep": {"motion": {"min": 0.1}, "sharpness": {"min": 1.0}}},
    "calm": {"parent": "video", "keep": {"jitter": {"max": 0.5}, "height": {"min": 300.0}}},
}


def many(count: int = 500, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return make_facts(
        clip_id=[f"{row:016x}" for row in range(count)],
        borders=draw.random(count).tolist(),
        motion=draw.exponential(3, count).tolist(),
        sharpness=(draw.exponential(100, count) + 2).tolist(),
        jitter=draw.random(count).tolist(),
        height=draw.choice([240, 360, 480], count).tolist(),
    )


def kept(sets: dict, name: str, facts: pa.Table) -> int:
    return select.judge(make_recipe(sets), name, facts).null_count


@pytest.mark.parametrize("share", [0.1, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("name", ["base", "video", "calm"])
def test_pasted_bounds_keep_the_share(share: float, name: str) -> None:
    facts, recipe = many(), make_recipe(SETS)
    found = tune.propose(recipe, name, facts, share)
    # Three digits are rounded outwards: a few more clips than asked, never fewer.
    assert 0 <= found.kept - round(share * found.pool) <= 0.02 * found.pool + 1
    pasted = yaml.safe_load(tune.yaml_text(recipe, name, found, share))["sets"][name]["keep"]
    merged = SETS[name] | {"keep": SETS[name].get("keep", {}) | pasted}
    assert kept({**SETS, name: merged}, name, facts) == found.kept
    line = {"base": None, "video": "base", "calm": "video"}[name]
    if line and name != "calm":  # `calm` also asks for a height, which its pool has already
        assert found.pool == select.judge(recipe, line, facts).null_count


def test_one_score_is_its_quantile() -> None:
    facts = make_facts(clip_id=list("abcdefghij"), motion=[float(value) for value in range(10)])
    recipe = make_recipe({"all": {"keep": {"motion": {"min": 0.0}}}})
    assert tune.propose(recipe, "all", facts, 0.3).bounds == {"motion": Bound(min=7.0)}
    upper = make_recipe({"all": {"keep": {"motion": {"max": 100.0}}}})
    assert tune.propose(upper, "all", facts, 0.3).bounds == {"motion": Bound(max=2.0)}
    both = make_recipe({"all": {"keep": {"motion": {"min": 0.0, "max": 100.0}}}})
    assert tune.propose(both, "all", facts, 0.4).bounds == {"motion": Bound(min=3.0, max=6.0)}


def test_all_scores_are_cut_at_one_quantile() -> None:
    """Brute force: the quantile q at which cutting the worst q of each score leaves the share."""
    facts = many(2000, seed=3)
    found = tune.propose(make_recipe(SETS), "video", facts, 0.5)
    pool = facts.filter(pa.array(select.numbers(facts, "borders") <= 0.9))
    motion, sharpness = select.numbers(pool, "motion"), select.numbers(pool, "sharpness")
    shares = [
        np.mean((motion >= np.quantile(motion, q)) & (sharpness >= np.quantile(sharpness, q)))
        for q in np.linspace(0, 1, 2001)
    ]
    q = np.linspace(0, 1, 2001)[int(np.argmin(np.abs(np.array(shares) - 0.5)))]
    assert found.bounds["motion"].min == pytest.approx(np.quantile(motion, q), rel=0.02)
    assert found.bounds["sharpness"].min == pytest.approx(np.quantile(sharpness, q), rel=0.02)
    assert found.alone["motion"] == pytest.approx(1 - q, abs=0.01)


def test_ties_and_unknown_scores_are_said() -> None:
    facts = make_facts(clip_id=list("abcdef"), motion=[1.0, 1.0, 1.0, 1.0, None, None])
    recipe = make_recipe({"all": {"keep": {"motion": {"min": 0.5}}}})
    found = tune.propose(recipe, "all", facts, 0.5)
    assert (found.pool, found.kept, found.bounds) == (6, 4, {"motion": Bound(min=1.0)})
    assert "no cut nearer" in tune.yaml_text(recipe, "all", found, 0.5)
    assert tune.propose(recipe, "all", facts, 1.0).kept == 4  # an unknown score meets no bound


def test_a_proposal_is_never_looser_than_the_parent() -> None:
    sets = {"all": {"keep": {"motion": {"min": 0.12345}}}, "inner": {"parent": "all", "keep": {"motion": {"min": 1.0}}}}
    facts = make_facts(clip_id=["a", "b"], motion=[0.12346, 5.0])
    found = tune.propose(make_recipe(sets), "inner", facts, 1.0)
    assert found.bounds["motion"].min == 0.12345 and found.kept == 2
    make_recipe({**sets, "inner": {"parent": "all", "keep": {"motion": {"min": found.bounds["motion"].min}}}})


def test_what_cannot_be_tuned_is_said() -> None:
    facts = make_facts(clip_id=["a"], motion=[1.0])
    with pytest.raises(RecipeError, match="bounds no score"):
        tune.propose(make_recipe({"all": {"keep": {"height": {"min": 1.0}}}}), "all", facts, 0.5)
    with pytest.raises(RecipeError, match="no clip to choose from"):
        tune.propose(make_recipe({"all": {"media": "image", "keep": {"motion": {"min": 1.0}, "width": {"min": 9e9}}}}),
                     "all", facts, 0.5)  # fmt: skip
    with pytest.raises(RecipeError, match="did you mean 'all'"):
        tune.show(make_recipe({"all": {}}), "al", 0.5, False)
    with pytest.raises(RecipeError, match="--keep-share 0"):
        tune.show(make_recipe({"all": {}}), "all", 0.0, False)
