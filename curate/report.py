"""The report of a workspace: one HTML file, contact sheets of kept and dropped clips, histograms; a terminal table.

Everything is read from tables; pictures are the clips' proxies.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import pipelines
from curate import concepts, select
from media import storage

if TYPE_CHECKING:
    from rich.table import Table

    from curate.tables import Tables

SHOWN = 24  # pictures of kept and of dropped clips, each, per set

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1250px; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.clips { display: flex; flex-wrap: wrap; gap: 10px } figure { margin: 0; width: 192px }
figure { font-size: 12px; line-height: 1.3 }
figure img { width: 192px; height: 120px; display: block }
.why { color: #a03 } .id { color: #888 }
"""


class Findings(NamedTuple):
    """All that a report is made of. facts: `select.facts`; ledgers by set; files: (path, status, reason) of `videos`;
    pictures: clip_id -> RGB uint8 (H, W, 3) of the clips that `chosen` names."""

    recipe: pipelines.Recipe
    facts: pa.Table
    ledgers: Mapping[str, pa.Table]
    files: pa.Table
    pictures: Mapping[str, np.ndarray]


def write(tables: Tables, folder: str) -> str:
    """A finished workspace -> index.html, kept.png, dropped.png, scores.png in folder; the path of the HTML file."""
    from curate import grouping

    facts = grouping.facts(tables)
    ledgers = {name: tables.ledger(name) for name in tables.recipe.sets}
    files = tables.read("videos", ["path", "media", "status", "reason"])
    wanted = chosen(facts, ledgers)
    return write_findings(
        Findings(tables.recipe, facts, ledgers, files, pictures(tables.iter_parts("proxies"), wanted)), folder
    )


def write_findings(found: Findings, folder: str) -> str:
    from curate import histograms, sheets
    from media.write import write_png

    kept, dropped = _sheet_cells(found)
    write_png(storage.join(folder, "kept.png"), sheets.sheet(kept))
    write_png(storage.join(folder, "dropped.png"), sheets.sheet(dropped))
    scores = histograms.scores_png(found.recipe, found.facts)
    storage.write_bytes(storage.join(folder, "scores.png"), scores)
    path = storage.join(folder, "index.html")
    storage.write_bytes(path, page(found, scores).encode())
    return path


def console(ledgers: Mapping[str, pa.Table]) -> Table:
    """A small table for terminals: per set the clips kept, and dropped by rule."""
    from rich.table import Table

    counts = {name: select.tally(table) for name, table in ledgers.items()}
    totals: dict[str, int] = {}
    for one in counts.values():
        for rule, count in one.items():
            totals[rule] = totals.get(rule, 0) + count
    rules = sorted(set(totals) - {"kept"}, key=lambda rule: (-totals[rule], rule))
    shown = Table(title="clips kept, and dropped by reason")
    shown.add_column("set")
    for rule in ("kept", *rules, "all"):
        shown.add_column(rule, justify="right")
    for name, one in counts.items():
        cells = [one.get(rule, 0) for rule in ("kept", *rules)]
        shown.add_row(name, *(str(cell) if cell else "·" for cell in cells), str(sum(cells)))
    return shown


# -------------------------------------------------------------------------------------------------------------- choice


def chosen(facts: pa.Table, ledgers: Mapping[str, pa.Table]) -> set[str]:
    """The clips whose pictures are shown: some kept and some dropped of each set, some copies and their keepers."""
    wanted: set[str] = set()
    for table in ledgers.values():
        wanted |= {clip_id for clip_id, _ in _kept(table)} | {clip_id for clip_id, _ in _dropped(table)}
    return wanted | {clip_id for pair in _copies(facts) for clip_id in pair[:2]}


def pictures(parts: Iterable[pa.Table], wanted: set[str]) -> dict[str, np.ndarray]:
    """Parts of `proxies` -> the start frame of each wanted clip."""
    from curate.sheets import first_picture

    found: dict[str, np.ndarray] = {}
    names = pa.array(sorted(wanted), pa.string())
    for part in parts:
        some = part.filter(pc.is_in(part["clip_id"], value_set=names))
        for clip_id, jpegs in zip(some["clip_id"].to_pylist(), some["jpegs"], strict=True):
            if (picture := first_picture(jpegs.as_py())) is not None:
                found[clip_id] = picture
    return found


