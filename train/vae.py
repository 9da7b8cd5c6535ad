"""`python -m train.vae --stage vae-256px`: train a video VAE from scratch on the recipe's footage."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import commands
import pipelines
from train.run import Config, Device, Overrides, RecipeName, Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    stage: Annotated[str, typer.Option("--stage", help="One of the recipe's vae_stages.")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    device: Device = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read footage ahead.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; an earlier run is set aside.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON lines on standard output.")] = False,
) -> int:
    """Train a VAE, going on from its newest checkpoint. The result is a diffusers folder, for `cache.vae`.

    Example: python -m train.vae --stage vae-256px --set 'vae_stages.vae-256px.holdout=[my/films]'
    """
    settings = pipelines.load(config, recipe, tuple(overrides or ()), workspace=workspace)
    if (size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:  # each would find the run's folder busy with another
        raise pipelines.RecipeError(
            f"a VAE is trained by one process, torchrun started {size}: run it without torchrun"
        )
    stop = commands.Stop()
    from train import vae_loop

    vae_loop.train_vae(settings, stage, device, stop, vae_loop.Options(workers, as_json, fresh))
    return 0


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
