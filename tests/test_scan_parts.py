"""A long video scanned in parts gives the rows of one pass: cuts, dissolves, takes longer than a part, uneven stamps."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from curate import scan_parts
from curate.isolate import Isolated, Task
from curate.segments import agreed, lead_s, one_film, plan
from curate.signals import SIGNALS
from pipelines import Curate, Shots

SETTINGS = Curate(shots=Shots(max_s=1.5, min_s=0.3), segment_s=16.0)
WANT = ["clips", "proxies", "hashes", *(f"scores.{name}" for name, one in SIGNALS.items() if one.source == "pass")]
LENGTHS = (1.1, 2.3, 0.6, 9.7, 1.4, 4.2, 0.9, 26.0, 1.2, 0.5, 3.1, 2.2, 1.7, 0.8, 1.3)  # seconds of the shots; 57 s


def film(path: Path, uneven: bool) -> Path:
    """57 s of 96 x 64 px at about 12 frames/s: textures that slide, hard cuts, a dissolve after every third shot."""
    draw = np.random.default_rng(5)
    frames: list[np.ndarray] = []
    for number, length in enumerate(LENGTHS):
        wide = np.kron(draw.integers(0, 256, (12, 40, 3)), np.ones((8, 8, 1))).astype(np.float32)
        shot = [wide[k // 4 % 32 : k // 4 % 32 + 64, k % 200 : k % 200 + 96] for k in range(round(12 * length))]
        if number % 3 == 1:
            shares = np.arange(1, 7)[:, None, None, None] / 7
            frames[-6:] = list((1 - shares) * np.stack(frames[-6:]) + shares * np.stack(shot[:6]))
            shot = shot[6:]
        frames += shot
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=12, options={"g": "30", "preset": "veryfast", "threads": "1"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", Fraction(1, 1200)
        stream.codec_context.time_base = Fraction(1, 1200)
        for k, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), "rgb24")
            picture.pts, picture.time_base = 100 * k + (37 * (k % 3) if uneven else 0), Fraction(1, 1200)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


Tables = dict[str, list[list[dict[str, Any]]]]  # table -> its batches, each a list of rows


def rows(path: Path, spool: Path, threads: int, settings: Curate = SETTINGS) -> tuple[dict[str, Any], Tables]:
    """The video's row and the batches of every table."""
    spool.mkdir()
    task = Task("0123456789abcdef", str(path), path.stat().st_size, "tag", WANT)
    with Isolated(settings, threads) as child:
        scanned = scan_parts.scan(task, child, spool, lambda _frames: None)
    return scanned.video, {name: [batch.to_pylist() for batch in scanned.batches(name)] for name in WANT}


@pytest.mark.parametrize(("name", "uneven"), [("even.mp4", False), ("uneven.mkv", True)])
def test_parts_give_the_rows_of_one_pass(tmp_path: Path, name: str, uneven: bool) -> None:
    """even.mp4 has B frames and so an edit list; the shot of 26 s holds a whole part."""
    path = film(tmp_path / name, uneven)
    whole, tables = rows(path, tmp_path / "one", 1)
    video, joined = rows(path, tmp_path / "parts", 2)
    assert len(list((tmp_path / "parts").glob("part-*/clips.arrow"))) == 3 and whole["status"] == "ok"
    assert video == whole
    assert len({row["shot"] for batch in tables["clips"] for row in batch} - {None}) > len(LENGTHS) - 4
    for table in WANT:
        assert sum(len(batch) for batch in tables[table]) > 20 and joined[table] == tables[table], table


def test_parts_that_do_not_fit_are_scanned_again_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "even.mp4", False)
    seen: list[bool] = []
    monkeypatch.setattr(scan_parts, "agreed", lambda videos: seen.append(agreed(videos)) or False)
    (tmp_path / "spool").mkdir()
    task = Task("0", str(path), path.stat().st_size, "tag", ["clips"])
    with Isolated(SETTINGS, 2) as child:
        scanned = scan_parts.scan(task, child, tmp_path / "spool", lambda _frames: None)
    assert seen == [True] and "piece" not in scanned.video and scanned.video["status"] == "ok"


def test_only_long_videos_that_can_be_entered_have_parts() -> None:
    settings = Curate()
    assert plan("mov,mp4,m4a", 1199.0, settings) == [] == plan("mpegts", 9000.0, settings) == plan(None, None, settings)
    found = plan("matroska,webm", 3700.0, settings)
    assert [start for start, _ in found[1:]] == [600.0 * k for k in range(1, 6)]
    assert all(a[1] == b[0] for a, b in pairwise(found))
    assert sum(lead_s(settings) for _ in found[1:]) / 3700 < 0.12, "frames decoded twice"
    assert plan("mov,mp4", 250.0, Curate(segment_s=1.0))[1][0] == lead_s(settings), (
        "no shorter than what they overlap by"
    )


def test_numbers_go_on_over_the_borders() -> None:
    def row(shot: int | None, start: int, end: int | None) -> dict[str, Any]:
        return {"shot": shot, "span": 0, "shot_start_s": start / 10, "shot_start_tick": start,
                "shot_end_s": end and end / 10, "shot_end_tick": end}  # fmt: skip

    first = [row(0, 0, 20), row(None, 20, 25), row(1, 25, None), row(1, 25, None)]
    second = [row(0, 90, 120), row(1, 120, 130)]
    film = one_film([first, second], [0, 90])
    assert [(one["shot"], one["span"], one["shot_start_tick"], one["shot_end_tick"]) for one in film] == [
        (0, 0, 0, 20), (None, None, 20, 25), (1, 0, 25, 120), (1, 1, 25, 120), (1, 2, 25, 120), (2, 0, 120, 130)]  # fmt: skip