def _kept(table: pa.Table) -> list[tuple[str, str]]:
    """(clip_id, what to say) of some kept clips, spread evenly over the ledger."""
    rows = table.filter(table["kept"])
    at = np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)) if len(rows) else []
    rows = rows.take(pa.array(at, pa.int64()))
    said = [f"weight {w:.2f}, {s}" for w, s in zip(rows["weight"].to_pylist(), rows["split"].to_pylist(), strict=True)]
    return list(zip(rows["clip_id"].to_pylist(), said, strict=True))


def _dropped(table: pa.Table) -> list[tuple[str, str]]:
    """(clip_id, reason) of some dropped clips, every rule in turn, so that a rare reason is seen too."""
    rows = table.filter(pc.invert(table["kept"]))
    by_rule: dict[str, list[tuple[str, str]]] = {}
    for clip_id, reason in zip(rows["clip_id"].to_pylist(), rows["reason"].to_pylist(), strict=True):
        by_rule.setdefault(select.rule_of(reason), []).append((clip_id, reason))
    turns = max((len(one) for one in by_rule.values()), default=0)
    ordered = [one[turn] for turn in range(min(turns, SHOWN)) for one in by_rule.values() if turn < len(one)]
    return ordered[:SHOWN]


def _copies(facts: pa.Table) -> list[tuple[str, str, float]]:
    """(copy, keeper, similarity) of some duplicates."""
    rows = facts.filter(pc.is_valid(facts["duplicate_of"])).slice(0, SHOWN // 2)
    names = ("clip_id", "duplicate_of", "similarity")
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def _sheet_cells(found: Findings) -> tuple[list[Any], list[Any]]:
    """Cells of clips that some set keeps, and of clips that none keeps with the reason of the first set."""
    from curate.sheets import Cell

    keepers: dict[str, list[str]] = {}
    for name, table in found.ledgers.items():
        for clip_id, _ in _kept(table):
            keepers.setdefault(clip_id, []).append(name)
    kept_anywhere = {c for table in found.ledgers.values() for c in table.filter(table["kept"])["clip_id"].to_pylist()}
    reasons: dict[str, str] = {}
    for table in found.ledgers.values():
        for clip_id, reason in _dropped(table):
            if clip_id not in kept_anywhere:
                reasons.setdefault(clip_id, reason)
    paths = _paths(found.facts)
    kept = [Cell(found.pictures.get(c), (paths[c], ", ".join(names))) for c, names in sorted(keepers.items())]
    # What was too short to be measured has no picture: the page counts it, the sheet shows what can be seen.
    dropped = [Cell(found.pictures[c], (paths[c], reason)) for c, reason in reasons.items() if c in found.pictures]
    return kept[: 2 * SHOWN], dropped[: 2 * SHOWN]


def _paths(facts: pa.Table) -> dict[str, str]:
    names = [f"{storage.name(path)} · {start:.1f} s" for path, start in
             zip(facts["path"].to_pylist(), facts["start_s"].to_pylist(), strict=True)]  # fmt: skip
    return dict(zip(facts["clip_id"].to_pylist(), names, strict=True))


# ---------------------------------------------------------------------------------------------------------------- page


def page(found: Findings, scores_png: bytes) -> str:
    """The whole HTML document, pictures included; every text from outside is escaped."""
    sections = [_files_section(found.files), _sets_section(found)]
    sections += [_set_section(found, name) for name in found.ledgers]
    sections += [_copies_section(found), _scores_section(scores_png)]
    name = escape(found.recipe.name)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>dailies: {name}</title><style>{STYLE}</style>"
        f"<h1>What was kept, and why the rest was not</h1><p>Recipe {name}, workspace "
        f"{escape(found.recipe.workspace)}. {_embedding_note(found.recipe)}</p>{''.join(sections)}</html>"
    )


def _embedding_note(recipe: pipelines.Recipe) -> str:
    if recipe.curate.embed.model != "descriptor":
        return f"Concepts are those of {escape(recipe.curate.embed.model)}."
    return "Concepts come from the built-in descriptor, which knows colours and shapes and no meanings."


