"""`curate run`: units of new footage are scanned, then captions, concepts and sets are made from tables alone.

Each step looks at what is there, makes what is missing, and says what it did; a run without news makes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import commands
import pipelines
from curate import account, unit, units
from curate.tables import SCHEMAS, Tables, forgotten, part_name, part_notes, superseded, typed, write_part
from media import storage
from pipelines import Recipe, RecipeError

FACTS = ("duration_s", "width", "height", "short_side", "fps", "aspect", "cropped")  # scores that need no signal
MOST_THREADS = 16  # that one unit may use
STEPS = ("scan", "captions", "concepts", "sets", "report")


class How(NamedTuple):
    """How to run: --local, its workers, the steps of --only, --refit, --json."""

    local: bool
    workers: int
    steps: tuple[str, ...]
    refit: bool
    as_json: bool


def run(recipe: Recipe, *, local: bool, workers: int | None, only: list[str] | None, refit: bool, as_json: bool) -> int:
    """The whole command. Raises RecipeError, Busy, Interrupted, TooMuchLost; what is finished stays finished."""
    wrong = [step for step in only or () if step not in STEPS]
    if wrong:
        raise RecipeError(f"--only {wrong[0]}: must be one of {', '.join(STEPS)}")
    how = How(local, workers or os.cpu_count() or 1, tuple(only or STEPS), refit, as_json)
    recipe = settled(recipe)
    check_picks(recipe)
    check_scores(recipe)
    entries = units.footage(recipe.footage)
    tables, stop, started = Tables(recipe), commands.Stop(), time.monotonic()
    with commands.hold(tables.workspace, "curate"):
        _sweep(tables.workspace)
        _write_recipe(tables)
        files = _listed(tables, entries, as_json)
        tally = _scan(tables, files, how, stop) if "scan" in how.steps else Tally()
        made = _global_steps(Tables(recipe), files, how, stop)
    _say(tally, made, time.monotonic() - started, as_json)
    account.show(recipe, as_json)
    account.check_loss(Tables(recipe))
    return 0


class Tally:
    """What a scan cost: units, videos, frames decoded, seconds of work over all workers."""

    def __init__(self) -> None:
        self.units, self.videos, self.frames, self.parts, self.seconds = 0, 0, 0, 0, 0.0

    def add(self, done: unit.Done) -> None:
        self.units += 1
        self.videos += done.videos
        self.frames += done.frames
        self.parts += len(done.written)
        self.seconds += done.seconds


def settled(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, as it travels. Raises RecipeError for a relative workspace in a Ray copy."""
    if "runtime_resources" in os.getcwd() and not os.path.isabs(recipe.workspace) and "://" not in recipe.workspace:
        raise RecipeError(
            f"workspace: {recipe.workspace} is relative, and this job runs in a copy that Ray will delete; "
            "give an absolute --workspace"
        )
    data = pipelines.resolved(recipe)
    data["workspace"] = storage.absolute(recipe.workspace)
    data["footage"] = [storage.absolute(pattern) for pattern in recipe.footage]
    for chosen in data["sets"].values():
        if chosen["clips"]:
            chosen["clips"] = storage.absolute(chosen["clips"])
    return pipelines.check(data)


def check_picks(recipe: Recipe) -> None:
    """A list that a stage needs must be there. One that nothing needs yet may come later: clip ids are known after a first run."""
    needed = {feed.set for stage in recipe.stages.values() for feed in stage.feeds}
    for name, chosen in recipe.sets.items():
        if chosen.clips and not storage.exists(chosen.clips):
            said = f"sets.{name}.clips: {chosen.clips}: no such file (one clip id per line, as `curate explain FILE` shows them)"
            if name in needed:
                raise RecipeError(said)
            print(f"{said}; the set is empty until it is there", file=sys.stderr)


def check_scores(recipe: Recipe) -> None:
    """Every signal that is on must exist, every score that a set bounds be measured. Raises RecipeError with the remedy."""
    from curate.select import LEFT
    from curate.signals import SIGNALS

    absent = [name for name, on in recipe.curate.signals if on is not None and name not in SIGNALS]
    if absent:
        raise RecipeError(f"curate.signals.{absent[0]}: is not built yet; there are {', '.join(SIGNALS)}")
    by_signal = {score: name for name, signal in SIGNALS.items() for score in signal.columns}
    by_signal |= {score: by_signal[source] for score, source in LEFT.items()}
    for set_name in recipe.sets:
        for score in recipe.bounds(set_name):
            signal = by_signal.get(score)
            if score not in FACTS and (signal is None or getattr(recipe.curate.signals, signal) is None):
                remedy = f"add `curate.signals.{signal}: {{}}`" if signal else "no signal measures it"
                raise RecipeError(f"sets.{set_name}.keep.{score}: is not measured in this recipe; {remedy}")


