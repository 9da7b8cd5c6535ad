"""The code of docs/cache.md does what it says, and the commands it names say what they do."""

import re
from pathlib import Path
from typing import Any

import cache_workspace as ws
import pytest

from cache import diff, info
from cache import index as tables
from cache.update import Options, update
from pipelines import Recipe

DOCS = Path(__file__).resolve().parent.parent / "docs" / "cache.md"
QUIET = Options(workers=0, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("made")
    chosen = ws.fill(ws.recipe(folder), ws.footage(folder, videos=3, images=10))
    return chosen, Path(update(chosen, QUIET, lambda line: None).folder)


def snippet(heading: str) -> str:
    text = DOCS.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_reading(made: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.config(made[0], tmp_path / "pipelines.yaml")
    monkeypatch.chdir(tmp_path)
    code = (
        snippet("Reading it")
        .replace("video_256px", "videos")
        .replace("video_256", "clip")
        .replace("[5, 2, 9]", "[2, 0, 2]")
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["states"].shape[:2] == names["mask"].shape and names["pooled"].shape[0] == 3
    assert names["batch"].bucket.startswith("9x")


def test_plain_webdataset(made: tuple[Recipe, Path]) -> None:
    bucket = tables.buckets(str(made[1]))[0]
    code = snippet("Reading it with plain webdataset")
    code, count = re.subn(r'f"work/demo/[^"]*/shard', f'f"{made[1]}/{bucket}/shard', code)
    names: dict[str, Any] = {}
    exec(code, names)
    assert count == 1 and names["facts"]["bucket"] == bucket and names["latent"].ndim == 4


def test_diff_says_why(made: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen, folder = made
    other = tmp_path / "latents-other"
    described = tables.read_json(str(folder / "cache.json")) or {}
    described["settings"]["dtype"] = "float16"
    tables.write_json(str(other / "cache.json"), described)
    assert ws.leave(diff.app, str(folder), str(other)) == 0
    line = capsys.readouterr().out.strip()
    assert line == f'latents.dtype: "bfloat16" in {folder.name}, "float16" in latents-other'
    config = str(ws.config(chosen, tmp_path / "p.yaml"))
    assert ws.leave(diff.app, str(folder), "--config", config) == 0
    assert capsys.readouterr().out.strip() == "no difference"
    assert ws.leave(diff.app, str(other), "--config", config) == 0
    assert '"float16" in latents-other, "bfloat16" in the recipe' in capsys.readouterr().out
    assert ws.leave(diff.app, str(tmp_path)) == 2


def test_info_counts_what_is_there(made: tuple[Recipe, Path]) -> None:
    found = info.info(str(made[1]))
    assert sum(one["samples"] for one in found["buckets"].values()) == 13
    tars = sum(path.stat().st_size for path in made[1].rglob("*.tar"))
    assert sum(one["latent_bytes"] + one["text_bytes"] for one in found["buckets"].values()) == tars
