"""Two sets, the same network, seeds and steps, one fixed validation loss."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_workspace
import yaml
from test_train_commands import handlers, leave  # noqa: F401 (the fixture gives signal handlers back)

from curate.tables import SCHEMAS, Tables, typed, write_part
from pipelines import load, resolved
from tests.curate_runs import CURATE
from tests.test_s3_end_to_end import FILES, SMALL, run
from train import ablate


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set `few` that keeps half of `images`; `same` keeps all of them."""
    folder = tmp_path_factory.mktemp("ablate")
    sets = {"images": {"media": "image"}, "videos": {"media": "video"}}
    more = {"sets": sets | {"few": {"parent": "images"}, "same": {"parent": "images"}}}
    recipe = train_workspace.fill(train_workspace.recipe(folder, more=more))
    tables = Tables(recipe)
    rows = tables.ledger("images").to_pylist()
    write_part(tables.ledger_path("same"), typed(rows, SCHEMAS["ledger"]))
    half = [row | {"kept": row["kept"] and k % 2 == 0} for k, row in enumerate(rows)]
    half = [row if row["kept"] else row | {"weight": 0.0, "reason": row["reason"] or "left out"} for row in half]
    write_part(tables.ledger_path("few"), typed(half, SCHEMAS["ledger"]))
    plain = {key: value for key, value in resolved(recipe).items() if key != "name"}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"default": "test", "recipes": {"test": plain}}))
    return folder


def test_equal_sets_give_equal_curves_and_others_do_not(folder, capsys) -> None:
    torch.set_num_threads(1)
    given = ["--set", "images", "--set", "same", "--set", "few", "--steps", "4", "--seeds", "2", "--validations", "2"]
    assert leave(ablate.app, folder, *given) == 0
    told = capsys.readouterr().out
    assert "within the noise" in told and "few, seed 1: validation" in told
    out = folder / "ablations" / "s-images-same-few"
    found = {one["set"]: one for one in json.loads((out / "ablation.json").read_text())["sets"]}
    assert found["images"]["steps"] == [2, 4] and np.shape(found["images"]["losses"]) == (2, 2)
    assert found["images"]["losses"] == found["same"]["losses"] != found["few"]["losses"]
    assert found["same"]["difference"] == [0.0, 0.0] and found["few"]["samples"] < found["images"]["samples"]
    assert found["images"]["losses"][0] != found["images"]["losses"][1]  # seeds differ
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")


def narrowed(folder: Path, value: int, keep: int) -> None:
    """The ledgers that `curate` would write for another bound, which leaves every `keep`-th picture."""
    recipe, varied = (load(folder / "pipelines.yaml", None, given)
                      for given in ((), (f"sets.images.keep.height.min={value}",)))  # fmt: skip
    rows = Tables(recipe).ledger("images").to_pylist()
    left = [row if k % keep == 0 else row | {"kept": False, "weight": 0.0, "reason": "height"}
            for k, row in enumerate(rows)]  # fmt: skip
    for name, each in (("images", left), ("videos", Tables(recipe).ledger("videos").to_pylist())):
        write_part(Tables(varied).ledger_path(name), typed(each, SCHEMAS["ledger"]))


