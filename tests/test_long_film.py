"""A long film of real footage, scanned in parts beside each other: every row of one pass, cut for cut."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from test_scan_parts import WANT, rows

from benchmarks import splices
from pipelines import Curate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REELS = 6  # of a minute each
SETTINGS = Curate(segment_s=80.0)  # all else as it ships: shots of up to 20 s, parts that begin 70 s early


@pytest.fixture(scope="module")
def film(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Some six minutes of pieces of the real single-shot files, joined by cuts, dissolves and fades, and how many of them."""
    folder = tmp_path_factory.mktemp("long")
    parts = splices.sources(footage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splices, "CRF", (26,))  # one stream has one set of parameters
        truth = [splices.splice(parts, folder / f"reel-{k}.mp4", (4_100, k)) for k in range(REELS)]
    path = folder / "film.mp4"
    joined([folder / f"reel-{k}.mp4" for k in range(REELS)], path)
    return path, {name: sum(len(one[name]) for one in truth) for name in ("cuts", "gradual")}


def joined(reels: list[Path], path: Path) -> None:
    """The reels' packets one after the other: nothing is coded again."""
    tick, base, at = 512, Fraction(1, 25 * 512), 0
    with av.open(str(path), "w") as out:
        stream: Any = None
        for reel in reels:
            with av.open(str(reel)) as source:
                given = source.streams.video[0]
                stream = stream or out.add_stream_from_template(given)
                packets = [packet for packet in source.demux(given) if packet.size]
                first, scale = min(packet.pts for packet in packets), given.time_base / base
                for packet in packets:
                    packet.pts = int((packet.pts - first) * scale) + at
                    packet.dts = int((packet.dts - first) * scale) + at
                    packet.stream, packet.time_base = stream, base
                    out.mux(packet)
                at += tick * len(packets)


def test_parts_of_real_footage_give_the_rows_of_one_pass(film: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, truth = film
    whole, tables = rows(path, tmp_path / "one", 1, SETTINGS)
    video, in_parts = rows(path, tmp_path / "parts", 2, SETTINGS)
    assert whole["status"] == "ok" and whole["duration_s"] > 300 and video == whole
    assert len(list((tmp_path / "parts").glob("part-*/clips.arrow"))) >= 4, "it fell back to one pass"
    clips = [row for batch in tables["clips"] for row in batch]
    found = {kind: sum(row["start_kind"] == kind for row in clips) for kind in ("cut", "dissolve", "fade")}
    assert found["cut"] >= 0.9 * truth["cuts"] and found["dissolve"] + found["fade"] >= 0.8 * truth["gradual"], found
    for table in WANT:
        assert in_parts[table] == tables[table], table
