"""How well copies are found: recall, precision and keepers, on generated variants and on labelled real footage.

    python -m benchmarks.copies                     generated footage; real footage too where DAILIES_FOOTAGE names it
    python -m benchmarks.copies FOLDER [FOLDER...]  folders with truth.json (generated) or labels.json (real)
    python -m benchmarks.copies --variants FOLDER   variants of a labelled folder's single-shot files (copy_variants.py)

The footage is curated as ever, into a temporary workspace. Of a group of n clips that show the same, n - 1 should name
a keeper among them (recall); whatever names a keeper outside its group is wrong (precision). In generated footage a
group is a shot and its copies in the film's variants; pairs that truth.json calls related are judged neither way. In
real footage a group is of files, and what is found inside one file is not judged. The best of a group is the one that the others
were made from; it should be kept, with a measured quality and without. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import copy_variants
from curate import pipeline
from curate.tables import Tables
from pipelines import Recipe, load

# With which signals a keeper is chosen: without a quality, or with all that `curate.keeper` knows.
SIGNALS = {"lean": ("sharpness", "borders", "overlay"), "all": ("sharpness", "borders", "overlay", "quality", "text")}
BEST = (
    "threatexchange-tmk/pattern-hd-no-bar.mp4",
    "threatexchange-tmk/aaa-orig.jpg",
)  # by their names; of two groups it isn't known


class Clip(NamedTuple):
    """group: what it shows, None for nothing that was copied; file: its path in the folder."""

    clip_id: str
    file: str
    middle_s: float
    group: tuple[str, ...] | None


class Verdict(NamedTuple):
    """expected, found, wrong: duplicates; originals: of the `groups` that have a best one, those that keep it; lost: the others,
    with what they keep."""

    expected: int
    found: int
    wrong: list[str]
    missed: list[str]
    originals: int
    groups: int
    lost: list[str]


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each of SIGNALS; the footage is decoded once."""
    truth = _read(folder / "truth.json")
    files, group_of, judged = _generated(folder, truth) if truth else _real(folder, _read(folder / "labels.json") or {})
    best = {one["original"] for one in truth["duplicates"]} if truth else set(BEST)
    rows = []
    with tempfile.TemporaryDirectory(prefix="dailies-copies-") as workspace:
        for name, signals in SIGNALS.items():
            recipe = _recipe(files, workspace, signals)
            pipeline.run(recipe, local=True, workers=None, only=["scan", "concepts"], refit=False, as_json=False)
            clips, keeper = _found(Tables(recipe), folder, group_of)
            rows.append(_figures(folder.name, name, len(clips), judge(clips, keeper, judged, best)))
    return rows


def judge(clips: list[Clip], keeper: dict[str, str], judged: Callable[[Clip, Clip], bool], best: set[str]) -> Verdict:
    """keeper: duplicate -> its keeper, by clip id; judged: whether a pair outside a group counts as wrong; best: files that should
    be kept of their groups."""
    by_id = {clip.clip_id: clip for clip in clips}
    members: dict[tuple[str, ...], list[Clip]] = {}
    for clip in clips:
        if clip.group is not None:
            members.setdefault(clip.group, []).append(clip)
    members = {group: some for group, some in members.items() if len({clip.file for clip in some}) > 1}
    right, wrong = set(), []
    for copy, kept in keeper.items():
        a, b = by_id[copy], by_id[kept]
        if a.group is not None and a.group == b.group:
            right.add(copy)
        elif judged(a, b):
            wrong.append(f"{a.file} at {a.middle_s:.1f} s taken for {b.file} at {b.middle_s:.1f} s")
    expected, missed, with_best, lost = 0, [], 0, []
    for some in members.values():
        kept = [clip for clip in some if clip.clip_id not in right]
        expected += len(some) - 1
        missed += [f"{clip.file} at {clip.middle_s:.1f} s" for clip in kept[1:]]
        if any(clip.file in best for clip in some):
            with_best += 1
            if len(kept) != 1 or kept[0].file not in best:
                lost.append(", ".join(f"{clip.file} at {clip.middle_s:.1f} s" for clip in kept))
    return Verdict(expected, expected - len(missed), wrong, missed, with_best - len(lost), with_best, lost)


