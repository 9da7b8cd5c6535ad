"""The report and `curate explain`: every text from outside escaped, counts that add up, the deciding bound named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pipelines
from curate import explain, report, select
from tests.select_tables import make_facts, make_recipe

EVIL = "<script>alert('x')<b>.mp4"


@pytest.fixture
def found() -> report.Findings:
    recipe = make_recipe({"base": {"keep": {"borders": {"max": 0.1}}},
                          "video": {"parent": "base", "media": "video", "keep": {"motion": {"min": 0.3}}}})  # fmt: skip
    facts = make_facts(
        clip_id=[f"{n:016x}" for n in range(6)],
        video_id=["a", "a", "b", "c", "d", "d"],
        path=["/f/a.mp4", "/f/a.mp4", f"/f/{EVIL}", "/f/c.png", "/f/d.mp4", "/f/d.mp4"],
        media=["video", "video", "video", "image", "video", "video"],
        status=["ok", "ok", "ok", "ok", "ok", "dropped"],
        reason=[None, None, None, None, None, "span 0.4 s < 0.8 s"],
        borders=[0.0, 0.0, 0.3, 0.0, 0.05, None],
        motion=[1.0, 0.12, 4.0, None, 2.0, None],
        concept=[0, 0, 1, 1, 2, None],
        duplicate_of=[None, None, None, None, f"{0:016x}", None],
        similarity=[None, None, None, None, 0.98, None],
    )
    files = pa.table({"path": ["/f/a.mp4", f"/f/{EVIL}", "/f/x.mp4"], "media": ["video", "video", None],
                      "status": ["ok", "ok", "unsupported"], "reason": [None, None, "not media <b>"]})  # fmt: skip
    pictures = {f"{n:016x}": np.full((90, 160, 3), 40 * n, np.uint8) for n in range(5)}
    return report.Findings(recipe, facts, select.ledgers(recipe, facts), files, pictures)


def test_the_page_is_whole_and_escaped(found: report.Findings, tmp_path: Path) -> None:
    path = Path(report.write_findings(found, str(tmp_path)))
    html = path.read_text()
    assert html.startswith("<!doctype html>") and html.endswith("</html>")
    assert "<script" not in html and "&lt;script&gt;" in html and "not media &lt;b&gt;" in html
    assert "motion 0.12 &lt; 0.3" in html and "span 0.4 s &lt; 0.8 s" in html
    assert "http://" not in html and "https://" not in html, "the report must not fetch anything"
    assert {file.name for file in tmp_path.iterdir()} == {"index.html", "kept.png", "dropped.png", "scores.png"}


def test_a_workspace_without_clips_has_a_report_too(found: report.Findings, tmp_path: Path) -> None:
    empty = found.facts.slice(0, 0)
    none = found._replace(facts=empty, ledgers=select.ledgers(found.recipe, empty), pictures={})
    assert Path(report.write_findings(none, str(tmp_path))).is_file()


def test_the_terminal_table_adds_up(found: report.Findings) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.console(found.ledgers))
    rows = {line.split()[1]: line.split() for line in console.export_text().splitlines() if " base " in line}
    assert rows["base"][-2] == "6"


def test_dropped_clips_shown_hold_every_rule(found: report.Findings) -> None:
    rules = {select.rule_of(reason) for _, reason in report._dropped(found.ledgers["video"])}
    assert rules == set(select.tally(found.ledgers["video"])) - {"kept"}


def test_explain_says_every_score_and_the_bound_that_decided(found: report.Findings) -> None:
    text = explain.of_clip(found.recipe, found.facts, found.ledgers, f"{1:016x}")
    assert "base: kept, weight" in text
    assert "video: dropped: motion 0.12 < 0.3" in text
    assert "failed  motion 0.12, wants >= 0.3" in text and "met     borders 0, wants <= 0.1" in text
    for score in ("duration_s", "borders", "motion", "aspect"):
        assert f"  {score} " in text and pipelines.SCORES[score] in text
    assert "concept 0, 2 clips" in text


def test_explain_names_keeper_and_copies(found: report.Findings) -> None:
    copy = explain.of_clip(found.recipe, found.facts, found.ledgers, f"{4:016x}")
    assert f"duplicate of {0:016x} (similarity 0.980), its keeper  /f/a.mp4 [1.000 s, 5.000 s)" in copy
    assert "the keeper is in base, video" in copy
    kept = explain.of_clip(found.recipe, found.facts, found.ledgers, f"{0:016x}")
    assert f"kept instead of {4:016x}" in kept and "no duplicates" not in kept
    assert "no duplicates" in explain.of_clip(found.recipe, found.facts, found.ledgers, f"{2:016x}")


def test_explain_of_a_file_has_every_clip_and_dropped_span(found: report.Findings) -> None:
    video = {"path": "/f/d.mp4", "video_id": "d", "media": "video", "status": "partial", "reason": "ends early"}
    text = explain.of_file(found.recipe, found.facts, found.ledgers, video)
    assert "/f/d.mp4  video partial: ends early" in text
    assert f"{4:016x}" in text and f"dropped: duplicate of {0:016x}" in text
    assert f"{5:016x}" in text and "dropped: span 0.4 s < 0.8 s" in text
