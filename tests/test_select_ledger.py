"""Sets: bounds against a plain rewriting of them, reasons, nesting, weights, and a split that does not leak or flip."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import pipelines
from curate import concepts, crop, select, split
from tests.select_tables import make_facts, make_recipe

SETS = {
    "base": {"keep": {"borders": {"max": 0.1}}},
    "image": {"parent": "base", "media": "image"},
    "video": {"parent": "base", "media": "video", "keep": {"motion": {"min": 0.3, "max": 50.0}}},
    "large": {"parent": "video", "keep": {"height": {"min": 400.0}, "motion": {"min": 1.0}}},
}


def many(count: int = 400, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    ids = [f"{row:016x}" for row in range(count)]
    is_image = draw.random(count) < 0.2
    keeper = [ids[row - 1] if row % 17 == 3 else None for row in range(count)]
    return make_facts(
        clip_id=ids,
        video_id=[f"v{row // 4:03d}" for row in range(count)],
        media=["image" if image else "video" for image in is_image],
        status=["dropped" if row % 23 == 5 else "ok" for row in range(count)],
        reason=["span 0.4 s < 0.8 s" if row % 23 == 5 else None for row in range(count)],
        height=draw.choice([240, 360, 480, 720], count).tolist(),
        borders=[None if row % 41 == 0 else float(value) for row, value in enumerate(draw.random(count) * 0.15)],
        motion=[None if image else float(value) for image, value in zip(is_image, draw.exponential(3, count))],
        concept=draw.integers(9, size=count).tolist(),
        duplicate_of=keeper,
        similarity=[0.99 if one else None for one in keeper],
    )


def test_kept_clips_are_those_of_a_plain_query() -> None:
    facts = many()
    made = select.ledgers(make_recipe(SETS), facts)
    wanted = duckdb.sql("select clip_id from facts where status = 'ok' and media = 'video' and borders <= 0.1 "
                        "and motion between 1 and 50 and height >= 400 and duplicate_of is null")  # fmt: skip
    kept = made["large"].filter(made["large"]["kept"])["clip_id"].to_pylist()
    assert sorted(row[0] for row in wanted.fetchall()) == kept
    assert kept


def test_every_clip_is_in_every_ledger_with_a_reason_where_dropped() -> None:
    facts = many()
    for table in select.ledgers(make_recipe(SETS), facts).values():
        assert table["clip_id"].to_pylist() == facts["clip_id"].to_pylist()
        assert [reason is None for reason in table["reason"].to_pylist()] == table["kept"].to_pylist()
        assert sum(select.tally(table).values()) == len(facts)
        weights = table["weight"].to_numpy()
        assert weights[table["kept"].to_numpy()].mean() == pytest.approx(1.0)
        assert (weights[~table["kept"].to_numpy()] == 0).all()


def test_a_set_keeps_no_clip_that_its_parent_drops() -> None:
    recipe, facts = make_recipe(SETS), many()
    kept = {name: set(t.filter(t["kept"])["clip_id"].to_pylist()) for name, t in select.ledgers(recipe, facts).items()}
    for name, chosen in recipe.sets.items():
        assert chosen.parent is None or kept[name] <= kept[chosen.parent]


def test_the_first_failing_rule_is_the_reason() -> None:
    facts = make_facts(
        clip_id=list("abcdefgh"),
        media=["video", "video", "image", "video", "video", "video", "video", "video"],
        status=["ok", "dropped", "ok", "ok", "ok", "ok", "ok", "ok"],
        reason=[None, "span 0.4 s < 0.8 s", None, None, None, None, None, None],
        borders=[0.0, 0.0, 0.0, 0.2, None, 0.0, 0.0, 0.1],
        motion=[0.12, 5.0, None, 0.1, 1.0, 60.0, 1.0, 0.3],
        duplicate_of=["h", None, None, None, None, None, "h", None],
    )
    made = select.ledger(make_recipe(SETS), "video", facts)
    assert made["reason"].to_pylist() == [
        "motion 0.12 < 0.3", "span 0.4 s < 0.8 s", "media image, set wants video", "borders 0.2 > 0.1",
        "borders unknown, set wants <= 0.1", "motion 60 > 50", "duplicate of h", None,
    ]  # fmt: skip
    assert select.tally(made) == {
        "kept": 1, "borders": 2, "motion": 2, "duplicate": 1, "media": 1, "span": 1,
    }  # fmt: skip


def test_a_value_that_rounds_to_its_bound_is_shown_in_full() -> None:
    assert select.describe("motion", 0.29999999, pipelines.Bound(min=0.3)) == "motion 0.29999999 < 0.3"


def test_image_sets_draw_from_videos_too() -> None:
    facts = make_facts(clip_id=["a", "b"], media=["video", "image"], borders=[0.0, 0.0])
    assert select.ledger(make_recipe(SETS), "image", facts)["kept"].to_pylist() == [True, True]


def test_picked_clips() -> None:
    recipe = make_recipe(SETS | {"finetune": {"clips": "picks.txt", "keep": {"borders": {"max": 0.5}}}})
    facts = make_facts(clip_id=list("abcd"), borders=[0.2, 0.2, 0.9, 0.2], duplicate_of=[None, "a", None, "c"])
    made = select.ledgers(recipe, facts, {"finetune": select.read_picks("a\nb # the better one\n\nc\n d\n")})
    reasons = made["finetune"]["reason"].to_pylist()
    assert reasons == [None, "duplicate of a", "borders 0.9 > 0.5", "duplicate of c"]
    only = select.ledger(recipe, "finetune", facts, {"b", "d"})["reason"].to_pylist()
    assert only == ["picks: not in the list", None, "picks: not in the list", None]
    with pytest.raises(KeyError, match="picked clips"):
        select.ledgers(recipe, facts)


def test_weights_follow_the_law_of_the_recipe_among_kept_clips() -> None:
    facts = many()
    made = select.ledgers(make_recipe(SETS, concepts={"law": "uniform"}), facts)["video"]
    kept = made["kept"].to_numpy()
    concept = np.array(facts["concept"].to_pylist())[kept]
    np.testing.assert_allclose(made["weight"].to_numpy()[kept], concepts.weights(concept, "uniform"))


def cropped(signal: str, shares: dict[str, tuple[float | None, ...]]) -> pa.Table:
    """A signal's table: a score of 0.01 and its crops, shares of the left, top, right, bottom side."""
    sides = {
        name: pa.array([of[k] for of in shares.values()], pa.float64())
        for k, name in enumerate(crop.columns_of(signal))
    }
    return pa.table({"clip_id": list(shares), signal: [0.01] * len(shares), **sides})


