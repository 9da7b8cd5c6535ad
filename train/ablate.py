"""`python -m train.ablate --set loose --set strict`: which of two sets trains a better model, the paper's way of tuning
filters (arXiv 2412.03603, 3.1): the same small network, seeds and steps on each, one fixed validation loss for all.

Two values of a threshold are two sets: write both into the recipe, the stricter with the looser as its parent, and run
`curate` once (nothing is decoded) and `cache.encode_latents`. What is validated on does not depend on the sets: the
validation clips of the stage as the recipe has it, the same noises, captions and times at every visit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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


class Curve(NamedTuple):
    """Validation losses of one set: steps (V,), losses (seeds, V)."""

    name: str
    clips: int
    steps: list[int]
    losses: np.ndarray


@app.command()
def main(
    sets: Annotated[list[str], typer.Option("--set", help="A set of the recipe; give two or more.")],
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
    settings = pipelines.load(config, recipe, (*(change or ()), f"model={size}"), workspace=workspace)
    name = stage or next(iter(settings.stages))
    if len(dict.fromkeys(sets)) < 2:
        raise pipelines.RecipeError(f"--set: give two sets or more to compare, got {', '.join(sets) or 'none'}")
    variants = {one: _with_set(settings, name, one) for one in dict.fromkeys(sets)}
    stop = commands.Stop()
    from cache.fingerprint import CacheError

    try:
        curves = [_curve(settings, name, one, variant, steps, seeds, validations, device, workers, stop)
                  for one, variant in variants.items()]  # fmt: skip
    except CacheError as error:
        raise pipelines.RecipeError(str(error)) from None
    folder = out or storage.join(storage.absolute(settings.workspace), "ablations", f"{name}-{'-'.join(variants)}")
    print(_table(curves))
    for path in _write(folder, name, size, curves):
        print(path)
    return 0


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
    recipe: pipelines.Recipe, name: str, set_name: str, feeds: tuple[pipelines.Feed, ...], steps: int, seeds: int,
    validations: int, device: str | None, workers: int, stop: commands.Stop,
) -> Curve:  # fmt: skip
    from cache.read import open_cache
    from train import stages
    from train.data import stage_pools
    from train.distributed import joined

    cache, cost = open_cache(recipe), stages.cost_of(recipe)
    stage = recipe.stages[name].model_copy(update={"steps": steps})
    fixed, mine = stage_pools(cache, stage, cost), stage_pools(cache, stage.model_copy(update={"feeds": feeds}), cost)
    if not any(feed.val for feed in fixed):
        raise pipelines.RecipeError(f"stage '{name}' has no validation clips to compare on: raise curate.val_share")
    at = sorted({round(steps * (k + 1) / validations) for k in range(validations)})
    rows = []
    with joined(device) as world:
        for seed in range(seeds):
            seeded = stage.model_copy(update={"seed": stage.seed + seed, "feeds": feeds})
            losses = _run(recipe, cache, stage, seeded, fixed, mine, at, world, workers, stop)
            print(f"{set_name}, seed {seed}: validation {losses[-1]:.4f} after {steps} steps", flush=True)
            rows.append(losses)
    return Curve(set_name, sum(len(pool.rows) for feed in mine for pool in feed.train), at, np.array(rows))


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