def _files_section(files: pa.Table) -> str:
    counts = files.group_by(["media", "status"]).aggregate([("path", "count")]).sort_by("media")
    rows = [[row["media"] or "?", row["status"], row["path_count"]] for row in counts.to_pylist()]
    bad = [[row["path"], row["status"], row["reason"] or ""] for row in files.to_pylist() if row["status"] != "ok"]
    listed = (
        f"<details><summary>{len(bad)} files that are not whole</summary>{_table([], bad)}</details>" if bad else ""
    )
    return f"<h2>Files</h2>{_table(['media', 'status', 'files'], rows)}{listed}"


def _sets_section(found: Findings) -> str:
    rows = []
    for name, table in found.ledgers.items():
        rows_kept = table.filter(table["kept"]).sort_by("clip_id")
        kept = found.facts.filter(pc.is_in(found.facts["clip_id"], value_set=rows_kept["clip_id"].combine_chunks()))
        concept, weight = select.numbers(kept.sort_by("clip_id"), "concept", -1.0), rows_kept["weight"].to_numpy()
        hours = float(np.nansum(select.numbers(kept, "duration_s"))) / 3600
        before, after = concepts.entropy(concept), concepts.entropy(concept, weight)
        val = pc.sum(pc.equal(rows_kept["split"], "val")).as_py() or 0
        rows.append([name, len(kept), val, f"{hours:.3f}", len(np.unique(concept)), f"{before:.2f} → {after:.2f}"])
    head = ["set", "clips", "of them val", "hours", "concepts", "entropy (bits), unweighted → weighted"]
    return f"<h2>Sets</h2>{_table(head, rows)}"


def _set_section(found: Findings, name: str) -> str:
    table, bounds = found.ledgers[name], found.recipe.bounds(name)
    rules = [f"{score} in [{_limit(b.min, '−∞')}, {_limit(b.max, '∞')}]" for score, b in bounds.items()]
    rows = [[rule, count] for rule, count in select.tally(table).items()]
    said = escape(", ".join(rules)) or "no bounds"
    return (
        f"<h2>{escape(name)}</h2><p>{said}</p>{_table(['', 'clips'], rows)}"
        f"<h3>Kept</h3>{_figures(found, _kept(table))}<h3>Dropped</h3>{_figures(found, _dropped(table), 'why')}"
    )


def _limit(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:g}"


def _copies_section(found: Findings) -> str:
    pairs = _copies(found.facts)
    total = len(found.facts) - found.facts["duplicate_of"].null_count
    shown = "".join(
        _figures(found, [(keeper, "kept"), (copy, f"copy, similarity {similarity:.3f}")])
        for copy, keeper, similarity in pairs
    )
    return f"<h2>Copies</h2><p>{total} clips are copies of a better one.</p>{shown}"


def _scores_section(png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return f'<h2>Scores</h2><p>Lines are the bounds of the sets.</p><img src="data:image/png;base64,{data}" width=1200>'


def _figures(found: Findings, clips: Sequence[tuple[str, str]], kind: str = "") -> str:
    from curate.sheets import data_uri

    paths, shown = _paths_of(found.facts, [clip_id for clip_id, _ in clips]), []
    for clip_id, said in clips:
        rgb = found.pictures.get(clip_id)
        image = f'<img src="{data_uri(rgb)}" alt="">' if rgb is not None else ""
        label = f"{escape(paths.get(clip_id, '?'))}<br><span class={kind or 'said'}>{escape(said)}</span>"
        shown.append(f"<figure>{image}{label}<br><span class=id>{escape(clip_id)}</span></figure>")
    return f"<div class=clips>{''.join(shown)}</div>" if shown else "<p>none</p>"


def _paths_of(facts: pa.Table, clip_ids: list[str]) -> dict[str, str]:
    return _paths(facts.filter(pc.is_in(facts["clip_id"], value_set=pa.array(clip_ids, pa.string()))))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _cell(value: Any) -> str:
    return f"<td class=n>{value}</td>" if isinstance(value, (int, float)) else f"<td>{escape(str(value))}</td>"
