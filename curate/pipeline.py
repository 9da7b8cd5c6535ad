"""`curate run`: units of new footage are scanned, then captions, concepts and sets are made from tables alone.

Each step looks at what is there, makes what is missing, and says what it did; a run without news makes nothing.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import commands
import pipelines
from curate import account, from_tables, scanning
from curate.checks import check_picks, check_scores, settled
from curate.tables import Tables
from curate.tally import Tally
from curate.units import footage
from media import storage
from pipelines import Recipe, RecipeError

STEPS = ("scan", "captions", "concepts", "sets", "report")


def run(recipe: Recipe, *, local: bool, workers: int | None, only: list[str] | None, refit: bool, as_json: bool) -> int:
    """The whole command. Raises RecipeError, Busy, Interrupted, TooMuchLost; what is finished stays finished."""
    steps = tuple(only or STEPS)
    wrong = [step for step in steps if step not in STEPS]
    if wrong:
        raise RecipeError(f"--only {wrong[0]}: must be one of {', '.join(STEPS)}")
    recipe = settled(recipe)
    check_picks(recipe)
    check_scores(recipe)
    entries = footage(recipe.footage)
    tables, stop, started = Tables(recipe), commands.Stop(), time.monotonic()
    with commands.hold(tables.workspace, "curate"):
        scanning.sweep(tables.workspace)
        _write_recipe(tables)
        files = scanning.listed(tables, entries, as_json)
        tally, cores = Tally(), workers or os.cpu_count() or 1
        if "scan" in steps:
            tally = scanning.scan(tables, files, local, cores, as_json, stop.check)
        made = from_tables.make(Tables(recipe), files, steps, refit, stop.check)
    _say(tally, made, time.monotonic() - started, as_json)
    account.show(recipe, as_json)
    account.check_loss(Tables(recipe))
    return 0


def _write_recipe(tables: Tables) -> None:
    text = json.dumps(pipelines.resolved(tables.recipe), indent=1)
    storage.write_bytes(storage.join(tables.workspace, "recipe.json"), text.encode())


def _say(tally: Tally, made: list[str], seconds: float, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "units": len(tally.units),
        "videos": tally.videos,
        "seconds": round(seconds, 2),
        "made": made,
    }
    facts |= {"frames_decoded": tally.decoded, "amplification": tally.amplification}
    if as_json:
        print(json.dumps({"what": "curated"} | facts), flush=True)
        return
    parts = tally.parts + len(made)
    news = f"{parts} parts made" if parts else "everything is up to date"
    print(f"scanned {tally.videos} videos, decoded {tally.decoded} frames; {news}; {seconds:.1f} s")


__all__ = ["run"]
