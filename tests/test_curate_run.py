"""The curate command from outside: the same rows however it runs, however often it is killed; nothing done twice."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from curate_runs import (
    CURATE,
    LEAN_OPTIONS,
    command,
    curate,
    decoders,
    event,
    fill,
    kill,
    listening,
    parent,
    recipe,
    until,
)
from curate_runs import below as processes_below
from table_digest import digest

from curate.signals import SIGNALS
from curate.tables import Tables
from pipelines import load


@pytest.fixture(scope="module")
def small(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(generated, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A workspace made in one uninterrupted run in this process, and what the run said."""
    workspace = tmp_path_factory.mktemp("whole") / "work"
    return workspace, curate(workspace, small)


def test_every_file_is_a_row_and_the_counts_add_up(whole: tuple[Path, dict], small: Path) -> None:
    tables = Tables(recipe(whole[0], small))
    videos = tables.read("videos")
    assert {Path(path).name for path in videos["path"].to_pylist()} == {path.name for path in small.iterdir()}
    status = {Path(row["path"]).name: row["status"] for row in videos.to_pylist()}
    assert status["the_same_again.mp4"] == "alias" and status["empty.mp4"] == status["letter.mp4"] == "failed"
    assert status["pans.json"] == "unsupported" and status["picture_temple.png"] == status["still.mp4"] == "ok"
    assert all(
        reason
        for reason, state in zip(videos["reason"].to_pylist(), videos["status"].to_pylist(), strict=True)
        if state != "ok"
    )
    clips = tables.read("clips")
    for name in tables.recipe.sets:
        ledger = tables.ledger(name)
        assert ledger["clip_id"].to_pylist() == clips["clip_id"].to_pylist()
        dropped = ledger.filter(pc.invert(ledger["kept"]))
        assert all(dropped["reason"].to_pylist()) and not any(dropped["weight"].to_pylist())
    texts = tables.read("captions")
    assert set(texts["source"].to_pylist()) == {"sidecar", "measured"}
    path_of = dict(zip(clips["clip_id"].to_pylist(), clips["path"].to_pylist(), strict=True))
    of_file: dict[str, list[str]] = {}
    for row in texts.to_pylist():
        of_file.setdefault(Path(path_of[row["clip_id"]]).name, []).append(row["texts"][1])
    assert len(set(of_file["pans.mp4"])) == len(of_file["pans.mp4"]) > 1  # its sidecar says what is in which shot
    assert all(" in " in text for text in of_file["squares.webm"])  # without a sidecar: the colours


def test_frames_are_decoded_once(whole: tuple[Path, dict], small: Path) -> None:
    declared = Tables(recipe(whole[0], small)).read("videos", ["frames_declared", "status"])
    total = pc.sum(declared.filter(pc.equal(declared["status"], "ok"))["frames_declared"]).as_py()
    assert 0 < whole[1]["frames_decoded"] <= 1.3 * total


def test_a_second_run_makes_nothing(whole: tuple[Path, dict], small: Path) -> None:
    before = digest(whole[0])
    again = curate(whole[0], small)
    assert again["frames_decoded"] == 0 and again["videos"] == 0 and again["made"] == []
    assert digest(whole[0]) == before


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_without_news_costs_less_than_two_percent(generated: Path, tmp_path: Path) -> None:
    """All generated footage, all ten signals: CPU seconds of the command and its children, the second run against the first."""
    every = "curate.signals={" + ", ".join(f"{name}: {{}}" for name in SIGNALS) + "}"
    spent = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        made = curate(tmp_path / "work", generated, "--set", every, "--set", "curate.max_loss=1.0", patience_s=2500)[
            "made"
        ]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert made == [] and spent[1] < 0.02 * spent[0], spent


def _children(name: str) -> list[str]:
    """Sets below one, each after its parent."""
    direct = [one for one, settings in load(None, "demo").sets.items() if settings.parent == name]
    return [each for one in direct for each in (one, *_children(one))]


