"""Phases: when they end, what changes at the switch, and that a killed run switches at the same step."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import commands
from pipelines import End, Losses, Phase, Recipe, RecipeError, Unfreeze
from tests import train_workspace
from tests.test_train_resume import ALONE, OPTIONS, StopAfter, command, environment, losses
from train import checkpoint, loop, metrics, phases, stages
from train.phases import State

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = {"velocity": 1.0, "perceptual": 0.1, "temporal": 0.5}


def ends_at(end: End, values: list[float], validations: list[float] | None = None) -> tuple[int, str] | None:
    """The step at which a phase with these losses ends; a validation after every step."""
    state = State()
    for step, loss in enumerate(values, 1):
        state = phases.saw_loss(state, end, loss)
        if validations:
            state = phases.saw_validation(state, end, validations[step - 1])
        if reason := phases.over(state, end, step):
            return step, reason
    return None


def test_steps_end_a_phase_counted_from_its_beginning() -> None:
    assert phases.over(State(began=10), End(steps=5), 14) is None
    assert phases.over(State(began=10), End(steps=5), 15) == "5 steps done"


def test_a_plateau_is_a_block_whose_mean_is_no_improvement() -> None:
    end = End(plateau=4, min_improvement=0.1)
    falling = [1.0, 1.2, 0.8, 1.0, 0.5, 0.5, 0.5, 0.5]  # means 1.0, 0.5
    assert ends_at(end, falling) is None
    assert ends_at(end, [*falling, 0.4, 0.4, 0.5, 0.46, 0.1]) is None  # mean 0.44 is 12 % below 0.5
    found = ends_at(end, [*falling, 0.5, 0.4, 0.6, 0.46, 0.1])  # 0.49 is 2 % below
    assert found is not None and found[0] == 12 and found[1].startswith("plateau: no mean loss of 4 steps 10.0%")
    noisy = [1.0 + 0.3 * (-1) ** i for i in range(8)]
    assert ends_at(end, noisy) is not None, "noise around one level is a plateau"


def test_validation_ends_a_phase_that_no_longer_improves() -> None:
    end = End(validation=2, min_improvement=0.05)
    assert ends_at(end, [1.0] * 4, [1.0, 0.9, 0.8, 0.7]) is None
    found = ends_at(end, [1.0] * 5, [1.0, 0.99, 0.9, 0.89, 0.88])
    assert found is not None and found[0] == 5 and found[1].startswith("validation: 2 times")


def test_the_first_criterion_ends_it() -> None:
    end = End(steps=6, plateau=2, validation=1)
    assert ends_at(end, [3.0, 3.0, 3.0, 3.0, 3.0, 3.0], [6, 5, 4, 3, 2, 1]) == (
        4,
        ends_at(End(plateau=2), [3.0] * 4)[1],
    )  # type: ignore[index]
    assert ends_at(end, [9.0, 8.0, 7.0, 6.0, 5.0, 4.0], [6, 5, 4, 3, 2, 1]) == (6, "6 steps done")


# ---------------------------------------------------------------------------------------------------------------- runs


def recipe(workspace: Path, first: dict[str, Any], **second: Any) -> Recipe:
    two = [{"name": "reconstruct", "end": first},
           {"name": "all", "losses": BOTH, "lr": 1.0e-4, "trainable": ["*single_blocks.*"]} | second]  # fmt: skip
    settings = {"phases": two, "steps": 9, "lr": 1.0e-3, "checkpoint_every": 50, "validate_every": 2, "tokens": 32,
                "keep_last": 20}  # fmt: skip
    return train_workspace.fill(train_workspace.recipe(workspace, settings))


def run(chosen: Recipe, stop: StopAfter | None = None) -> Path:
    loop.train_stage(chosen, "s", ALONE, stop or StopAfter(), OPTIONS)
    return Path(chosen.workspace) / "runs" / "s"


def switches(folder: Path) -> list[tuple[int, str]]:
    return [(one["step"], one["told"]) for one in metrics.read(str(folder / "metrics.jsonl")) if "told" in one]


CRITERIA = {  # a plateau is built: an improvement of 90 % never comes
    "steps": ({"steps": 5}, 5, "5 steps done"),
    "plateau": ({"plateau": 2, "min_improvement": 0.9}, 4, "plateau"),
    "validation": ({"validation": 2, "min_improvement": 0.9}, 6, "validation: 2 times"),
}


STOPS = [(criterion, after) for criterion in CRITERIA for after in (-1, 1)]  # just before and just behind the switch
SLOW = [pytest.param(*one, marks=pytest.mark.slow) for one in STOPS if one != ("plateau", -1)]


@pytest.mark.parametrize(("criterion", "after"), [("plateau", -1), *SLOW])
def test_a_run_switches_by_itself_and_a_stopped_one_alike(criterion: str, after: int, tmp_path: Path) -> None:
    end, step, reason = CRITERIA[criterion]
    straight = run(recipe(tmp_path / "straight", end))
    assert [at for at, _ in switches(straight)] == [step] and reason in switches(straight)[0][1]
    rates = {one["step"]: one["lr"] for one in metrics.read(str(straight / "metrics.jsonl")) if "loss" in one}
    assert rates[step] == pytest.approx(1e-3) and rates[step + 1] == pytest.approx(1e-4)
    chosen = recipe(tmp_path / "stopped", end)
    with pytest.raises(commands.Interrupted):
        run(chosen, StopAfter(step + after))
    assert losses(run(chosen)) == losses(straight)
    assert switches(Path(chosen.workspace) / "runs" / "s") == switches(straight)


def test_frozen_parameters_keep_their_bits_and_the_others_move(tmp_path: Path) -> None:
    folder = run(recipe(tmp_path, {"steps": 5}))
    kept = {step: checkpoint.load(_at(folder, step))["model"] for step in (5, 9)}
    moved = {name for name in kept[5] if not torch.equal(kept[5][name], kept[9][name])}
    assert moved and all(name.startswith("single_blocks.") for name in moved)
    assert _at(folder, 5).state["phase"]["index"] == 1 and _at(folder, 5).state["phase"]["began"] == 5


@pytest.mark.parametrize("optimiser", [pytest.param("carry", marks=pytest.mark.slow), "fresh"])
def test_the_optimiser_is_carried_over_or_fresh(optimiser: str, tmp_path: Path) -> None:
    folder = run(recipe(tmp_path, {"steps": 5}, optimiser=optimiser, end={"steps": 2}))
    before, after = (checkpoint.load(_at(folder, step)).get("optimiser", {}) for step in (5, 7))
    assert bool(before) == (optimiser == "carry")
    name = next(key for key in after if key.startswith("step/single_blocks."))
    assert float(after[name]) == (7 if optimiser == "carry" else 2)
    assert _at(folder, 7).state["phase"]["finished"] == "2 steps done", "the last phase may end the stage early"
    assert len(losses(folder)) == 7
    chosen = recipe(tmp_path, {"steps": 5}, optimiser=optimiser, end={"steps": 2})
    assert stages.complete(chosen, "s") and len(losses(run(chosen))) == 7


def _at(folder: Path, step: int) -> checkpoint.Checkpoint:
    import json

    path = folder / "checkpoints" / f"step-{step:08d}"
    return checkpoint.Checkpoint(str(path), step, json.loads((path / "state.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 5, 6])
def test_killed_around_the_switch_it_tells_the_same(at: int, tmp_path: Path) -> None:
    straight = run(recipe(tmp_path / "straight", {"steps": 5}))
    chosen = recipe(tmp_path / "killed", {"steps": 5})
    folder = Path(chosen.workspace) / "runs" / "s"
    process = subprocess.Popen(command(chosen, tmp_path, "--stage", "s"), env=environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not (folder / "metrics.jsonl").exists() or len(losses(folder)) < at:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(chosen, tmp_path, "--stage", "s"), env=environment(), check=True)
    assert losses(folder) == losses(straight) and switches(folder) == switches(straight)
    ends = [checkpoint.load(_at(one, 9))["model"] for one in (straight, folder)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_groups_join_at_their_steps(tmp_path: Path) -> None:
    groups = [{"at_step": 0, "trainable": ["img_in.*"]}, {"at_step": 2, "trainable": ["double_blocks.0.*"]}]
    settings = {
        "unfreeze": groups,
        "steps": 4,
        "checkpoint_every": 2,
        "keep_last": 9,
        "tokens": 32,
        "validate_every": 9,
    }
    folder = run(train_workspace.fill(train_workspace.recipe(tmp_path, settings | {"lr": 1e-2})))
    start = stages.build(stages.size_of(train_workspace.recipe(tmp_path)), stages.Widths(16, 128, 128), 0)
    for step, heads in ((2, {"img_in"}), (4, {"img_in", "double_blocks.0"})):
        saved = checkpoint.load(_at(folder, step))
        state = {name for name in saved["optimiser"] if name.startswith("step/")}
        assert {_head(name.removeprefix("step/"), heads) for name in state} == heads
    assert len(list(start.parameters()))


def _head(name: str, heads: set[str]) -> str:
    return next((head for head in heads if name.startswith(f"{head}.")), name)


def test_recipes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    endless = {"phases": [{"name": "a"}, {"name": "b"}]}
    late = {"unfreeze": [{"at_step": 3, "trainable": ["*"]}]}
    both = {"phases": [{"name": "a"}], "unfreeze": [{"at_step": 0, "trainable": ["*"]}]}
    twice = {"phases": [{"name": "a"}], "losses": {"velocity": 2.0}}
    deaf = {"losses": {"sync": 0.1}}
    for settings, told in ((endless, "phases.0.end"), (late, "at_step 0"), (both, "give one"), (twice, "take `losses`"),
                           (deaf, "sync_scorer")):  # fmt: skip
        with pytest.raises(RecipeError, match=told):
            stages.stage_of(train_workspace.recipe(tmp_path, settings), "s")
    with pytest.raises(RecipeError, match=r"no parameter matches 'dbl.\*'; there are img_in.\*"):
        run(recipe(tmp_path, {"steps": 1}, trainable=["dbl.*"]))


def test_effective_stage_and_trainable_patterns() -> None:
    stage = train_workspace.recipe(Path("/nowhere")).stages["s"]
    phase = Phase(name="x", losses=Losses(velocity=0.5), lr=0.25, end=End(steps=1))
    assert phases.effective(stage, phase).lr == 0.25 and phases.effective(stage, phase).losses.velocity == 0.5
    grouped = stage.model_copy(
        update={"unfreeze": (Unfreeze(at_step=0, trainable=("a",)), Unfreeze(at_step=3, trainable=("b",)))}
    )
    assert [phases.trainable(grouped, phase, step) for step in (0, 2, 3)] == [("a",), ("a",), ("a", "b")]
    assert phases.trainable(stage, phase, 0) == ()
