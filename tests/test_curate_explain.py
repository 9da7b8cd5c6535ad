"""`curate explain` of a real workspace: what it says is what the tables hold, for clips, images, aliases and broken files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from curate_runs import CURATE, LEAN_OPTIONS, curate, recipe

from curate import explain, grouping
from curate.tables import Tables
from pipelines import SCORES, RecipeError

FILES = ("still.mp4", "truncated.mp4", "picture_temple.png", "picture_flower.jpg", "picture_flower_small.jpg", "empty.mp4",
         "letter.mp4", "pans.json")  # fmt: skip


@pytest.fixture(scope="module")
def tables(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    footage = tmp_path_factory.mktemp("explained")
    for name in FILES:
        shutil.copy(generated / name, footage / name)
    shutil.copy(generated / "still.mp4", footage / "the_same_again.mp4")
    workspace = tmp_path_factory.mktemp("explain") / "work"
    curate(workspace, footage, "--set", "curate.max_loss=1.0")
    return Tables(recipe(workspace, footage))


@pytest.fixture(scope="module")
def told(tables: Tables) -> dict[str, str]:
    """What is said of every clip and dropped span."""
    facts, videos = grouping.facts(tables), tables.read("videos")
    ledgers = {name: tables.ledger(name) for name in tables.recipe.sets}
    ids = facts["clip_id"].to_pylist()
    return {one: explain.of_clip(tables.recipe, facts, ledgers, one, videos) for one in ids}


def rows(tables: Tables, name: str, **wanted: Any) -> list[dict[str, Any]]:
    found = tables.ledger(name) if name in tables.recipe.sets else tables.read(name)
    for column, value in wanted.items():
        found = found.filter(pc.equal(found[column], value))
    return found.to_pylist()


def video(tables: Tables, name: str) -> dict[str, Any]:
    return next(row for row in rows(tables, "videos") if row["path"].endswith(f"/{name}"))


def test_a_clip_shows_every_score_every_verdict_its_copies_and_concept(tables: Tables, told: dict[str, str]) -> None:
    ledgers = {name: {row["clip_id"]: row for row in rows(tables, name)} for name in tables.recipe.sets}
    facts = grouping.facts(tables).to_pylist()
    for row in (one for one in facts if one["status"] == "ok"):
        text = told[row["clip_id"]]
        lines = {line.split()[0]: line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
        for score in (name for table in tables.signals for name in tables.schema(f"scores.{table}").names[1:]):
            assert lines[score] == ("unknown" if row[score] is None else explain._value(row[score])), score
        for name, ledger in ledgers.items():
            verdict = ledger[row["clip_id"]]
            said = f"kept, weight {verdict['weight']:.3f}" if verdict["kept"] else f"dropped: {verdict['reason']}"
            assert f"  {name}: {said}" in text
        assert f"concept {row['concept']}, " in text
        if row["duplicate_of"]:
            assert f"duplicate of {row['duplicate_of']}" in text
            assert f"kept instead of {row['clip_id']}" in told[row["duplicate_of"]]
    assert any(row["duplicate_of"] for row in facts), "the footage has copies"


def test_the_bound_that_decided_is_the_first_that_failed(tables: Tables, told: dict[str, str]) -> None:
    """By hand, from the scores: a bound is met or not, and the reason names the first that is not."""
    decided = 0
    for row in grouping.facts(tables).to_pylist():
        if row["status"] != "ok" or row["media"] != "video":
            continue
        failed = [score for score, bound in tables.recipe.bounds("video_best").items()
                  if row[score] is None or row[score] < (bound.min if bound.min is not None else float("-inf"))
                  or row[score] > (bound.max if bound.max is not None else float("inf"))]  # fmt: skip
        verdict, *bounds = told[row["clip_id"]].split("  video_best: ")[1].split("\n  people: ")[0].split("\n")
        assert sorted(line.split()[1] for line in bounds if line.split()[0] == "failed") == sorted(failed)
        first = next((score for score in SCORES if score in failed), None)
        assert first is None or verdict.startswith(f"dropped: {first} "), (verdict, failed)
        decided += first is not None
    assert decided, "some clip is outside a bound"


def test_a_file_shows_every_clip_and_every_dropped_span(tables: Tables) -> None:
    for one in (row for row in rows(tables, "videos") if row["status"] in ("ok", "partial")):
        spans = rows(tables, "clips", video_id=one["video_id"])
        text = explain.explain(tables, one["path"])
        assert f"{len(spans)} spans = {sum(row['status'] == 'ok' for row in spans)} clips" in text
        for row in spans:
            block = text.split(row["clip_id"])[1].split("\n  ")
            place = "image" if row["media"] == "image" else f"[{row['start_s']:.3f} s, {row['end_s']:.3f} s)"
            assert place in block[0]
            if row["status"] != "ok":
                assert f"dropped: {row['reason']}" in block[1]
    assert any(row["status"] != "ok" for row in rows(tables, "clips")), "some span is dropped"


def test_a_partial_file_is_told_of_by_its_clips_and_found_by_its_id(tables: Tables, told: dict[str, str]) -> None:
    partial = video(tables, "truncated.mp4")
    text = explain.explain(tables, partial["video_id"])
    assert text.startswith(f"{partial['path']}  video partial: {partial['reason']}")
    assert all(f"the file is partial: {partial['reason']}" in told[row["clip_id"]]
               for row in rows(tables, "clips", video_id=partial["video_id"]))  # fmt: skip


def test_an_image_is_its_one_clip(tables: Tables) -> None:
    text = explain.explain(tables, "picture_temple.png")
    assert "image ok" in text and "1 spans = 1 clips + 0 dropped spans" in text
    assert "image_256px: kept" in text and "video_256px: dropped: media image, set wants video" in text


def test_an_alias_shows_the_clips_of_the_first_name(tables: Tables) -> None:
    text = explain.explain(tables, "the_same_again.mp4")
    first = video(tables, "still.mp4")
    assert f"alias: same content as {first['path']}" in text
    spans = rows(tables, "clips", video_id=first["video_id"])
    assert spans and all(row["clip_id"] in text for row in spans)
    assert f"also {video(tables, 'the_same_again.mp4')['path']}" in explain.explain(tables, spans[0]["clip_id"])


@pytest.mark.parametrize(("name", "says"), [("empty.mp4", "failed: the file is empty"),
                                            ("letter.mp4", "failed: cannot be opened"), ("pans.json", "unsupported")])  # fmt: skip
def test_a_file_without_clips_says_why(tables: Tables, name: str, says: str) -> None:
    text = explain.explain(tables, name)
    assert says in text.split("\n")[0] and text.endswith("no clips")


def test_an_unknown_name_gets_near_misses_or_the_reason(tables: Tables, tmp_path: Path) -> None:
    clip = rows(tables, "clips")[0]["clip_id"]
    asked = {"stilll.mp4": "still.mp4", clip[:6]: clip, clip[:-1] + "_": clip}
    for wrong, right in asked.items():
        with pytest.raises(RecipeError, match=f"no clip, video or file of that name .* did you mean .*{right}"):
            explain.explain(tables, wrong)
    with pytest.raises(RecipeError, match=r"of that name in [^,]*$"):
        explain.explain(tables, "nothing_like_it_at_all")
    (tmp_path / "other.mp4").write_bytes(b"x")
    with pytest.raises(RecipeError, match="among --footage"):
        explain.explain(tables, str(tmp_path / "other.mp4"))


def test_what_is_forgotten_is_said_to_be_and_no_more(tables: Tables) -> None:
    one = video(tables, "picture_flower_small.jpg")
    said = {}
    for what in ("forget", "explain"):
        said[what] = subprocess.run([*CURATE, what, one["path"], *(LEAN_OPTIONS if what == "explain" else ()), "--workspace",
                                     tables.workspace], capture_output=True, text=True, cwd=Path(one["path"]).parent)  # fmt: skip
    assert said["forget"].returncode == 0 and said["explain"].returncode == 2
    assert "it was forgotten" in said["explain"].stderr and len(said["explain"].stderr.strip().splitlines()) == 1
