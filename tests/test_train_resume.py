"""A run that is stopped, killed or moved to other processes tells the same losses as one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import train_workspace
import yaml

import commands
from pipelines import RecipeError, resolved
from train import checkpoint, loop, metrics
from train.distributed import World
from train.step import NotFinite

torch = pytest.importorskip("torch")
ALONE = World(0, 1, torch.device("cpu"))
OPTIONS = loop.Options(workers=2)

pytestmark = pytest.mark.usefixtures("one_thread")


class StopAfter(commands.Stop):
    """Asks to stop once training has looked `steps` times."""

    def __init__(self, steps: int | None = None):
        self.left = steps

    @property
    def number(self) -> int | None:
        if self.left is None:
            return None
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else None

    def check(self) -> None:
        if self.left is not None and self.left < 0:
            raise commands.Interrupted(signal.SIGTERM)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(one["step"], one["loss"]) for one in metrics.read(str(folder / "metrics.jsonl")) if "loss" in one]


def validations(folder: Path) -> list[dict]:
    return [one for one in metrics.read(str(folder / "metrics.jsonl")) if "validation" in one]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, one_thread) -> Path:
    """The run folder of 12 uninterrupted steps."""
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path_factory.mktemp("straight")))
    loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)
    return Path(recipe.workspace) / "runs" / "s"


def command(recipe, tmp_path: Path, *more: str) -> list[str]:
    config = tmp_path / "pipelines.yaml"
    config.write_text(yaml.safe_dump({"default": "test", "recipes": {"test": _plain(recipe)}}))
    return [sys.executable, "-m", "train.run", "--config", str(config), "--device", "cpu", *more]


def _plain(recipe) -> dict:
    return {key: value for key, value in resolved(recipe).items() if key != "name"}


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "DAILIES_DEBUG": "1"}


def test_stopped_twice_and_resumed_with_other_workers_it_tells_the_same(straight, tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    for steps, workers in ((2, 1), (4, 3)):
        with pytest.raises(commands.Interrupted):
            loop.train_stage(recipe, "s", ALONE, StopAfter(steps), loop.Options(workers=workers))
    loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)
    assert losses(tmp_path / "runs" / "s") == losses(straight)
    assert validations(tmp_path / "runs" / "s") == validations(straight)
    loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)  # nothing left to do
    assert losses(tmp_path / "runs" / "s") == losses(straight)


def test_killed_at_any_point_it_tells_the_same(straight, tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    run = tmp_path / "runs" / "s"
    process = subprocess.Popen(command(recipe, tmp_path, "--stage", "s"), env=environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(losses(run)) < 7:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # a line that the kill cut short
    subprocess.run(command(recipe, tmp_path, "--stage", "s"), env=environment(), check=True)
    assert losses(run) == losses(straight)


@pytest.mark.slow
def test_killed_five_times_it_tells_the_same(straight, tmp_path):
    """Going on within an epoch of the pictures (steps 4, 6, 9) and at its edge (5, 8), with one to three workers."""
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    run = tmp_path / "runs" / "s"
    for number, mark in enumerate((4, 5, 6, 8, 9)):
        more = ("--stage", "s", "--workers", str(1 + number % 3), "--set", f"stages.s.checkpoint_every={mark}")
        process = subprocess.Popen(command(recipe, tmp_path, *more), env=environment(), start_new_session=True)
        try:
            while not (run / "checkpoints" / f"step-{mark:08d}").exists():
                assert process.poll() is None
                time.sleep(0.001)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(command(recipe, tmp_path, "--stage", "s"), env=environment(), check=True)
    assert losses(run) == losses(straight)


def test_first_signal_saves_and_says_how_to_go_on(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path, {"steps": 100_000, "checkpoint_every": 100_000}))
    run = tmp_path / "runs" / "s"
    with open(tmp_path / "err", "w+") as err:
        process = subprocess.Popen(command(recipe, tmp_path, "--stage", "s"), env=environment(), stderr=err)
        while not (run / "metrics.jsonl").exists() or len(losses(run)) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        err.seek(0)
        assert "go on with: python -m train.run --config" in err.read()
    saved = max((run / "checkpoints").iterdir())
    assert json.loads((saved / "state.json").read_text())["step"] == losses(run)[-1][0]


def train(recipe, workspace: Path, processes: int) -> Path:
    """Returns the run's folder."""
    start = command(recipe, workspace, "--stage", "s")
    if processes > 1:
        start[1:3] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "train.run"]
    subprocess.run(start, env=environment(), check=True, capture_output=True)
    return workspace / "runs" / "s"