def _sweep(workspace: str) -> None:
    """Take away what a killed run left half written: scratch folders and temporary files, never a part."""
    if storage.is_remote(workspace):
        return
    for folder, inner, names in os.walk(workspace):
        for name in [one for one in inner if one.startswith(".unit-")]:
            storage.remove(os.path.join(folder, name))
            inner.remove(name)
        for name in names:
            if name.startswith(".") and name.endswith(".part") and "latents-" not in folder and "runs" not in folder:
                storage.remove(os.path.join(folder, name))


def _write_recipe(tables: Tables) -> None:
    text = json.dumps(pipelines.resolved(tables.recipe), indent=1)
    storage.write_bytes(storage.join(tables.workspace, "recipe.json"), text.encode())


# ---------------------------------------------------------------------------------------------------------------- scan


def _listed(tables: Tables, entries: list[storage.Entry], as_json: bool) -> list[units.File]:
    progress = commands.Progress("new files", len(entries), as_json)
    files = units.assign(tables.workspace, entries, tables.recipe.curate.unit_videos, progress.add)
    if progress.done:
        progress.close()
    return files


def _scan(tables: Tables, files: list[units.File], how: How, stop: commands.Stop) -> Tally:
    gone = forgotten(tables.workspace)["videos"]
    by_unit = units.sources(files, gone)
    lacking = unit.missing(tables, list(by_unit))
    tally = Tally()
    if lacking:
        spare = how.workers // len(lacking)  # fewer units than workers: each may use several cores
        threads = min(MOST_THREADS, max(spare, 1 if how.workers > 1 else 2))
        plain = pipelines.resolved(tables.recipe)
        jobs = [
            unit.Job(number, plain, [tuple(file) for file in by_unit[number]], names, threads)
            for number, names in lacking.items()
        ]
        progress = commands.Progress("videos", sum(len(job.files) for job in jobs), how.as_json)
        for done in _execute(jobs, how, _beat(progress), stop):
            tally.add(done)
            progress.add(0, frames=tally.frames)
        progress.close()
    _write_aliases(tables, files)
    return tally


def _execute(jobs: list[unit.Job], how: How, beat: unit.Beat, stop: commands.Stop) -> Iterator[unit.Done]:
    if how.local:
        from curate import on_local

        yield from on_local.run(jobs, how.workers, beat, stop.check)
        return
    from curate import on_ray

    print(on_ray.connect(), file=sys.stderr)
    try:
        yield from on_ray.run(jobs, beat, stop.check)
    finally:
        on_ray.disconnect()


def _beat(progress: commands.Progress) -> unit.Beat:
    def beat(what: str, count: int) -> None:
        if what == "video":
            progress.add(count)
        elif what == "alive":
            progress.add(0)
        else:
            print(f"\n{what}", file=sys.stderr)

    return beat


def _write_aliases(tables: Tables, files: list[units.File]) -> None:
    """Files whose bytes stand under another path are rows of `videos` too: nothing that was given goes unmentioned."""
    first = {file.video_id: file.path for file in reversed(files)}
    newest = {file.path: file for file in files}
    rows = [
        {"video_id": file.video_id, "path": file.path, "bytes": file.bytes, "tag": file.tag, "status": "alias"}
        | {"reason": f"same content as {first[file.video_id]}"}
        for file in newest.values()
        if file.alias
    ]
    path = storage.join(tables.folder("videos"), "aliases.parquet")
    if rows and part_notes(path).get("rows") != str(len(rows)):
        write_part(path, typed(rows, SCHEMAS["videos"]), {"rows": str(len(rows))})


# -------------------------------------------------------------------------------------------------------------- global


