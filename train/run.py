"""`python -m train.run --stage 256px`: train a stage; without --stage the whole curriculum, from where it stopped.

On several GPUs or processes: `torchrun --nproc-per-node 8 -m train.run --stage 256px`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import commands
import pipelines

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A recipe of pipelines.yaml; its `default:` if absent.")
]
Config = Annotated[str | None, typer.Option("--config", help="The recipe file; ./pipelines.yaml if absent.")]
Workspace = Annotated[str | None, typer.Option("--workspace", help="Where everything that is made lies; may be s3://.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Any key, e.g. stages.256px.lr=1.0e-4")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; the best there is if absent.")]


@app.command()
def main(
    stage: Annotated[str | None, typer.Option("--stage", help="One stage; all in order if absent.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    device: Device = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read ahead.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; an earlier run is set aside.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Try the dearest bucket before the first step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON lines on standard output.")] = False,
) -> int:
    """Train a stage of the recipe, going on from its newest checkpoint.

    Example: python -m train.run --stage 256px --set stages.256px.steps=600
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    stop = commands.Stop()
    from cache.fingerprint import CacheError
    from train import distributed, loop, stages

    todo = [stage] if stage else list(settings.stages)
    for name in todo:
        stages.stage_of(settings, name)
    try:
        with distributed.joined(device) as world:
            for name in todo:
                if not stage and stages.complete(settings, name):
                    continue
                if not stage and (empty := stages.empty_set(settings, name)):
                    if world.first:
                        told = f"{name}: skipped, its set '{empty}' keeps no clip and no stage starts from it"
                        print(told, file=sys.stderr, flush=True)
                    continue
                loop.train_stage(settings, name, world, stop, loop.Options(workers, as_json, fresh, probe))
    except CacheError as error:
        raise pipelines.RecipeError(str(error)) from None
    return 0


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