def test_two_values_of_a_threshold_are_compared_on_the_same_latents(folder, capsys) -> None:
    torch.set_num_threads(1)
    narrowed(folder, 1, keep=1)
    narrowed(folder, 2, keep=2)
    given = ["--steps", "2", "--seeds", "2", "--validations", "1"]
    assert leave(ablate.app, folder, "--vary", "sets.images.keep.height.min=1,2", *given) == 0
    out = folder / "ablations" / "s-images.height.min=1-images.height.min=2"
    loose, strict = json.loads((out / "ablation.json").read_text())["sets"]
    assert (loose["set"], strict["set"]) == ("images.height.min=1", "images.height.min=2")
    assert strict["samples"] < loose["samples"] and strict["losses"] != loose["losses"]
    assert leave(ablate.app, folder, "--set", "images", "--set", "same", *given) == 0
    same = json.loads((folder / "ablations" / "s-images-same" / "ablation.json").read_text())["sets"]
    assert same[0]["losses"] == loose["losses"]  # a bound that drops nothing is the set as it was
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_threshold_of_a_curated_workspace(generated: Path, tmp_path: Path) -> None:
    """Ledgers are made by the command, nothing is decoded or encoded again, and a looser bound than the cache's is told."""
    footage, work = tmp_path / "footage", tmp_path / "work"
    footage.mkdir()
    for name in FILES:
        shutil.copy(generated / name, footage / name)
    dear = ("camera", "clarity", "quality", "overlay", "text")
    recipe = (*SMALL, *(f"curate.signals.{name}=null" for name in dear), f"footage=[{footage}]")
    place = ("--workspace", str(work), *(part for one in recipe for part in ("--set", one)))
    run(*CURATE, "--local", *place)
    tables = Tables(load(None, None, recipe, workspace=str(work)))
    ledger = tables.ledger("video_256px")
    videos = set(ledger.filter(ledger["kept"])["clip_id"].to_pylist())
    moved = sorted({one["motion"] for one in tables.read("scores.motion").to_pylist() if one["clip_id"] in videos})
    low, high = (round((moved[at - 1] + moved[at]) / 2, 3) for at in (1, 2))
    key = "sets.video_256px.keep.motion.min"
    place = (*place, "--set", f"{key}={low}")
    run(*CURATE, "--local", "--only", "sets", *place)
    run(sys.executable, "-m", "cache.encode_latents", "--workers", "1", "--device", "cpu", *place)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.suffix in (".tar", ".parquet")}
    given = ["--stage", "256px", "--steps", "2", "--seeds", "2", "--validations", "1", "--workspace", str(work)]
    given += [part for one in (*recipe, f"{key}={low}") for part in ("--change", one)]
    run(sys.executable, "-m", "train.ablate", "--vary", f"{key}={low},{high}", *given)
    found = json.loads(next((work / "ablations").rglob("ablation.json")).read_text())["sets"]
    assert [one["set"] for one in found] == [f"video_256px.motion.min={one}" for one in (low, high)]
    assert found[0]["samples"] > found[1]["samples"]
    made = {path for path in work.rglob("*.parquet") if path not in before}
    assert made and all("sets" in path.parts for path in made)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    command = [sys.executable, "-m", "train.ablate", "--vary", f"{key}=0.0,{low}", *given]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert refused.returncode == 2 and "the cache lacks" in refused.stderr


def test_pairs_are_compared_and_not_means() -> None:
    """A spread that both sets share is no noise of their difference."""
    first = np.array([1.0, 2.0, 3.0])
    assert ablate.compared(first, first + 0.1) == pytest.approx((0.1, 0.0))
    difference, error = ablate.compared(first, np.array([1.1, 2.3, 3.2]))
    assert difference == pytest.approx(0.2) and error == pytest.approx(0.1 / np.sqrt(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "images"], "give two sets or more"),
        ([], "a threshold with --vary"),
        (["--vary", "stages.s.lr=1,2"], "a key under `sets.` and two values or more"),
        (["--vary", "sets.images.keep.height.min=1"], "two values or more"),
        (["--vary", "sets.images.keep.height.min=7,8"], "`-m curate run --local --only sets"),
        (["--set", "images", "--set", "imges"], "no set 'imges'"),
        (["--set", "images", "--set", "few", "--stage", "x"], "no stage 'x'"),
        (["--set", "images", "--set", "few", "--workspace", "{empty}"], "no such cache"),
    ],
)
def test_mistakes_are_one_clear_line(folder, tmp_path, capsys, arguments, words) -> None:
    assert leave(ablate.app, folder, *(one.replace("{empty}", str(tmp_path)) for one in arguments)) == 2
    assert words in capsys.readouterr().err