def _global_steps(tables: Tables, files: list[units.File], how: How, stop: commands.Stop) -> list[str]:
    """Captions, concepts, sets and the report, each only when what it is made from has changed. Names what was made."""
    made: list[str] = []
    steps: tuple[tuple[str, Callable[[], Iterable[str]]], ...] = (
        ("captions", lambda: make_captions(tables, files)),
        ("concepts", lambda: make_concepts(tables, how.refit)),
        ("sets", lambda: make_sets(tables)),
        ("report", lambda: make_report(tables)),
    )
    for name, make in steps:
        if name in how.steps:
            stop.check()
            made += make()
    return made


def make_captions(tables: Tables, files: list[units.File]) -> Iterator[str]:
    """A unit's captions are made again when a sidecar of it appears, changes or goes."""
    from curate import captioning

    listed = {file.path: f"{file.bytes}:{file.tag}" for file in files}
    for path in tables.parts("clips"):
        name = storage.name(path)
        target = storage.join(tables.folder("captions"), name)
        planned = captioning.plan(tables, path, listed)
        if part_notes(target).get("inputs") != planned.inputs:
            write_part(target, captioning.make(tables, planned, name), {"inputs": planned.inputs})
            tables.write_settings("captions")
            yield f"captions/{name}"


def inputs_of(tables: Tables, names: list[str]) -> str:
    """A digest of which parts and which tombstones a global step is made from."""
    listed = [sorted(tables.parts(name)) for name in names]
    stones = forgotten(tables.workspace)
    gone = [sorted(stones["videos"]), sorted(stones["clips"]), sorted(superseded(tables.files()))]
    return hashlib.sha256(json.dumps([listed, gone]).encode()).hexdigest()[:16]


def make_concepts(tables: Tables, refit: bool) -> Iterator[str]:
    from curate import grouping

    scores = [f"scores.{name}" for name in tables.signals]
    inputs = inputs_of(tables, ["clips", "embeddings", "hashes", *scores])
    target = tables.whole("concepts")
    if refit or part_notes(target).get("inputs") != inputs:
        write_part(target, grouping.concepts(tables, refit), {"inputs": inputs})
        tables.write_settings("concepts")
        yield "concepts"


def make_sets(tables: Tables) -> Iterator[str]:
    """All ledgers together, since the split is one for all; only those made from something else are written."""
    from curate import grouping

    upon = part_notes(tables.whole("concepts")).get("inputs", "")
    picked = grouping.picks(tables)
    inputs = {
        name: hashlib.sha256(json.dumps([upon, sorted(picked.get(name, ()))]).encode()).hexdigest()[:16]
        for name in tables.recipe.sets
    }
    stale = [name for name in inputs if part_notes(tables.ledger_path(name)).get("inputs") != inputs[name]]
    if not stale:
        return
    facts = grouping.facts(tables)
    ledgers = grouping.ledgers(tables, facts)
    for name in stale:
        account.check_ledger(ledgers[name], facts.num_rows, name)
        settings = json.dumps(tables.set_settings(name), sort_keys=True)
        notes = {"inputs": inputs[name], "settings": settings}
        write_part(tables.ledger_path(name), ledgers[name].cast(SCHEMAS["ledger"]), notes)
        yield f"sets/{name}"


def make_report(tables: Tables) -> Iterator[str]:
    """The HTML report and contact sheets, made again when a ledger or a table under it is another."""
    from curate import report

    ledgers = [tables.ledger_path(name) for name in tables.recipe.sets]
    stamp = json.dumps([[path, part_notes(path).get("inputs")] for path in ledgers])
    stamp_path = storage.join(tables.workspace, "report", "made-from.json")
    if storage.exists(stamp_path) and storage.read_bytes(stamp_path).decode() == stamp:
        return
    report.write(tables, storage.join(tables.workspace, "report"))
    storage.write_bytes(stamp_path, stamp.encode())
    yield "report"


def _say(tally: Tally, made: list[str], seconds: float, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "units": tally.units,
        "videos": tally.videos,
        "frames_decoded": tally.frames,
        "work_s": round(tally.seconds, 2),
        "seconds": round(seconds, 2),
        "made": made,
    }
    if as_json:
        print(json.dumps({"what": "curated"} | facts), flush=True)
        return
    parts = tally.parts + len(made)
    news = f"{parts} parts made" if parts else "everything is up to date"
    print(f"scanned {tally.videos} videos, decoded {tally.frames} frames; {news}; {seconds:.1f} s")


__all__ = ["part_name", "run", "settled"]