def test_a_new_threshold_selects_again_without_decoding(whole: tuple[Path, dict], small: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    changed = curate(whole[0], small, "--set", "sets.video_256px.keep.motion.min=5.0")
    assert changed["frames_decoded"] == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5.0  # of a core: other work may run beside
    assert changed["made"] == ["sets/video_256px", *(f"sets/{name}" for name in _children("video_256px")), "report"]
    strict = recipe(whole[0], small, "sets.video_256px.keep.motion.min=5.0")
    loose = Tables(recipe(whole[0], small)).ledger("video_256px")
    assert pc.sum(Tables(strict).ledger("video_256px")["kept"]).as_py() < pc.sum(loose["kept"]).as_py()


@pytest.fixture(scope="module")
def on_ray(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run on a Ray of its own, of which one worker was killed while it scanned: what it left, and what it listened on."""
    workspace = tmp_path_factory.mktemp("ray") / "work"
    process = subprocess.Popen(
        command(workspace, small, local=False), stdout=-1, stderr=-1, text=True, cwd=small.parent
    )
    decoder = until(lambda: decoders(process.pid), process)
    addresses = listening([process.pid, *processes_below(process.pid)])
    killed = bool(decoder) and kill(parent(decoder[0]))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return {
        "workspace": workspace,
        "stages": event(out, "stages"),
        "said": err,
        "addresses": addresses,
        "killed": killed,
    }


def test_ray_gives_the_same_rows_though_a_worker_dies(whole: tuple[Path, dict], on_ray: dict[str, Any]) -> None:
    made, here = digest(on_ray["workspace"]), digest(whole[0])
    assert len(made) >= 20 and made == {name: rows for name, rows in here.items() if name in made}
    assert on_ray["killed"] and on_ray["stages"]["stages"]["scan"]["again"] == 1
    assert "lost its worker" in on_ray["said"] and "it is begun again" in on_ray["said"]
    assert not list(on_ray["workspace"].rglob(".unit-*")) and not list(on_ray["workspace"].rglob("*.part"))


def test_rows_and_frames_stay_off_the_object_store(on_ray: dict[str, Any]) -> None:
    assert on_ray["stages"]["stored_bytes"] < 1_000_000
    assert on_ray["stages"]["stages"]["embeddings"]["clips"] == on_ray["stages"]["stages"]["scan"]["clips"] > 0


def test_a_private_ray_listens_on_loopback_only(on_ray: dict[str, Any]) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert len(on_ray["addresses"]) >= 5 and set(on_ray["addresses"]) <= loopback


@pytest.mark.parametrize("children", [False, True], ids=["driver", "worker"])
def test_killed_at_three_random_moments_and_run_again_gives_the_same_tables(
    whole: tuple[Path, dict], small: Path, tmp_path: Path, children: bool
) -> None:
    """Moments after the first decoder has begun; tests/test_curate_kill.py has ten of them, on Ray too."""
    draw, hit = random.Random(29), 0
    for _ in range(3):
        process = subprocess.Popen(command(tmp_path / "work", small), stdout=-3, stderr=-3, cwd=small.parent)
        until(lambda one=process: decoders(one.pid), process)
        time.sleep(draw.uniform(0.0, 2.0))
        if children:
            hit += sum(kill(pid) for pid in decoders(process.pid))
            assert process.wait(200) == 0
        else:
            hit += process.poll() is None
            process.kill()
            process.wait()
    assert hit, "nothing was killed"
    curate(tmp_path / "work", small)
    made = digest(tmp_path / "work")
    assert made and made == {name: rows for name, rows in digest(whole[0]).items() if name in made}
    assert not list((tmp_path / "work").rglob(".unit-*")) and not list((tmp_path / "work").rglob("*.part"))


def test_too_much_lost_says_what_failed_first(whole: tuple[Path, dict], small: Path) -> None:
    said = curate(whole[0], small, "--set", "curate.max_loss=0.0", code=4)
    assert said["what"] == "curated"  # it is finished all the same
    command = [
        *CURATE,
        "--footage",
        str(small),
        "--workspace",
        str(whole[0]),
        "--local",
        "--set",
        "curate.max_loss=0.0",
    ]
    done = subprocess.run([*command, *LEAN_OPTIONS], capture_output=True, text=True, cwd=small.parent)
    assert done.returncode == 4 and "2 of 11 media files failed" in done.stderr and "empty.mp4" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "sets.base.keep.sharpnes.min=1.0"), "did you mean 'sharpness'"),
        (("--recipe", "dmo"), "did you mean 'demo'"),
        (("--only", "scans"), "must be one of"),
        (("--nosuch",), "--nosuch"),
    ],
)
def test_a_wrong_word_is_one_line_and_code_2(small: Path, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    said = curate(tmp_path / "work", small, *options, code=2)["error"]
    assert says in said and "Traceback" not in said and len(said.strip().splitlines()) == 1


def test_missing_footage_and_unwritable_workspace(small: Path, tmp_path: Path) -> None:
    assert "no such file" in curate(tmp_path / "work", small / "absent", code=2)["error"]
    (tmp_path / "a_file").write_text("x")
    said = curate(tmp_path / "a_file" / "work", small, code=2)["error"]
    assert "a_file" in said and "Traceback" not in said


def _blank(path: Path) -> None:
    """The same file to a listing: size and time stay, the content goes."""
    found = path.stat()
    path.write_bytes(bytes(found.st_size))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_new_file_and_a_changed_one(small: Path, tmp_path: Path, generated: Path) -> None:
    footage, workspace = tmp_path / "footage", tmp_path / "work"
    footage.mkdir()
    shutil.copy(small / "still.mp4", footage / "a.mp4")
    curate(workspace, footage)
    before = digest(workspace)
    _blank(footage / "a.mp4")  # nobody can read it any more, and nothing says so: whoever opens it is found out
    shutil.copy(small / "pans_small.mp4", footage / "b.mp4")
    news = curate(workspace, footage)
    grown = recipe(workspace, footage)
    rows = {Path(row["path"]).name: row for row in Tables(grown).read("videos").to_pylist()}
    assert news["videos"] == 1 and news["frames_decoded"] == rows["b.mp4"]["frames_decoded"] > 0
    assert rows["a.mp4"]["status"] == "ok" and {"concepts", "sets/base", "report"} <= set(news["made"])
    after = digest(workspace)
    units = {name for name in before if "unit-" in name}
    assert units and all(after[name] == before[name] for name in units)
    added = curate(workspace, footage, "--set", "curate.signals.clarity={}")
    assert added["frames_decoded"] == added["videos"] == 0
    made = {name.split("-")[0] for name in digest(workspace).keys() - after.keys()}
    assert made == {
        "scores.clarity",
        "captions",
        "concepts",
        "sets/base",
        *(f"sets/{one}" for one in _children("base")),
    }
    os.utime(footage / "b.mp4")  # touched, not changed: neither scanned again nor an alias of itself
    assert curate(workspace, footage)["videos"] == 0
    shutil.copy(small / "turned.mp4", footage / "a.mp4")
    assert curate(workspace, footage)["videos"] == 1
    tables = Tables(recipe(workspace, footage))
    assert sorted(Path(path).name for path in tables.read("videos")["path"].to_pylist()) == ["a.mp4", "b.mp4"]
    assert tables.read("videos", ["rotation_deg"])["rotation_deg"].to_pylist()[0] != 0  # the new content of a.mp4


def test_forgetting_is_honoured_at_once_and_collected(small: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    curate(workspace, small)
    tables = Tables(recipe(workspace, small))
    clip = tables.read("clips").filter(pc.equal(tables.read("clips")["status"], "ok"))["clip_id"][0].as_py()
    plain = ["--workspace", str(workspace)]
    for what in (clip, str(small / "still.mp4")):
        assert subprocess.run([*CURATE, "forget", what, *plain], cwd=small.parent).returncode == 0
    assert subprocess.run([*CURATE, "forget", "nonsense", *plain], cwd=small.parent, stderr=-1).returncode == 2
    after = Tables(recipe(workspace, small))
    assert clip not in after.read("scores.motion")["clip_id"].to_pylist()
    assert "still.mp4" not in [Path(path).name for path in after.read("videos")["path"].to_pylist()]
    assert clip not in after.ledger("base")["clip_id"].to_pylist()
    assert curate(workspace, small)["frames_decoded"] == 0
    subprocess.run([*CURATE, "gc", "--yes", *LEAN_OPTIONS, *plain], cwd=small.parent, check=True)
    assert all(clip not in path.read_bytes().decode("latin1") for path in workspace.rglob("proxies-*/*.parquet"))
    assert curate(workspace, small)["frames_decoded"] == 0