def test_a_mark_or_text_is_cut_where_enough_remains_and_counts_where_it_does_not() -> None:
    clips = make_facts(clip_id=list("abcd"), width=[426] * 4, height=[240] * 4).select(list(select.FACTS))
    bars = (62 / 426, 0.0, 64 / 426, 0.0)
    borders = cropped("borders", dict.fromkeys("abcd", bars))
    overlay = cropped("overlay", {"a": (0.0, 0.25, 0.0, 0.0), "b": (None,) * 4, "c": (0.0, 0.3, 0.0, 0.0)})
    text = cropped("text", {"a": (0.0, 0.0, 0.0, 0.125), "c": (0.0, 0.0, 0.0, 0.3)})
    rows = select.facts(clips, {"borders": borders, "overlay": overlay, "text": text}, None).to_pylist()
    px = [tuple(row[name] for name in crop.COLUMNS) for row in rows]
    assert px == [(62, 60, 64, 30), (62, 0, 64, 0), (62, 72, 64, 0), (62, 0, 64, 0)]
    assert [row["overlay_left"] for row in rows] == [0.0, 0.01, 0.0, None]
    assert [row["text_left"] for row in rows] == [0.0, None, 0.01, None]
    assert [(row["width"], row["height"]) for row in rows] == [(300, 150), (300, 240), (300, 168), (300, 240)]


