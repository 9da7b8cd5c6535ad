"""How well copies are found: recall, precision and keepers, on generated variants and on labelled real footage.

    python -m benchmarks.copies                     generated footage; real footage too where DAILIES_FOOTAGE names it
    python -m benchmarks.copies FOLDER [FOLDER...]  folders with truth.json (generated) or labels.json (real)

The footage is curated as ever, into a temporary workspace. Of a group of n clips that show the same, n - 1 should name
a keeper among them (recall); whatever names a keeper outside its group is wrong (precision). In generated footage a
group is a shot and its copies in the film's variants; pairs that truth.json calls related are judged neither way. In
real footage a group is of files, and what is found inside one file is not judged. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from curate import pipeline
from curate.tables import Tables
from pipelines import Recipe, load

SIGNALS = ("sharpness", "borders")  # what choosing a keeper needs of the built-in signals that see every frame


class Clip(NamedTuple):
    """group: what it shows, None for nothing that was copied; file: its path in the folder."""

    clip_id: str
    file: str
    middle_s: float
    group: tuple[str, ...] | None


class Verdict(NamedTuple):
    """expected, found, wrong: duplicates; originals: of `groups`, those that keep the original (None: unknown)."""

    expected: int
    found: int
    wrong: list[str]
    missed: list[str]
    originals: int | None
    groups: int


def measure(folder: Path) -> dict[str, Any]:
    truth = _read(folder / "truth.json")
    files, group_of, judged = _generated(folder, truth) if truth else _real(folder, _read(folder / "labels.json") or {})
    with tempfile.TemporaryDirectory(prefix="dailies-copies-") as workspace:
        recipe = _recipe(files, workspace)
        pipeline.run(recipe, local=True, workers=None, only=["scan", "concepts"], refit=False, as_json=False)
        clips, keeper = _found(Tables(recipe), folder, group_of)
    original = {one["original"] for one in truth["duplicates"]} if truth else None
    verdict = judge(clips, keeper, judged, original)
    return _figures(folder.name, len(clips), verdict)


def judge(
    clips: list[Clip], keeper: dict[str, str], judged: Callable[[Clip, Clip], bool], original: set[str] | None
) -> Verdict:
    """keeper: duplicate -> its keeper, by clip id; judged: whether a pair outside a group counts as wrong."""
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
    expected, missed, originals = 0, [], 0
    for some in members.values():
        kept = [clip for clip in some if clip.clip_id not in right]
        expected += len(some) - 1
        missed += [f"{clip.file} at {clip.middle_s:.1f} s" for clip in kept[1:]]
        originals += len(kept) == 1 and kept[0].file in (original or set())
    return Verdict(
        expected, expected - len(missed), wrong, missed, None if original is None else originals, len(members)
    )


def _figures(name: str, clips: int, verdict: Verdict) -> dict[str, Any]:
    named = verdict.found + len(verdict.wrong)
    return {
        "footage": name,
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


def _recipe(files: Iterable[Path], workspace: str) -> Recipe:
    signals = "{" + ", ".join(f"{name}: {{}}" for name in SIGNALS) + "}"
    changes = (
        "sets={all: {}}",
        "stages={all: {feeds: [{set: all, view: image_256}], tokens: 1280, steps: 1, lr: 1.0e-3}}",
        f"curate.signals={signals}",
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
    print(f"{'footage':<24}{'clips':>7}{'copies':>8}{'recall':>9}{'precision':>11}{'kept the original':>20}")
    for row in rows:
        kept = "" if row["originals"] is None else f"{row['originals']} of {row['groups']}"
        print(f"{row['footage']:<24}{row['clips']:>7}{row['expected']:>8}{row['recall']:>9.3f}"
              f"{row['precision']:>11.3f}{kept:>20}")  # fmt: skip
        for what in ("missed", "wrong"):
            for one in row[what]:
                print(f"    {what}: {one}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="dailies-footage-") as made:
        folders = given.folders or _usual(Path(made, "generated"))
        rows = [measure(folder.resolve()) for folder in folders]
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
