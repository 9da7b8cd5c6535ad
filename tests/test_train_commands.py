"""train.run, train.sample and train.report as they are typed: what they write, say and exit with."""

from __future__ import annotations

import copy
import json
import signal
from pathlib import Path

import pytest
import torch
import train_workspace
import yaml

import commands
from curate.tables import SCHEMAS, Tables, typed, write_part
from media.write import grid
from pipelines import resolved
from train import checkpoint, generate, report, run, sample, stages


@pytest.fixture(autouse=True)
def handlers():
    """Commands install signal handlers; the tests get theirs back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workspace with pipelines.yaml and two trained stages: `s`, and `t` that starts from it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = train_workspace.fill(train_workspace.recipe(folder, {"steps": 4, "sample_every": 4}))
    plain = {key: value for key, value in resolved(recipe).items() if key != "name"}
    plain["stages"]["t"] = copy.deepcopy(plain["stages"]["s"]) | {"steps": 2, "sample_every": None, "start": None}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"default": "test", "recipes": {"test": plain}}))
    assert leave(run.app, folder) == 0
    return folder


def leave(app, folder: Path, *arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        commands.run(lambda: app(["--config", str(folder / "pipelines.yaml"), *arguments], standalone_mode=False))
    return int(left.value.code or 0)


def test_the_curriculum_runs_in_order_and_each_stage_starts_from_the_one_before(trained, capsys):
    first, second = (checkpoint.latest(str(trained / "runs" / name)) for name in ("s", "t"))
    assert first is not None and second is not None and (first.step, second.step) == (4, 2)
    assert leave(run.app, trained) == 0  # nothing left to do
    recipe = stages_recipe(trained)
    started = stages.start_weights(recipe, "t")
    assert started is not None and all(torch.equal(started[k], v) for k, v in checkpoint.load(first)["model"].items())


def test_a_last_stage_whose_set_is_empty_is_skipped_and_says_so(trained, capsys):
    plain = yaml.safe_load((trained / "pipelines.yaml").read_text())
    recipe = plain["recipes"]["test"]
    recipe["sets"]["people"] = {"media": "video"}
    recipe["stages"]["u"] = copy.deepcopy(recipe["stages"]["t"]) | {"feeds": [{"set": "people", "view": "clip"}]}
    folder = trained / "with_people"
    folder.mkdir()
    (folder / "pipelines.yaml").write_text(yaml.safe_dump(plain))
    chosen = stages_recipe(folder)
    write_part(Tables(chosen).ledger_path("people"), typed([], SCHEMAS["ledger"]))
    assert leave(run.app, folder) == 0
    assert "u: skipped, its set 'people' keeps no clip" in capsys.readouterr().err
    assert leave(run.app, folder, "--stage", "u") == 2, "asked for by name it is an error"
    assert "people x clip: no clip to train on" in capsys.readouterr().err
    recipe["stages"]["v"] = copy.deepcopy(recipe["stages"]["t"])
    (folder / "pipelines.yaml").write_text(yaml.safe_dump(plain))
    assert leave(run.app, folder) == 2, "what another stage starts from is not skipped"


def stages_recipe(folder: Path):
    import pipelines

    return pipelines.load(folder / "pipelines.yaml")


def test_samples_of_training_and_of_the_command_are_pictures_and_clips(trained, capsys):
    during = sorted(one.name for one in (trained / "runs" / "s" / "samples").iterdir())
    assert "step-00000004-1x64x64-grid.png" in during and "step-00000004-5x64x64-8fps.mp4" in during
    prompts = trained / "prompts.txt"
    prompts.write_text("a blue bar\n\na red disc\n")
    out = str(trained / "out")
    assert leave(sample.app, trained, "--stage", "s", "--prompts", str(prompts), "--steps", "2", "--out", out) == 0
    written = sorted(one.name for one in (trained / "out").iterdir())
    assert written == [f"{slug}-{kind}" for slug in ("a-blue-bar", "a-red-disc")
                       for kind in ("1x64x64-seed0.png", "5x64x64-seed0.mp4")]  # fmt: skip
    assert capsys.readouterr().out.split() == [str(trained / "out" / name) for name in written]


def test_equal_seeds_give_equal_bytes_and_others_do_not(trained):
    found = []
    for seed, out in (("3", "a"), ("3", "b"), ("4", "c")):
        more = ["--prompt", "a red disc", "--frames", "1", "--size", "32x48", "--steps", "2", "--seed", seed]
        assert leave(sample.app, trained, "--stage", "s", *more, "--out", str(trained / out)) == 0
        found.append(next((trained / out).iterdir()).read_bytes())
    assert found[0] == found[1] != found[2]


def test_the_report_is_drawn(trained, capsys):
    assert leave(report.app, trained, "--stage", "s") == 0
    assert "4 steps, training loss" in capsys.readouterr().out
    page = (trained / "runs" / "s" / "report.html").read_text()
    assert "step-00000004-1x64x64-grid.png" in page and (trained / "runs" / "s" / "loss.png").stat().st_size > 5000


def test_json_progress_is_one_object_per_step(trained, capsys):
    more = ["--stage", "t", "--set", "stages.t.steps=4", "--json"]
    assert leave(run.app, trained, *more) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["stage"], one["step"], one["steps"]) for one in lines] == [("t", 3, 4), ("t", 4, 4)]
    assert all({"loss", "lr", "norm", "tokens", "bucket", "time", "memory_gb"} <= set(one) for one in lines)


@pytest.mark.parametrize(
    ("app", "arguments", "words"),
    [
        (run.app, ["--stage", "x"], "no stage 'x'; recipe 'test' has s, t"),
        (run.app, ["--stage", "s", "--set", "stages.s.lrr=1.0"], "did you mean 'lr'"),
        (run.app, ["--stage", "s", "--workspace", "{empty}"], "no such cache, run `python -m cache.encode_latents`"),
        (run.app, ["--bogus"], "--bogus"),
        (run.app, ["--stage", "t", "--set", "model=huge"], "no size 'huge'"),
        (run.app, ["--stage", "t", "--set", "stages.t.tokens=32"], "tokens: 64 -> 32"),
        (sample.app, ["--stage", "s"], "give --prompt TEXT or --prompts FILE"),
        (sample.app, ["--stage", "s", "--prompt", "x", "--size", "250"], "multiples of 16, got 250"),
        (sample.app, ["--stage", "s", "--prompt", "x", "--frames", "16"], "must be 1 or 4n+1"),
        (sample.app, ["--stage", "s", "--prompts", "/nowhere/p.txt"], "/nowhere/p.txt"),
        (sample.app, ["--stage", "s", "--prompt", "x", "--workspace", "{empty}"], "no checkpoint, run"),
        (report.app, ["--stage", "s", "--workspace", "{empty}"], "no metrics, run"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(trained, tmp_path, capsys, app, arguments, words):
    assert leave(app, trained, *(one.replace("{empty}", str(tmp_path)) for one in arguments)) == 2
    told = capsys.readouterr()
    assert words in told.err and "Traceback" not in told.err and not told.out


def test_a_stage_that_is_trained_elsewhere_is_busy(trained, capsys):
    with commands.hold(str(trained / "runs" / "s"), "train"):
        assert leave(run.app, trained, "--stage", "s") == 3
    assert "is busy: process" in capsys.readouterr().err


def test_a_stage_whose_start_is_not_trained_says_what_to_run(trained, tmp_path, capsys):
    workspace = train_workspace.fill(train_workspace.recipe(tmp_path)).workspace
    assert leave(run.app, trained, "--stage", "t", "--workspace", workspace) == 2
    assert (
        "starts from stage 's', which has no checkpoint: run `python -m train.run --stage s`" in capsys.readouterr().err
    )


def test_pixels_are_rounded_and_clipped():
    video = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5]).view(1, 1, 1, 5).expand(3, 1, 1, 5)
    assert generate.to_uint8(video)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert grid([generate.to_uint8(video)[0]]).ndim == 3


def test_guidance_of_one_asks_once_and_is_the_conditional():
    from model.text import TextStates

    asked = []

    class Model(torch.nn.Module):
        in_channels = 1

        def forward(self, x, t, text, mask, pooled, guidance):
            assert guidance is None
            asked.append((int(mask.sum()), float(t[0])))
            return x * 0 + mask.sum()

    text, noise = [TextStates(torch.ones(3, 2), torch.ones(2))], torch.zeros(1, 1, 1, 2, 2)
    assert generate.latents(Model(), text, noise, 1, 1.0, 1.0).flatten().tolist() == [-3.0] * 4
    assert asked == [(3, 1000.0)]
    assert generate.latents(Model(), text, noise, 1, 2.0, 1.0).flatten().tolist() == [-6.0] * 4