def _figures(name: str, signals: str, clips: int, verdict: Verdict) -> dict[str, Any]:
    named = verdict.found + len(verdict.wrong)
    return {
        "footage": name,
        "signals": signals,
        "clips": clips,
        "recall": verdict.found / max(verdict.expected, 1),
        "precision": verdict.found / max(named, 1),
    } | verdict._asdict()


# --------------------------------------------------------------------------------------------------------------- truth


def _generated(folder: Path, truth: dict[str, Any]):
    files = [name for name, record in truth["files"].items() if record["expect"] in ("ok", "partial")]
    film = {file: one["original"] for one in truth["duplicates"] for file in one["files"]}
    related = {frozenset(pair) for pair in truth["related"]}

    def group_of(file: str, middle_s: float) -> tuple[str, ...] | None:
        if file not in film:
            return None
        shots = truth["files"][file].get("shots") or []
        at = [str(shot["shot"]) for shot in shots if shot["start_s"] <= middle_s < shot["end_s"]]
        return (film[file], *(at[:1] if len(shots) else []))

    def judged(a: Clip, b: Clip) -> bool:
        return frozenset((a.file, b.file)) not in related

    return [folder / name for name in files], group_of, judged


def _real(folder: Path, labels: dict[str, Any]):
    group = {file: one["name"] for one in labels["near_dup_groups"] for file in one["files"]}
    files = [*group, *labels["near_dup_negatives"], *labels["single_shot"]]

    def group_of(file: str, _middle_s: float) -> tuple[str, ...] | None:
        return (group[file],) if file in group else None

    def judged(a: Clip, b: Clip) -> bool:
        return a.file != b.file

    return [folder / name for name in dict.fromkeys(files) if (folder / name).is_file()], group_of, judged


# --------------------------------------------------------------------------------------------------------------- found


def _recipe(files: Iterable[Path], workspace: str, signals: Sequence[str]) -> Recipe:
    given = "{" + ", ".join(f"{name}: {{}}" for name in signals) + "}"
    changes = (
        "sets={all: {}}",
        "stages={all: {feeds: [{set: all, view: image_256}], tokens: 1280, steps: 1, lr: 1.0e-3}}",
        f"curate.signals={given}",
    )
    changes += ("curate.max_loss=1.0", "curate.unit_videos=8")
    return load(None, "demo", changes, footage=tuple(str(path) for path in files), workspace=workspace)


def _found(tables: Tables, folder: Path, group_of: Callable[[str, float], tuple[str, ...] | None]):
    rows = tables.read("clips", ["clip_id", "path", "start_s", "end_s", "status"]).to_pylist()
    clips = []
    for row in rows:
        if row["status"] == "ok":
            file, middle = os.path.relpath(row["path"], folder), (row["start_s"] + row["end_s"]) / 2
            clips.append(Clip(row["clip_id"], file, middle, group_of(file, middle)))
    pairs = tables.read("concepts", ["clip_id", "duplicate_of"]).to_pylist()
    return clips, {row["clip_id"]: row["duplicate_of"] for row in pairs if row["duplicate_of"]}


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'footage':<24}{'signals':>9}{'clips':>7}{'copies':>8}{'recall':>9}{'precision':>11}{'kept the best':>16}")
    for row in rows:
        print(f"{row['footage']:<24}{row['signals']:>9}{row['clips']:>7}{row['expected']:>8}{row['recall']:>9.3f}"
              f"{row['precision']:>11.3f}{row['originals']:>9} of {row['groups']:<3}")  # fmt: skip
        for what, said in (("missed", "missed"), ("wrong", "wrong"), ("lost", "kept instead of the best")):
            for one in row[what]:
                print(f"    {said}: {one}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--variants", type=Path, help="folder with labels.json")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dailies-footage-") as made:
        varied = [copy_variants.make(given.variants, Path(made, "variants"))] if given.variants else []
        folders = [*given.folders, *varied] or _usual(Path(made, "generated"))
        rows = [row for folder in folders for row in measure(folder.resolve())]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def _usual(folder: Path) -> list[Path]:
    from examples.footage import generate

    generate(folder, 0)
    real = os.environ.get("DAILIES_FOOTAGE")
    return [folder, *([Path(real)] if real else [])]


if __name__ == "__main__":
    main()
