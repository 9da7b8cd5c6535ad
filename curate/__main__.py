"""The `curate` command: footage -> clips, measured -> sets.

`curate` alone is `curate run`. Every option works behind `ray job submit --` too.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import commands
import pipelines

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Footage -> clips, measured -> training sets. `curate` alone is `curate run`.",
)

RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A recipe of pipelines.yaml; its `default:` if absent.")
]
Config = Annotated[str | None, typer.Option("--config", help="The recipe file; ./pipelines.yaml if absent.")]
Footage = Annotated[list[str] | None, typer.Option("--footage", help="File, folder, glob, s3://...; may be repeated.")]
Workspace = Annotated[str | None, typer.Option("--workspace", help="Where everything that is made lies; may be s3://.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Any key of the recipe, e.g. sets.base.keep.motion.min=2.0")
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON lines on standard output.")]


@app.command("run")
def run_command(
    recipe: RecipeName = None,
    config: Config = None,
    footage: Footage = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="With --local: videos at a time.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only these steps: scan, captions, concepts, sets, report.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the concept centroids anew; they are frozen else.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Measure new footage, then make the sets. What is up to date is left alone; a killed run goes on.

    Example: curate --footage ~/videos --workspace work/mine --local
    """
    from curate import pipeline

    settings = _load(recipe, config, overrides, footage, workspace)
    return pipeline.run(settings, local=local, workers=workers, only=only, refit=refit, as_json=as_json)


@app.command()
def status(
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """What is in the workspace: files by status, clips, each set's kept and dropped by reason. The counts add up."""
    from curate import account

    return account.show(_load(recipe, config, overrides, None, workspace), as_json)


@app.command()
def explain(
    what: Annotated[str, typer.Argument(help="A clip id, a video id, or a file of the footage.")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
) -> int:
    """Why a clip is in a set or is not: every score, every verdict with its bound, duplicates, concept."""
    from curate import explain as explaining
    from curate.tables import Tables

    print(explaining.explain(Tables(_load(recipe, config, overrides, None, workspace)), what))
    return 0


@app.command("what-if")
def what_if(
    changes: Annotated[list[str], typer.Argument(help="New values, e.g. sets.base.keep.motion.min=2.0")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """What each set would keep with other bounds: clips, hours, what is gained and lost by rule. Nothing is written.

    Example: curate what-if sets.video_256px.keep.motion.min=2.0
    """
    from curate import what_if as asking

    given = (tuple(overrides or ()), tuple(changes))
    return asking.show(*asking.load_both(config, recipe, *given, workspace=workspace), as_json)


@app.command()
def tune(
    set_name: Annotated[str, typer.Option("--set-name", help="The set whose bounds are proposed.")],
    keep_share: Annotated[float, typer.Option("--keep-share", help="Share of the parent's clips to keep, in (0, 1].")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Propose bounds that keep a share of what a set may draw from, as YAML to paste into the recipe.

    Example: curate tune --set-name video_256px --keep-share 0.4
    """
    from curate import tune as tuning

    return tuning.show(_load(recipe, config, overrides, None, workspace), set_name, keep_share, as_json)


@app.command()
def forget(
    what: Annotated[str, typer.Argument(help="A clip id, a video id, or a file of the footage.")],
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
) -> int:
    """Take a video or a clip out of everything, at once (a tombstone); `curate gc` then rewrites what holds it."""
    from curate import forgetting

    return forgetting.forget(_load(recipe, config, None, None, workspace), what)


@app.command()
def gc(
    recipe: RecipeName = None,
    config: Config = None,
    workspace: Workspace = None,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would be done.")] = False,
) -> int:
    """Remove tables of settings no longer in the recipe, and rewrite parts that hold forgotten clips."""
    from curate import forgetting

    return forgetting.collect(_load(recipe, config, overrides, None, workspace), yes)


def _load(
    recipe: str | None,
    config: str | None,
    overrides: list[str] | None,
    footage: list[str] | None,
    workspace: str | None,
) -> pipelines.Recipe:
    given: dict[str, Any] = {"footage": tuple(footage) if footage else None, "workspace": workspace}
    return pipelines.load(config, recipe, tuple(overrides or ()), **given)


def main() -> None:
    """Entry of the console script. Options without a command belong to `run`."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    arguments = sys.argv[1:]
    if not arguments or (arguments[0] not in names and arguments[0] not in ("--help", "-h")):
        arguments = ["run", *arguments]
    commands.main(lambda: app(arguments, standalone_mode=False))


if __name__ == "__main__":
    main()
