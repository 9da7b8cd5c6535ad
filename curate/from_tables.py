"""Captions, concepts, sets and the report: made from tables alone, each only when what it is made from has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from curate import account, units
from curate.tables import SCHEMAS, Tables, forgotten, part_notes, superseded, write_part
from media import storage


def make(
    tables: Tables, files: list[units.File], steps: Sequence[str], refit: bool, check: Callable[[], None]
) -> list[str]:
    """The steps of those named, in their order. Names what was made. check() may raise between them."""
    made: list[str] = []
    every: tuple[tuple[str, Callable[[], Iterable[str]]], ...] = (
        ("captions", lambda: make_captions(tables, files)),
        ("concepts", lambda: make_concepts(tables, refit)),
        ("sets", lambda: make_sets(tables)),
        ("report", lambda: make_report(tables)),
    )
    for name, one in every:
        if name in steps:
            check()
            made += one()
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