def assert_alike(one: Path, other: Path) -> None:
    for (step, loss), (other_step, other_loss) in zip(losses(one), losses(other), strict=True):
        assert step == other_step and loss == pytest.approx(other_loss, rel=1e-9, abs=1e-9)
    for first, second in zip(validations(one), validations(other), strict=True):
        assert first["validation_average"] == pytest.approx(second["validation_average"], rel=1e-9)


# float64, so that the order of sums is the only difference.
EXACT = {"precision": "float64", "steps": 6, "checkpoint_every": 2, "validate_every": 3, "shard": "full"}


def test_two_processes_tell_what_one_tells(tmp_path):
    told = [
        train(train_workspace.fill(train_workspace.recipe(tmp_path / str(n), EXACT)), tmp_path / str(n), n)
        for n in (1, 2)
    ]
    assert_alike(*told)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", ["none", "full"])
def test_two_processes_then_one_then_two_tell_what_one_tells(tmp_path, shard):
    exact = EXACT | {"shard": shard}
    straight = train_workspace.fill(train_workspace.recipe(tmp_path / "straight", exact))
    loop.train_stage(straight, "s", ALONE, StopAfter(), OPTIONS)
    for steps, processes in ((2, 2), (4, 1), (6, 2)):
        moved = train_workspace.fill(train_workspace.recipe(tmp_path / "moved", exact | {"steps": steps}))
        run = train(moved, tmp_path / "moved", processes)
    one, other = losses(run), losses(tmp_path / "straight" / "runs" / "s")
    assert [step for step, _ in one] == [step for step, _ in other]
    assert [loss for _, loss in one] == pytest.approx([loss for _, loss in other], rel=1e-9, abs=1e-9)


def test_changed_data_is_refused_with_the_difference(straight, tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path, {"steps": 2}))
    loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)
    longer = train_workspace.fill(train_workspace.recipe(tmp_path, {"steps": 4}), images=11)
    with pytest.raises(RecipeError, match=r"images x picture, 1x64x64: 8 train \+ 2 val.* -> 9 train \+ 2 val"):
        loop.train_stage(longer, "s", ALONE, StopAfter(), OPTIONS)
    other = train_workspace.recipe(tmp_path, {"steps": 4, "tokens": 128})
    with pytest.raises(RecipeError, match="tokens: 64 -> 128"):
        loop.train_stage(other, "s", ALONE, StopAfter(), OPTIONS)
    loop.train_stage(longer, "s", ALONE, StopAfter(), OPTIONS._replace(fresh=True))
    assert len(losses(tmp_path / "runs" / "s")) == 4
    assert len([one for one in (tmp_path / "runs").iterdir() if ".aside-" in one.name]) == 1


def test_more_steps_go_on_where_the_last_ones_ended(straight, tmp_path):
    for steps in (6, 12):
        recipe = train_workspace.fill(train_workspace.recipe(tmp_path, {"steps": steps}))
        loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)
    assert losses(tmp_path / "runs" / "s") == losses(straight)


def test_world_sizes_that_do_not_divide_are_named(tmp_path):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    with pytest.raises(RecipeError, match=r"2 micro_batches per step cannot be shared out to 3 ranks, only to 1 or 2"):
        loop.check_world(recipe.stages["s"], "s", 3)


def spoilt(load, from_step: int, factor: float):
    """A loader that multiplies the latents it gives from some step on."""
    given = []

    def spoiling(*arguments):
        given.append(load(*arguments))
        wrong = len(given) > 2 * from_step  # two micro-batches a step, read by one worker in order
        return given[-1]._replace(data=given[-1].data * factor) if wrong else given[-1]

    return spoiling


@pytest.mark.parametrize(
    ("factor", "error", "words"),
    [(float("nan"), NotFinite, r"the loss is not finite for \d+ of \d+ samples: [0-9a-f]{16} of"),
     (1e4, loop.Exploded, r"step 7: loss .* its samples: [0-9a-f]{16} of")],
)  # fmt: skip
def test_a_loss_that_leaves_its_band_names_the_samples_and_keeps_the_checkpoint(
    straight, tmp_path, monkeypatch, factor, error, words
):
    recipe = train_workspace.fill(train_workspace.recipe(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "REMEMBERED", 8)
        patched.setattr(loop.batches, "load", spoilt(loop.batches.load, 6, factor))
        with pytest.raises(error, match=words):
            loop.train_stage(recipe, "s", ALONE, StopAfter(), loop.Options(workers=1))
    found = checkpoint.latest(str(tmp_path / "runs" / "s"))
    assert found is not None and found.step == 4 and checkpoint.load(found)["model"]
    loop.train_stage(recipe, "s", ALONE, StopAfter(), OPTIONS)  # with good samples it goes on as if nothing had been
    assert losses(tmp_path / "runs" / "s") == losses(straight)
