"""What-if: before and after against the ledgers themselves; gained and lost add up; other tables are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from curate import concepts, select, what_if
from curate.tables import Tables
from pipelines import RecipeError, load
from tests.select_tables import make_facts, make_recipe
from tests.test_curate_run import CURATE, digest
from tests.test_select_ledger import SETS, many

BEFORE = {**SETS, "video": {"parent": "base", "media": "video", "keep": {"motion": {"min": 0.3, "max": 6.0}}}}
AFTER = {**SETS, "video": {"parent": "base", "media": "video", "keep": {"motion": {"min": 0.9}}}}


def test_counts_are_those_of_the_ledgers() -> None:
    facts, recipe, changed = many(), make_recipe(BEFORE), make_recipe(AFTER)
    found = what_if.changes(recipe, changed, facts)
    for before_or_after, one in (("before", recipe), ("after", changed)):
        for name, ledger in select.ledgers(one, facts).items():
            kept = facts.filter(ledger["kept"])
            said = getattr(found[name], before_or_after)
            assert said.clips == len(kept)
            assert said.hours == pytest.approx(np.nansum(select.numbers(kept, "duration_s")) / 3600)
            weight = ledger.filter(ledger["kept"])["weight"].to_numpy()
            assert said.entropy_bits == pytest.approx(concepts.entropy(select.numbers(kept, "concept"), weight))


def test_gained_and_lost_add_up_and_name_the_rule() -> None:
    facts = many()
    found = what_if.changes(make_recipe(BEFORE), make_recipe(AFTER), facts)
    for one in found.values():
        assert one.before and one.after
        assert one.after.clips == one.before.clips + sum(one.gained.values()) - sum(one.lost.values())
    assert set(found["video"].lost) == {"motion"} == set(found["large"].gained) and not found["large"].lost
    assert set(found["video"].gained) == {"motion"}  # its upper bound is gone
    back = what_if.changes(make_recipe(AFTER), make_recipe(BEFORE), facts)
    assert back["video"].gained == found["video"].lost and back["video"].lost == found["video"].gained


def test_a_set_that_is_new_or_gone() -> None:
    facts = make_facts(clip_id=["a", "b"], motion=[1.0, 3.0])
    one, two = make_recipe({"all": {}}), make_recipe({"all": {}, "fast": {"keep": {"motion": {"min": 2.0}}}})
    new, gone = what_if.changes(one, two, facts)["fast"], what_if.changes(two, one, facts)["fast"]
    assert new.before is None and new.gained == {"no such set": 1}
    assert gone.after is None and gone.lost == {"no such set": 1}
    assert what_if.lines(what_if.changes(one, one, facts)) == ["all  2 clips, 0.00222 h: unchanged"]


@pytest.fixture(scope="module")
def workspace(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace of three generated films, by the demo recipe."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "footage").mkdir()
    for name in ("pans.mp4", "still.mp4", "slow.avi"):
        shutil.copy(generated / name, folder / "footage" / name)
    command = [*CURATE, "--local", "--footage", str(folder / "footage"), "--workspace", str(folder / "work")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    return folder / "work"


def ask(workspace: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run([*CURATE, *words, "--workspace", str(workspace)], cwd=workspace.parent,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout if code == 0 else done.stderr


def test_the_command_answers_what_a_run_then_keeps_and_writes_nothing(workspace: Path) -> None:
    before = digest(workspace)
    proposed = json.loads(ask(workspace, "tune", "--set-name", "video_256px", "--keep-share", "0.5", "--json"))
    change = f"sets.video_256px.keep.motion.min={proposed['bounds']['motion']['min']}"
    said = json.loads(ask(workspace, "what-if", change, "--json"))["sets"]["video_256px"]
    assert "newly dropped by: " in ask(workspace, "what-if", change)
    assert digest(workspace) == before
    run = [*CURATE, "--local", "--footage", str(workspace.parent / "footage"), "--workspace", str(workspace)]
    subprocess.run([*run, "--set", change], cwd=workspace.parent, check=True, capture_output=True, timeout=120)
    ledger = Tables(load(None, "demo", (change,), workspace=str(workspace))).ledger("video_256px")
    assert said["after"]["clips"] == pc.sum(ledger["kept"]).as_py() < said["before"]["clips"]
    assert said["after"]["clips"] == proposed["kept"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("sets.video_256px.keep.motin.min=5.0", "did you mean 'motion'"),
        ("curate.shots.min_s=2.0", "makes another table"),
        ("sets.video_256px.keep.sharpness.min=1.0", "looser than"),
        ("nonsense", "key=value"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_code_2(workspace: Path, change: str, says: str) -> None:
    said = ask(workspace, "what-if", change, code=2)
    assert says in said and len(said.strip().splitlines()) == 1


def test_status_shows_the_entropy_of_concepts(workspace: Path) -> None:
    found = json.loads(ask(workspace, "status", "--json"))["sets"]
    tables = Tables(load(None, "demo", workspace=str(workspace)))
    concept = dict(zip(*(tables.read("concepts")[name].to_pylist() for name in ("clip_id", "concept")), strict=True))
    for name, row in found.items():
        ledger = tables.ledger(name)
        kept = ledger.filter(ledger["kept"])
        own = np.array([concept[clip_id] for clip_id in kept["clip_id"].to_pylist()])
        before, after = concepts.entropy(own), concepts.entropy(own, kept["weight"].to_numpy())
        assert row["concept_bits"] == pytest.approx([before, after])
        assert 0 <= before <= after + 1e-9  # the law evens concepts out
    assert "bits by weight" in ask(workspace, "status")


def test_a_workspace_without_tables_says_run_first(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert "run `curate` first" in ask(tmp_path / "work", "what-if", "sets.base.keep.borders.max=0.05", code=2)
    with pytest.raises(RecipeError):
        what_if.load_both(None, "demo", (), ("sets.base.keep.borders.max=high",))
