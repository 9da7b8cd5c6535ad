"""`python -m train.ablate --set loose --set strict`: which of two sets trains a better model, the paper's way of tuning
filters (arXiv 2412.03603, 3.1): the same small network, seeds and steps on each, one fixed validation loss for all.

Or which value of a threshold: `--vary sets.video_256px.keep.motion.min=0.3,1.0`. Ledgers that are not made yet are, by the
`curate` command and from its tables alone; the latents are those that the cache holds already.

What is validated on does not depend on the sets: the validation clips of the stage as the recipe has it, the same noises,
captions and times at every visit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

import commands
import pipelines
from media import storage
from train.run import Config, Device, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Asked(NamedTuple):
    """What a command line says of the recipe."""

    config: str | None
    recipe: str | None
    workspace: str | None
    changes: tuple[str, ...]

    def read(self, *more: str) -> pipelines.Recipe:
        return pipelines.load(self.config, self.recipe, (*self.changes, *more), workspace=self.workspace)

    def options(self, *more: str) -> list[str]:
        """For another command, which then reads the same."""
        named = {"--config": self.config, "--recipe": self.recipe, "--workspace": self.workspace}
        found = [part for name, value in named.items() if value is not None for part in (name, value)]
        return found + [part for change in (*self.changes, *more) for part in ("--set", change)]


class Variant(NamedTuple):
    """A name, and what is trained on: a recipe (whose ledgers count) and the feeds of its stage."""

    name: str
    recipe: pipelines.Recipe
    feeds: tuple[pipelines.Feed, ...]


class Curve(NamedTuple):
    """Validation losses of one set: steps (V,), losses (seeds, V)."""

    name: str
    clips: int
    steps: list[int]
    losses: np.ndarray


@app.command()
def main(
    sets: Annotated[list[str] | None, typer.Option("--set", help="A set of the recipe; give two or more.")] = None,
    vary: Annotated[
        str | None, typer.Option("--vary", help="A key under `sets.` and two values or more: key=value,value.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Whose feeds, batches and flow; the first stage.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Updates of each run.")] = 200,
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Runs of each set; their spread is the noise.")] = 3,
    validations: Annotated[int, typer.Option("--validations", min=1, help="Points of the curve.")] = 5,
    size: Annotated[str, typer.Option("--size", help="Of the network, of model/sizes.py.")] = "tiny",
    change: Annotated[list[str] | None, typer.Option("--change", help="Any key of the recipe: key=value.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder; ablations/ of the workspace if absent.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    device: Device = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read ahead.")] = 2,
) -> int:
    """Train the same small model on each set and compare one fixed validation loss, with the noise between seeds.

    Example: python -m train.ablate --set video_256px --set video_best --stage 256px-video --steps 200
    """
    asked = Asked(config, recipe, workspace, tuple(change or ()))
    settings = asked.read(f"model={size}")
    name = stage or next(iter(settings.stages))
    if bool(sets) == bool(vary):
        raise pipelines.RecipeError("give two sets or more to compare with --set, or a threshold with --vary")
    several = list(dict.fromkeys(sets or ()))
    if several and len(several) < 2:
        raise pipelines.RecipeError(f"--set: give two sets or more to compare, got {several[0]}")
    stop = commands.Stop()
    from cache.fingerprint import CacheError

    try:
        variants = [Variant(one, settings, _with_set(settings, name, one)) for one in several]
        variants += _with_values(settings, name, vary, asked, f"model={size}") if vary else []
        curves = [_curve(settings, name, one, steps, seeds, validations, device, workers, stop) for one in variants]
    except CacheError as error:
        raise pipelines.RecipeError(str(error)) from None
    folder = out or storage.join(
        storage.absolute(settings.workspace), "ablations", f"{name}-{'-'.join(one.name for one in variants)}"
    )
    print(_table(curves))
    for path in _write(folder, name, size, curves):
        print(path)
    return 0


def _with_values(recipe: pipelines.Recipe, stage: str, vary: str, asked: Asked, *more: str) -> list[Variant]:
    """One variant per value of a threshold, each with the ledgers of its own."""
    from train.stages import stage_of

    key, _, values = vary.partition("=")
    several = [one for one in dict.fromkeys(values.split(",")) if one]
    if not key.startswith("sets.") or len(several) < 2:
        raise pipelines.RecipeError(
            "--vary: must be a key under `sets.` and two values or more, such as "
            f"sets.video_256px.keep.motion.min=0.3,1.0; got {vary}"
        )
    feeds = stage_of(recipe, stage).feeds
    short = ".".join(part for part in key.split(".")[1:] if part != "keep")
    found = [Variant(f"{short}={one}", asked.read(*more, f"{key}={one}"), feeds) for one in several]
    lacking = [
        f"{key}={value}" for one, value in zip(found, several) if not _made(one.recipe, {feed.set for feed in feeds})
    ]
    for change in lacking:
        _make_ledgers(asked.options(change))
    if lacking:
        _make_ledgers(asked.options())  # last, so that what the workspace says of its recipe is what it said before
    return found


def _made(recipe: pipelines.Recipe, sets: Collection[str]) -> bool:
    from cache.read import open_cache

    cache = open_cache(recipe)
    try:
        return all(cache.ledger(name) is not None for name in sets)
    except FileNotFoundError:
        return False


def _make_ledgers(options: Sequence[str]) -> None:
    """By the `curate` command, from tables alone. Raises RecipeError where it fails."""
    command = [sys.executable, "-m", "curate", "run", "--local", "--only", "sets", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise pipelines.RecipeError(f"`{' '.join(command[1:])}` failed: {done.stderr.strip()}")


def _with_set(recipe: pipelines.Recipe, stage: str, name: str) -> tuple[pipelines.Feed, ...]:
    """The stage's feeds, those of the set's media drawing from it. Raises RecipeError when it changes none."""
    from train.stages import stage_of

    if name not in recipe.sets:
        raise pipelines.RecipeError(f"--set: no set '{name}', there are {', '.join(recipe.sets)}")
    feeds, media = stage_of(recipe, stage).feeds, recipe.media(name)
    changed = tuple(
        feed.model_copy(update={"set": name}) if media in (None, recipe.media(feed.set)) else feed for feed in feeds
    )
    if all(feed.set != name for feed in changed):
        raise pipelines.RecipeError(f"--set {name}: its media are {media}, stage '{stage}' has no feed of those")
    return changed


def _curve(
    recipe: pipelines.Recipe, name: str, variant: Variant, steps: int, seeds: int, validations: int, device: str | None,
    workers: int, stop: commands.Stop,
) -> Curve:  # fmt: skip
    from cache.read import open_cache
    from train import stages
    from train.data import stage_pools, unplaced
    from train.distributed import joined

    cache, own, cost = open_cache(recipe), open_cache(variant.recipe), stages.cost_of(recipe)
    stage = recipe.stages[name].model_copy(update={"steps": steps})
    changed = stage.model_copy(update={"feeds": variant.feeds})
    for feed in variant.feeds:
        if lacking := unplaced(own, feed):
            raise pipelines.RecipeError(
                f"{variant.name}: the cache lacks {lacking} clips that set '{feed.set}' keeps, in view '{feed.view}': "
                "run `python -m cache.encode_latents` with the loosest of what is compared"
            )
    fixed, mine = stage_pools(cache, stage, cost), stage_pools(own, changed, cost)
    if not any(feed.val for feed in fixed):
        raise pipelines.RecipeError(f"stage '{name}' has no validation clips to compare on: raise curate.val_share")
    at = sorted({round(steps * (k + 1) / validations) for k in range(validations)})
    rows = []
    with joined(device) as world:
        for seed in range(seeds):
            seeded = changed.model_copy(update={"seed": stage.seed + seed})
            losses = _run(recipe, cache, stage, seeded, fixed, mine, at, world, workers, stop)
            print(f"{variant.name}, seed {seed}: validation {losses[-1]:.4f} after {steps} steps", flush=True)
            rows.append(losses)
    return Curve(variant.name, sum(len(pool.rows) for feed in mine for pool in feed.train), at, np.array(rows))


def _run(
    recipe: pipelines.Recipe, cache: Any, fixed_stage: pipelines.Stage, stage: pipelines.Stage, fixed: Sequence[Any],
    feeds: Sequence[Any], at: Sequence[int], world: Any, workers: int, stop: commands.Stop,
) -> list[float]:  # fmt: skip
    """Train with the seeds of `stage`; the losses of the averaged weights on what `fixed_stage` validates on."""
    from train import batch as batches
    from train import stages
    from train.loader import read_ahead
    from train.optim import Weights
    from train.step import train_step
    from train.validation import validate

    model = stages.build(stages.size_of(recipe), stages.widths_of(cache.settings), stage.seed).to(world.device)
    weights = Weights(model, fixed_stage)
    plan = batches.plan_of(stage, feeds)
    found = []
    with closing(read_ahead(partial(batches.load, cache, stage), plan.step, 0, stage.steps, workers, cache)) as loaded:
        for step, held in enumerate(loaded):
            micro = plan.step(step)
            train_step(weights, micro, range(len(micro)), held, world, step)
            if step + 1 in at:
                with weights.averaged():
                    found.append(validate(weights, cache, fixed, world)["loss"])
            stop.check()
    return found


def compared(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Last losses (seeds,) of two sets -> the mean difference second - first, and its standard error.

    Equal seeds start from equal weights and draw equal times and noises, so runs are compared in pairs.
    """
    differences = second - first
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _table(curves: Sequence[Curve]) -> str:
    first = curves[0]
    lines = [f"{'set':24}{'samples':>9}{'validation':>12}{'noise':>9}{'against ' + first.name:>28}"]
    for curve in curves:
        last = curve.losses[:, -1]
        line = f"{curve.name:24}{curve.clips:>9}{last.mean():>12.4f}{last.std(ddof=1):>9.4f}"
        if curve is not first:
            difference, error = compared(first.losses[:, -1], last)
            told = "clear" if abs(difference) > 2 * error else "within the noise"
            line += f"{f'{difference:+.4f} +- {error:.4f}, {told}':>28}"
        lines.append(line)
    return "\n".join(lines)


