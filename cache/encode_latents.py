"""`python -m cache.encode_latents`: encode every clip of the stages' sets once per bucket, with its captions' states.

On several GPUs `torchrun --nproc-per-node 8 -m cache.encode_latents`, or `--ray`. Exit codes: 0 whole, 1 error, 2 usage
or recipe, 3 another encoder holds the cache, 4 more samples failed than `curate.max_loss` allows, 130 / 143
interrupted: the same command goes on.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

import commands
import compat
from pipelines import Recipe, load, resolved

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe: Annotated[str | None, typer.Option(help="Recipe in pipelines.yaml.")] = None,
    config: Annotated[str | None, typer.Option(help="Another pipelines.yaml.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Where the curated tables are and the cache goes.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only what this stage is fed with.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any key of the recipe: key=value.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read frames; one per core by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; cuda where there is one.")] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="On Ray: the job's cluster, RAY_ADDRESS, or a private one.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="With --ray: encoders; one per GPU by default.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try samples again that could not be made before.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be encoded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines: progress, then the result.")] = False,
) -> int:
    """Encode the clips that the stages need: latents once per bucket, text states beside them."""
    chosen = load(config, recipe, tuple(sets or ()), workspace=workspace)
    if dry_run:
        return _dry_run(chosen, stage, as_json)
    from cache.update import Options

    stop = commands.Stop()
    options = Options(stage, workers, device, retry_failed, as_json, own_process=__name__ == "__main__")
    return _on_ray(chosen, options, stop, processes) if ray else _here(chosen, options, stop)


def _here(recipe: Recipe, options: Any, stop: commands.Stop) -> int:
    from cache.crew import joined
    from cache.update import assist, update

    with joined() as crew:
        if crew.rank:
            assist(recipe, options, crew, lambda: stop.asked)
            return 0
        done = update(recipe, options, _say, lambda: stop.asked, crew)
    return _told(recipe, done, stop, options.as_json)


def _on_ray(recipe: Recipe, options: Any, stop: commands.Stop, processes: int | None) -> int:
    if not os.environ.get("RAY_ADDRESS"):
        compat.keep_ray_on_loopback()
    from cache.on_ray import RayCrew
    from cache.update import update

    quiet = options._replace(retry_failed=False, as_json=False, own_process=True)
    crew = RayCrew(resolved(recipe), quiet._asdict(), processes, lambda: stop.asked)
    try:
        done = update(recipe, options, _say, lambda: stop.asked, crew)
    finally:
        crew.close()
    return _told(recipe, done, stop, options.as_json)


def _told(recipe: Recipe, done: Any, stop: commands.Stop, as_json: bool) -> int:
    tried = done.encoded + done.failed
    if as_json:
        print(json.dumps(done._asdict() | {"text": done.text._asdict()}))
    else:
        _table(done.ledger)
        print(f"{done.encoded} samples encoded, {done.failed} failed, in {done.seconds:.1f} s")
        print(f"{done.text.computed} captions computed, {done.text.copied} copied")
        print(f"{sum(done.buckets.values())} samples in {done.folder}", flush=True)
    stop.check()
    if done.failed > recipe.curate.max_loss * tried:
        raise commands.TooMuchLost(
            f"{done.failed} of {tried} samples failed, more than max_loss {recipe.curate.max_loss:g}; "
            f"the reasons are in {done.folder}/*/failed.parquet"
        )
    return 0


def _dry_run(recipe: Recipe, stage: str | None, as_json: bool) -> int:
    from cache.estimate import estimate

    found = estimate(recipe, stage)
    if as_json:
        print(json.dumps(found))
        return 0
    _table(found["ledger"])
    hours = found["hours"]
    took = "the first run says how long it takes" if hours is None else f"about {commands.clock(hours * 3600)}"
    print(f"to encode: {sum(found['samples'].values())} samples, {found['frames']} frames, "
          f"{found['bytes'] / 1e6:.1f} MB, {took}, into {found['folder']}")  # fmt: skip
    return 0


def _table(ledger: dict[str, dict[str, Any]]) -> None:
    """Where the clips of each view go; the rows of a view add up to its total."""
    for view, counts in ledger.items():
        print(f"{view}: {sum(counts.values())}")
        for name, count in counts.items():
            print(f"  {count:>7}  {name}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
