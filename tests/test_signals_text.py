"""Text: crops in closed form, what counts as writing, and real reading of rendered and real pictures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.signal_clips import real_clip
from curate.pictures import encode_jpeg
from curate.signals.crops import covered, crop_around, overlap
from curate.signals.text import COLUMNS, Line, from_proxies, is_subtitle, measure, plausible, read, summary
from examples.effects import Look, write_texts
from examples.textures import render_texture


def picture(seed: int = 0, name: str = "clouds") -> np.ndarray:
    return render_texture(name, np.random.default_rng(seed), 270, 480, ("teal", "sand"))


def test_crop_leaves_out_the_subtitle_band() -> None:
    assert crop_around([]) == (0.0, 0.0, 0.0, 0.0)
    assert crop_around([(0.2, 0.8, 0.8, 0.9)], margin=0.0) == pytest.approx((0.0, 0.0, 0.0, 0.2))
    assert crop_around([(0.0, 0.0, 0.1, 1.0)], margin=0.0) == pytest.approx((0.1, 0.0, 0.0, 0.0))
    assert crop_around([(0.3, 0.4, 0.7, 0.6)]) is None


def test_a_crop_touches_no_box() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        left, top = rng.random((2, 3)) * 0.95
        boxes = [(x, y, min(1, x + 0.1), min(1, y + 0.05)) for x, y in zip(left, top)]
        crop = crop_around(boxes)
        if crop is not None:
            inner = (crop[0], crop[1], 1 - crop[2], 1 - crop[3])
            assert (
                all(overlap(inner, box) == 0 for box in boxes) and (inner[2] - inner[0]) * (inner[3] - inner[1]) >= 0.64
            )


def test_covered_counts_overlaps_once() -> None:
    assert covered([(0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5)]) == pytest.approx(0.25)


@pytest.mark.parametrize("words, height, counts", [
    ("Nobody knows", 0.1, True), ("AAAAAA", 0.1, False), ("08", 0.9, False), ("08", 0.1, True), ("x", 0.1, False),
    ("品品品高", 0.1, False), ("電影製片", 0.1, True), ("--..", 0.1, False),
])  # fmt: skip
def test_what_may_be_writing(words: str, height: float, counts: bool) -> None:
    assert plausible(words, (0.1, 0.0, 0.9, height)) is counts


def test_unsure_lines_count_where_they_stay() -> None:
    line = Line((0.2, 0.8, 0.8, 0.9), 0.6)
    assert summary([[line], [], []])["text"] == 0
    kept = summary([[line], [line], []])
    assert kept["text"] == pytest.approx(0.06 * 2 / 3, abs=2e-3) and kept["text_persistence"] == pytest.approx(2 / 3)
    assert kept["subtitles"] == pytest.approx(2 / 3) and is_subtitle(line.box)


def test_a_subtitle_is_read_and_cropped_away() -> None:
    frame, boxes = write_texts(picture(), Look(subtitle="Where did the trees go?"))
    left, top, right, bottom = boxes[0]
    lines = read(frame)
    assert len(lines) == 1 and lines[0].score > 0.9
    assert overlap(lines[0].box, (left / 480, top / 270, right / 480, bottom / 270)) > 0.6
    scores = measure([frame])
    crop = scores["text_crop_bottom"]
    assert crop is not None and crop < 0.25
    assert read(frame[: int(270 * (1 - crop))]) == []


def test_textures_are_no_text_and_no_frames_are_unknown() -> None:
    assert measure([picture(2, "bricks")])["text"] == 0
    assert set(measure([]).values()) == {None}


def test_table() -> None:
    jpeg = encode_jpeg(picture(3))
    rows = from_proxies(pa.table({"clip_id": ["a"], "jpegs": [[jpeg]]}), None)
    assert rows.schema == pa.schema({"clip_id": pa.string()} | COLUMNS)


@pytest.mark.slow
def test_labelled_files(footage: Path) -> None:
    labels = json.loads((footage / "labels.json").read_text())["text_overlay"]
    found = {
        name: measure(real_clip(footage, name).frames[::3])["text"] for part in ("yes", "no") for name in labels[part]
    }
    assert all(found[name] > 0.05 for name in labels["yes"]) and all(found[name] < 0.01 for name in labels["no"]), found


def test_two_threads_read_side_by_side() -> None:
    """Units are measured in threads of one process; the reader's flags are state."""
    frame, _ = write_texts(picture(), Look(subtitle="Where did the trees go?"))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, [frame] * 6))
    assert all(lines == found[0] for lines in found) and len(found[0]) == 1
