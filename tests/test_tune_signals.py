"""A signal added to a finished workspace is measured alone; what stands is not touched; sets nest on real ledgers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import grouping, select
from curate.signals import SIGNALS
from curate.tables import Tables
from pipelines import Recipe, load
from recipe_file import find, read_yaml
from tests.select_tables import make_recipe
from tests.test_curate_run import CURATE

FILES = ("pans.mp4", "pans_small.mp4", "still.mp4", "empty.mp4", "picture_temple.png")
ALONE = (
    "sets={all: {}}",
    "stages={all: {feeds: [{set: all, view: image_256}], tokens: 1280, steps: 1, lr: 1.0e-3}}",
    "curate.max_loss=0.5",
)


@pytest.fixture(scope="module")
def footage(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    for name in FILES:
        shutil.copy(generated / name, folder / name)
    return folder


def changes(signals: tuple[str, ...]) -> tuple[str, ...]:
    """The demo recipe with these signals only, and sets without bounds."""
    off = [f"curate.signals.{name}={'{}' if name in signals else 'null'}" for name in SIGNALS]
    return (*ALONE, *off)


def recipe(workspace: Path, footage: Path, signals: tuple[str, ...]) -> Recipe:
    return load(None, "demo", changes(signals), footage=(str(footage),), workspace=str(workspace))


def curate(workspace: Path, footage: Path, signals: tuple[str, ...]) -> dict[str, Any]:
    command = [*CURATE, "--local", "--json", "--footage", str(footage), "--workspace", str(workspace)]
    command += [word for change in changes(signals) for word in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=footage.parent, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(event for event in events if event["what"] == "curated")


def stamps(tables: Tables, names: list[str]) -> dict[str, tuple[int, int]]:
    """Every part of these tables -> its inode and the time of its last change."""
    found = {}
    for name in names:
        for path in tables.parts(name):
            state = os.stat(path)
            found[path] = (state.st_ino, state.st_mtime_ns)
    return found


FROM_PROXIES = tuple(name for name, signal in SIGNALS.items() if signal.source == "proxies")


@pytest.mark.parametrize("added", ["motion", *FROM_PROXIES[:1]])
def test_an_added_signal_is_measured_alone(footage: Path, tmp_path: Path, added: str) -> None:
    before = ("exposure",)
    curate(tmp_path / "work", footage, before)
    first = Tables(recipe(tmp_path / "work", footage, before))
    standing = ["clips", "proxies", "hashes", "embeddings", "scores.exposure", "videos"]
    seen = stamps(first, standing)
    news = curate(tmp_path / "work", footage, (*before, added))
    assert stamps(first, standing) == seen, "what was measured is not measured again"
    tables = Tables(recipe(tmp_path / "work", footage, (*before, added)))
    assert {name: tables.folder(name) for name in standing} == {name: first.folder(name) for name in standing}
    assert tables.read(f"scores.{added}")["clip_id"].equals(tables.read("scores.exposure")["clip_id"])
    decodes = SIGNALS[added].source == "pass"
    assert (news["frames_decoded"] > 0) == (news["videos"] > 0) == decodes
    whole = tmp_path / "at once"
    curate(whole, footage, (*before, added))
    at_once = Tables(recipe(whole, footage, (*before, added)))
    for name in (*standing, f"scores.{added}", "concepts", "captions"):
        assert tables.read(name).equals(at_once.read(name)), name


@pytest.fixture(scope="module")
def measured(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The facts of the footage, each clip a hundred times over under another id."""
    workspace = tmp_path_factory.mktemp("nested") / "work"
    signals = ("sharpness", "borders", "motion")
    curate(workspace, footage, signals)
    facts = grouping.facts(Tables(recipe(workspace, footage, signals)))
    many = pa.concat_tables([facts] * 100)
    ids = [f"{row:016x}" for row in range(len(many))]
    many = many.set_column(many.column_names.index("clip_id"), "clip_id", pa.array(ids))
    return many.set_column(many.column_names.index("duplicate_of"), "duplicate_of", pa.nulls(len(many), pa.string()))


def with_scores(chosen: Recipe, facts: pa.Table) -> pa.Table:
    """Every score that a set bounds on and around its limits: real scores meet few of a strict recipe's bounds."""
    draw = np.random.default_rng(0)
    limits: dict[str, set[float]] = {}
    for name in chosen.sets:
        for score, bound in chosen.bounds(name).items():
            limits.setdefault(score, set()).update(one for one in (bound.min, bound.max) if one is not None)
    for score, near in sorted(limits.items()):
        at = [value for limit in sorted(near) for value in (limit, limit * 0.99 - 1e-3, limit * 1.01 + 1e-3)]
        column = pa.array(
            draw.choice([*at, np.nan], len(facts), p=[0.98 / len(at)] * len(at) + [0.02]), from_pandas=True
        )
        facts = facts.drop_columns([score]) if score in facts.column_names else facts
        facts = facts.append_column(score, column)
    return facts


@pytest.mark.parametrize("name", list(read_yaml(find())["recipes"]))
def test_each_set_keeps_a_part_of_what_its_parent_keeps(measured: pa.Table, name: str) -> None:
    chosen = load(None, name)
    facts = with_scores(chosen, measured)
    picks = {one: set(facts["clip_id"].to_pylist()[:5]) for one, own in chosen.sets.items() if own.clips}
    ledgers = select.ledgers(chosen, facts, picks)  # raises where a set keeps what its parent drops
    kept = {one: set(table.filter(table["kept"])["clip_id"].to_pylist()) for one, table in ledgers.items()}
    children = [one for one, own in chosen.sets.items() if own.parent and not own.clips]
    assert children and any(kept[one] for one in children)
    for one in children:
        assert kept[one] <= kept[chosen.sets[one].parent or ""]


def test_a_ledger_that_does_not_nest_is_refused() -> None:
    chosen = make_recipe({"outer": {"keep": {"motion": {"min": 1.0}}}, "inner": {"parent": "outer"}})
    kept = {"outer": np.array([True, False]), "inner": np.array([True, True])}
    with pytest.raises(ValueError, match="'inner' keeps 1 clips that its parent 'outer' drops"):
        select.check_nesting(chosen, kept)
    select.check_nesting(chosen, kept | {"inner": kept["outer"]})
