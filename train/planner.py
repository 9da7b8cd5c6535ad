"""`python -m train.plan --stage 720px-video --gpus 64 --gpu h200`: what a stage costs and whether it fits, before it
runs. Nothing is needed but the recipe; where the stage's samples are encoded, they are counted."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

import commands
import pipelines
from train.run import Config, Overrides, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
SHOWN = 6  # buckets of a feed; those that do not fit are always shown
UTILISATION = 0.5


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="A stage of the recipe.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Equal GPUs that train together.")] = 1,
    gpu: Annotated[str, typer.Option("--gpu", help="Their kind: h200, h100, a100, 4090, ... (train/gpus.py)")] = "h100",
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=0.01, max=1.0, help="Assumed share of their peak.")
    ] = UTILISATION,
    every: Annotated[bool, typer.Option("--all", help="Show every bucket.")] = False,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> int:
    """Tokens, operations, memory by part, steps per second and days of a stage. Exit code 2 when a bucket cannot fit.

    Example: python -m train.plan --recipe hunyuan --stage 720px-video --gpus 64 --gpu h200
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    from train.forecast import forecast
    from train.gpus import GPUS
    from train.memory import help_of

    if gpu not in GPUS:
        raise pipelines.RecipeError(f"--gpu: must be one of {', '.join(GPUS)}, got {gpu}")
    found = forecast(settings, stage, GPUS[gpu], gpus, utilisation)
    if as_json:
        print(json.dumps(_plain(found) | {"stage": stage, "gpu": gpu, "gpus": gpus, "utilisation": utilisation}))
    else:
        _tell(found, f"{settings.name} {stage}", gpu, gpus, utilisation, every)
    bad = [row for row in found.buckets if not row.fits]
    if bad:
        worst = max(bad, key=lambda row: row.memory.total)
        raise pipelines.RecipeError(
            f"{len(bad)} of {len(found.buckets)} buckets do not fit {GPUS[gpu].memory_bytes / 1e9:g} GB: {worst.bucket} "
            f"needs {worst.memory.total / 1e9:.1f} GB on each of {gpus} GPUs; {help_of(settings.stages[stage])} help"
        )
    return 0


def _tell(found: Any, title: str, gpu: str, gpus: int, utilisation: float, every: bool) -> None:
    print(f"{title}: {found.parameters:,} parameters on {gpus} x {gpu}; samples from {found.source}\n")
    print(f"{'feed':28}{'bucket':>22}{'samples':>9}{'tokens':>9}{'batch':>7}{'filled':>8}{'TFLOP':>9}{'s':>8}{'GB':>8}")
    for row in _chosen(found.buckets, every):
        samples = "-" if row.samples is None else f"{row.samples:,}"
        print(f"{row.feed:28}{row.bucket:>22}{samples:>9}{row.tokens:>9,}{row.batch:>7}{row.filled:>8.0%}"
              f"{row.flops / 1e12:>9,.4g}{row.seconds:>8.3g}{row.memory.total / 1e9:>8.3g}"
              f"{'' if row.fits else '  DOES NOT FIT'}")  # fmt: skip
    hidden = len(found.buckets) - len(_chosen(found.buckets, every))
    print(f"{'':28}{hidden} more buckets, --all shows them" if hidden else "", end="\n" if hidden else "")
    worst = max(found.buckets, key=lambda row: row.memory.total)
    print(f"\nmemory of each GPU at its worst, {worst.bucket}, in GB: {worst.memory.total / 1e9:.3f}")
    for part, count in worst.memory._asdict().items():
        print(f"  {part:<14}{count / 1e9:>10.3f}")
    print(f"\nper step: {found.micro_batches} micro-batches, {found.per_gpu} on each GPU; "
          f"{found.samples_per_step:,.1f} samples, {found.tokens_per_step:,.0f} tokens, "
          f"{found.flops_per_step / 1e12:,.4g} TFLOP with attention; the busiest GPU works "
          f"{found.imbalance:.1%} longer than the mean")  # fmt: skip
    print(f"at {utilisation:.0%} of the peak (assumed; MFU {found.mfu:.0%} without what checkpointing repeats): "
          f"{1 / found.seconds_per_step:.3g} steps/s, {found.steps:,} steps in {found.days:.3g} days")  # fmt: skip


def _chosen(rows: list[Any], every: bool) -> list[Any]:
    """All, or of each feed the buckets that do not fit and the largest ones."""
    if every:
        return rows
    chosen = []
    for feed in dict.fromkeys(row.feed for row in rows):
        mine = sorted((row for row in rows if row.feed == feed), key=lambda row: -row.memory.total)
        chosen += [row for k, row in enumerate(mine) if k < SHOWN or not row.fits]
    return chosen


def _plain(found: Any) -> dict[str, Any]:
    rows = [row._asdict() | {"memory": row.memory._asdict() | {"total": row.memory.total}} for row in found.buckets]
    return found._asdict() | {"buckets": rows, "days": found.days}


def command() -> None:
    commands.main(lambda: app(standalone_mode=False))