def test_facts_join_crop_and_derive() -> None:
    clips = make_facts(clip_id=["b", "a"], width=[640, 100], height=[360, 100], media=["video", "image"])
    clips = clips.select(list(select.FACTS))
    borders = cropped("borders", {"a": (0.1, 0.0, 0.0, 0.0), "b": (0.0, 40 / 360, 0.0, 20 / 360)})
    text = cropped("text", {"b": (0.0, 30 / 360, 0.0, 60 / 360)})
    rows = select.facts(clips, {"borders": borders, "text": text}, None).to_pylist()
    assert [row["clip_id"] for row in rows] == ["a", "b"]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["duration_s"], rows[0]["aspect"]) == (90, 100, 0, 0.9)
    assert (rows[1]["width"], rows[1]["height"], rows[1]["duration_s"]) == (640, 360 - 40 - 60, 4.0)
    assert (rows[0]["text"], rows[1]["text"], rows[1]["text_left"], rows[1]["concept"]) == (None, 0.01, 0.0, None)
    assert rows[1]["cropped"] == pytest.approx(100 / 360) and rows[1]["crop_bottom"] == 60
    with pytest.raises(ValueError, match="repeat a column"):
        select.facts(clips, {"a": borders, "b": borders}, None)


# --------------------------------------------------------------------------------------------------------------- split


def split_of(facts: pa.Table, share: float = 0.1, **given: pa.Table) -> dict[str, str]:
    recipe = make_recipe({"base": {}}, val_share=share)
    made = select.ledgers(recipe, facts, None, given.get("previous"))["base"]
    return dict(zip(made["clip_id"].to_pylist(), made["split"].to_pylist(), strict=True))


def test_the_share_is_about_right_and_groups_stay_together() -> None:
    facts = many(4_000)
    found = split_of(facts)
    by_video: dict[str, set[str]] = {}
    for row in facts.to_pylist():
        by_video.setdefault(row["video_id"], set()).add(found[row["clip_id"]])
        if row["duplicate_of"]:
            assert found[row["clip_id"]] == found[row["duplicate_of"]]
    assert all(len(splits) == 1 for splits in by_video.values())
    share = sum(value == "val" for value in found.values()) / len(found)
    assert 0.06 < share < 0.2


def test_new_footage_moves_no_one() -> None:
    facts = many(2_000)
    before = split_of(facts.slice(0, 1_000))
    after = split_of(facts)
    alone = [row["clip_id"] for row in facts.slice(0, 990).to_pylist() if not row["duplicate_of"]]
    assert {clip: after[clip] for clip in alone} == {clip: before[clip] for clip in alone}


def test_a_bridge_between_groups_does_not_turn_training_into_validation() -> None:
    """Two videos on different sides, and then a new one with a copy from each: with the last ledger, training stays."""
    videos = [f"v{number}" for number in range(60)]
    trained = next(video for video in videos if split.place(video) > 0.5)
    validated = next(video for video in videos if split.place(video) < 0.1)
    both = make_facts(clip_id=["a", "b", "e"], video_id=[trained, validated, "v1"])
    before = select.ledgers(make_recipe({"base": {}}), both)["base"]
    assert dict(zip(*(before[name].to_pylist() for name in ("clip_id", "split"))))["a"] == "train"
    bridged = make_facts(clip_id=["a", "b", "c", "d", "e"], video_id=[trained, validated, "new", "new", "v1"],
                         duplicate_of=[None, None, "a", "b", None])  # fmt: skip
    after = split_of(bridged, previous=before.select(["clip_id", "split"]))
    assert {after[clip] for clip in "abcd"} == {"train"}


def test_small_footage_has_a_validation_group_in_every_set() -> None:
    for seed in range(30):
        facts = make_facts(
            clip_id=[f"{seed}-{row}" for row in range(8)],
            video_id=[f"{seed}-v{row // 2}" for row in range(8)],
            media=["video", "image"] * 4,
            borders=[0.0] * 8,
            motion=[2.0] * 8,
        )
        for name in ("image", "video"):
            table = select.ledgers(make_recipe(SETS), facts)[name]
            assert set(table.filter(table["kept"])["split"].to_pylist()) == {"train", "val"}


def test_one_group_is_trained_on_and_no_share_is_no_validation() -> None:
    one = make_facts(clip_id=["a", "b"], video_id=["v", "v"])
    assert split.place("v") >= 0.1 and set(split_of(one).values()) == {"train"}
    assert set(split_of(many(100), share=0.0).values()) == {"train"}


def test_no_clips_make_empty_ledgers() -> None:
    made = select.ledgers(make_recipe(SETS), many().slice(0, 0))
    assert {len(table) for table in made.values()} == {0}
    assert all(table.schema == select.SCHEMA for table in made.values())
