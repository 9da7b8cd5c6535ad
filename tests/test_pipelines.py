"""The recipe file: strict reading, merging, nesting, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipelines
import recipe_file
from pipelines import RecipeError, load

MINIMAL = """
default: small
recipes:
  small:
    footage: [clips]
    workspace: work
    sets:
      base: {keep: {sharpness: {min: 10.0}}}
      strict: {parent: base, media: video, keep: {sharpness: {min: 20.0}, motion: {max: 5.0}}}
    views:
      still: {size: 64}
    stages:
      one: {feeds: [{set: strict, view: still}], tokens: 64, steps: 2, lr: 1.0e-3}
  big:
    extends: small
    workspace: elsewhere
    sets: {strict: {keep: {sharpness: {min: 30.0}}}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        path = tmp_path / "pipelines.yaml"
        path.write_text(text)
        return path

    return to_file


def test_the_shipped_recipes_are_valid() -> None:
    shipped = Path(pipelines.__file__).parent / "pipelines.yaml"
    for name in recipe_file.read_yaml(shipped)["recipes"]:
        recipe = load(shipped, name)
        assert pipelines.check(pipelines.resolved(recipe)) == recipe


def test_extends_merges_deeply_and_bounds_are_the_intersection(write) -> None:
    big = load(write(MINIMAL), "big")
    assert big.workspace == "elsewhere" and big.footage == ("clips",)
    bounds = big.bounds("strict")
    assert bounds["sharpness"].min == 30.0 and bounds["motion"].max == 5.0
    assert big.media("strict") == "video" and big.media("base") is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("keep: {sharpness: {min: 10.0}}", "keep: {sharpnes: {min: 10.0}}"), "sets.base.keep.sharpnes: unknown key, did you mean 'sharpness'?"),
        (("lr: 1.0e-3", "lr: 1e-3"), "stages.one.lr: YAML reads 1e-3 as text; write it with a dot: 1.0e-3"),
        (("workspace: work", "workspac: work"), "workspac: unknown key, did you mean 'workspace'?"),
        (("workspace: work\n", "workspace: work\n    workspace: other\n"), "key 'workspace' is written twice"),
        (("sharpness: {min: 20.0}", "sharpness: {min: 5.0}"), "looser than 10.0 of its parent 'base'"),
        (("parent: base", "parent: bas"), "no set 'bas', did you mean 'base'?"),
        (("view: still}", "view: stil}"), "no view 'stil', did you mean 'still'?"),
        (("extends: small", "extends: big"), "extends itself"),
        (("still: {size: 64}", "still: {size: 64, frames: 16, fps: 8.0}"), "must be 1 or 4n+1"),
        (("footage: [clips]", "footage: &a [clips]\n    x: *a"), "aliases"),
        (("steps: 2", "steps: on"), "stages.one.steps"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place_and_remedy(write, change: tuple[str, str], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        for name in ("small", "big"):
            load(write(MINIMAL.replace(*change)), name)
    assert says in str(caught.value)


def test_set_from_the_command_line(write) -> None:
    path = write(MINIMAL)
    changed = load(path, "small", ("sets.strict.keep.motion.max=2.0", "stages.one.lr=0.5"), workspace="given")
    assert changed.bounds("strict")["motion"].max == 2.0 and changed.stages["one"].lr == 0.5
    assert changed.workspace == "given"
    assert load(path, "small").bounds("strict")["motion"].max == 5.0
    for wrong in ("sets.strict.keep.motion", "stages.one.lr=1e-4", "stages.one.nosuch=1", "x=[1"):
        with pytest.raises(RecipeError):
            load(path, "small", (wrong,))


def test_an_override_never_reaches_another_recipe(write) -> None:
    path = write(MINIMAL)
    load(path, "big", ("sets.base.keep.sharpness.min=25.0",))
    assert load(path, "small").bounds("base")["sharpness"].min == 10.0


def test_settings_are_frozen_and_fingerprints_follow_values(write) -> None:
    recipe = load(write(MINIMAL), "small")
    with pytest.raises(Exception, match="frozen"):
        recipe.workspace = "x"  # type: ignore[misc]
    same = pipelines.fingerprint({"b": 1, "a": [1.0]})
    assert same == pipelines.fingerprint({"a": [1.0], "b": 1}) and len(same) == 8
    assert same != pipelines.fingerprint({"a": [1.0], "b": 2})


def test_missing_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load(tmp_path / "absent.yaml")