def _write(folder: str, stage: str, size: str, curves: Sequence[Curve]) -> list[str]:
    """ablation.json and ablation.png. Returns their paths."""
    import io

    first = curves[0].losses[:, -1]
    rows = [{"set": one.name, "samples": one.clips, "steps": one.steps, "losses": one.losses.tolist(),
             "difference": compared(first, one.losses[:, -1])} for one in curves]  # fmt: skip
    if not storage.is_remote(folder):
        os.makedirs(folder, exist_ok=True)
    paths = [storage.join(folder, "ablation.json"), storage.join(folder, "ablation.png")]
    storage.write_bytes(paths[0], json.dumps({"stage": stage, "model": size, "sets": rows}, indent=1).encode())
    picture = io.BytesIO()
    _draw(stage, curves, picture)
    storage.write_bytes(paths[1], picture.getvalue())
    return paths


def _draw(stage: str, curves: Sequence[Curve], target: Any) -> None:
    """Mean over seeds, with the range of the seeds behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve in curves:
        (line,) = axes.plot(curve.steps, curve.losses.mean(axis=0), "o-", markersize=3, label=curve.name)
        axes.fill_between(curve.steps, curve.losses.min(axis=0), curve.losses.max(axis=0), alpha=0.2,
                          color=line.get_color())  # fmt: skip
    axes.set(xlabel="step", ylabel="validation loss, averaged weights", title=f"stage {stage}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, format="png")


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
