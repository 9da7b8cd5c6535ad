"""One scan of a file: rows that belong together, in every table, for every kind of file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curate.proxies import Candidate, Store
from curate.scan import Source, scan_video, told
from curate.signals import SIGNALS
from media.decode import Video
from pipelines import Curate, Shots, Start

PASS = [name for name, signal in SIGNALS.items() if signal.source == "pass"]
ALL = frozenset(["clips", "proxies", "hashes", *(f"scores.{name}" for name in PASS)])


def scan(path: Path, settings: Curate | None = None, want: frozenset[str] = ALL) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    source = Source("0123456789abcdef", str(path), path.stat().st_size, "tag")
    beats: list[int] = []
    video = scan_video(source, settings or Curate(), want, lambda table, new: rows[table].extend(new), beats.append)
    assert beats == sorted(beats)
    return {**rows, "videos": [video]}


def test_clips_lie_on_the_frames_of_the_truth(generated: Path) -> None:
    """VFR, rotated and plain: shots begin at the very stamps that the truth names."""
    truth = json.loads((generated / "truth.json").read_text())["files"]
    for name in ("uneven.mp4", "turned.mp4", "pans.mp4"):
        rows = scan(generated / name, want=frozenset({"clips"}))
        starts = sorted(row["shot_start_s"] for row in rows["clips"])
        assert np.allclose(starts[1:], [cut["time_s"] for cut in truth[name]["cuts"]], atol=1e-3), name
        video = rows["videos"][0]
        assert (video["width"], video["height"]) == (truth[name]["width"], truth[name]["height"])
        for row in rows["clips"]:
            assert row["start_s"] == pytest.approx(row["start_tick"] * row["tb_num"] / row["tb_den"])
            assert row["shot_start_s"] <= row["start_s"] < row["end_s"] <= row["shot_end_s"] + 1e-9


def test_settings_that_are_told_as_json_are_those_of_the_recipe(generated: Path) -> None:
    settings = Curate(shots=Shots(max_s=3.0, min_s=0.5), start=Start(window_s=0.3))
    rows = [scan(generated / "discs.mp4", one) for one in (settings, told(settings.model_dump_json()))]
    assert repr(rows[0]) == repr(rows[1]) and len(rows[0]["clips"]) > 1


def test_to_scan_no_recipe_is_loaded() -> None:
    code = "import sys, curate.isolate, curate.scan, curate.beside, curate.signals; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_tables_hold_the_same_clips(generated: Path) -> None:
    for name in ("fades.mp4", "long_take.mp4", "picture_temple.png"):
        rows = scan(generated / name)
        kept = [row["clip_id"] for row in rows["clips"] if row["status"] == "ok"]
        assert kept and all([row["clip_id"] for row in rows[table]] == kept for table in ALL - {"clips"})
        assert all(row["reason"] for row in rows["clips"] if row["status"] == "dropped")
        for row in rows["proxies"]:
            clip = next(one for one in rows["clips"] if one["clip_id"] == row["clip_id"])
            assert row["times_s"][0] == clip["start_s"] and row["times_s"] == sorted(set(row["times_s"]))
            sizes = {cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape for jpeg in row["jpegs"]}
            assert len(sizes) == 1 and max(*next(iter(sizes))[:2]) <= 512


def test_clips_do_not_depend_on_what_else_is_measured(generated: Path) -> None:
    """Without proxies and hashes no larger picture is made of a frame; shots are found on the same small one."""
    settings = Curate(start=Start(window_s=0.0))
    alone = scan(generated / "fades.mp4", settings, frozenset(["clips"]))
    assert alone["clips"] == scan(generated / "fades.mp4", settings)["clips"] and alone["clips"]


def test_a_clip_starts_at_the_sharpest_frame_of_its_window(generated: Path) -> None:
    from curate.sharpest import laplacian_variance

    path = generated / "half_blurred.mp4"
    with Video(str(path)) as video:
        frames = [(frame.time_s, laplacian_variance(frame.rough(256).luma)) for frame in video]
    for row in scan(path)["clips"]:
        trimmed = row["shot_start_s"] + (0.1 if row["start_kind"] == "cut" else 0.0)
        window = [one for one in frames if trimmed - 1e-6 <= one[0] < trimmed + 1.0 - 1e-6]
        assert row["start_s"] == pytest.approx(max(window, key=lambda one: one[1])[0])


def test_scanning_is_repeatable_and_ids_outlive_trimming(generated: Path) -> None:
    path = generated / "squares.webm"
    first = scan(path)
    assert scan(path) == first
    other = scan(path, Curate(shots=Shots(trim_s=0.3, min_s=0.5)))
    assert {row["clip_id"] for row in other["clips"]} == {row["clip_id"] for row in first["clips"]}


def test_long_shots_are_cut_up_whole(generated: Path) -> None:
    """Spans follow each other without gaps, are no longer than max_s, and cover the shot; in the bounded path too."""
    for max_s in (0.9, 2.0, 7.0):
        rows = scan(generated / "long_take.mp4", Curate(shots=Shots(max_s=max_s, min_s=0.3)), frozenset({"clips"}))
        by_shot: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows["clips"]:
            by_shot[row["shot"]].append(row)
        for spans in by_shot.values():
            assert [row["span"] for row in spans] == list(range(len(spans)))
            assert all(row["end_s"] - row["start_s"] <= max_s + 0.1 for row in spans)
            for a, b in pairwise(spans):
                assert a["end_kind"] == b["start_kind"] == "span" and b["start_s"] >= a["end_s"] - 1e-9
            assert len({(row["shot_start_tick"], row["shot_end_tick"]) for row in spans}) == 1


def test_bad_files_are_rows_with_reasons(generated: Path, tmp_path: Path) -> None:
    truth = json.loads((generated / "truth.json").read_text())["files"]
    for name, one in truth.items():
        if one["expect"] != "ok":
            (video,) = scan(generated / name)["videos"]
            assert video["status"] == one["expect"] and video["reason"], name


def test_a_size_change_is_a_cut(footage: Path) -> None:
    rows = scan(footage / "wpt" / "400x300-red-resize-200x150-green.webm")["clips"]
    assert [row["width"] for row in rows if row["status"] == "ok"] == [400, 200]
    assert rows[0]["shot_end_tick"] == rows[1]["shot_start_tick"]
    assert rows[0]["end_kind"] == rows[1]["start_kind"] == "resize"


def test_a_film_may_begin_and_end_in_a_transition(generated: Path) -> None:
    """fades.mp4 rises from black with its first frame: shots are numbered from 0, spans tile the film."""
    rows = scan(generated / "fades.mp4", want=frozenset({"clips"}))["clips"]
    shots = [row["shot"] for row in rows if row["shot"] is not None]
    assert shots == list(range(len(shots)))
    assert all(a["shot_end_tick"] == b["shot_start_tick"] for a, b in pairwise(rows))
    assert any(row["reason"] == "inside a fade" for row in rows)


def test_the_store_is_bounded_and_keeps_the_sharpest() -> None:
    store = Store(0.0, 0.1, 16)
    sharpness = np.random.default_rng(0).uniform(0, 1, 3000)
    for k, value in enumerate(sharpness):
        store.add(Candidate(k / 30, float(value), None))  # type: ignore[arg-type]
    kept = store.all()
    assert len(kept) <= 16 and max(one.sharpness for one in kept) == sharpness.max()
    assert [one.time_s for one in kept] == sorted(one.time_s for one in kept)


@pytest.mark.slow
def test_all_real_files_are_scanned(footage: Path) -> None:
    for path in sorted(footage.rglob("*")):
        if path.is_file():
            (video,) = scan(path)["videos"]
            assert video["status"] in ("ok", "partial", "failed", "unsupported")
            assert (video["reason"] is None) == (video["status"] == "ok"), path
