"""Two sets, the same network, seeds and steps, one fixed validation loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_workspace
import yaml
from test_train_commands import handlers, leave  # noqa: F401 (the fixture gives signal handlers back)

from curate.tables import SCHEMAS, Tables, typed, write_part
from pipelines import resolved
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
        (["--set", "images", "--set", "imges"], "no set 'imges'"),
        (["--set", "images", "--set", "few", "--stage", "x"], "no stage 'x'"),
        (["--set", "images", "--set", "few", "--workspace", "{empty}"], "no such cache"),
    ],
)
def test_mistakes_are_one_clear_line(folder, tmp_path, capsys, arguments, words) -> None:
    assert leave(ablate.app, folder, *(one.replace("{empty}", str(tmp_path)) for one in arguments)) == 2
    assert words in capsys.readouterr().err
