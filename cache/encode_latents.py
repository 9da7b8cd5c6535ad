"""`python -m cache.encode_latents`: encode every clip of the stages' sets once per bucket, with its captions' states.

Exit codes: 0 whole, 1 error, 2 usage or recipe, 3 another encoder holds the cache, 4 more samples failed than
`curate.max_loss` allows, 130 / 143 interrupted: the same command goes on.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Annotated, Any

import typer

from cache.fingerprint import CacheError
from cache.lock import Busy
from model.weights import MissingWeights
from pipelines import Recipe, RecipeError, load

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
    retry_failed: Annotated[bool, typer.Option(help="Try samples again that could not be made before.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be encoded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Encode the clips that the stages need: latents once per bucket, text states beside them."""
    try:
        chosen = load(config, recipe, tuple(sets or ()), workspace=workspace)
        code = (
            _dry_run(chosen, stage, as_json) if dry_run else _run(chosen, stage, workers, device, retry_failed, as_json)
        )
    except (RecipeError, MissingWeights) as error:
        code = _fail(error, 2)
    except Busy as error:
        code = _fail(error, 3)
    except (CacheError, OSError, ValueError) as error:
        code = _fail(error, 1)
    raise typer.Exit(code)


def _run(recipe: Recipe, stage: str | None, workers: int | None, device: str | None, retry: bool, as_json: bool) -> int:
    from cache.update import Options, update

    done = update(recipe, Options(stage, workers, device, retry), _say)
    tried = done.encoded + done.failed
    if as_json:
        print(json.dumps(done._asdict() | {"text": done.text._asdict()}))
    else:
        _table(done.ledger)
        print(f"{done.encoded} samples encoded, {done.failed} failed, in {done.seconds:.1f} s")
        print(f"{done.text.computed} captions computed, {done.text.copied} copied")
        print(f"{sum(done.buckets.values())} samples in {done.folder}")
    if done.interrupted:
        again = shlex.join(["python", "-m", "cache.encode_latents", *sys.argv[1:]])
        _say(f"interrupted; go on with: {again}")
        return 128 + done.interrupted
    if done.failed > recipe.curate.max_loss * tried:
        _say(f"error: {done.failed} of {tried} samples failed, more than max_loss {recipe.curate.max_loss:g}; "
             f"the reasons are in {done.folder}/*/failed.parquet")  # fmt: skip
        return 4
    return 0


def _dry_run(recipe: Recipe, stage: str | None, as_json: bool) -> int:
    from cache.update import estimate

    found = estimate(recipe, stage)
    if as_json:
        print(json.dumps(found))
    else:
        _table(found["ledger"])
        print(f"to encode: {sum(found['samples'].values())} samples, {found['frames']} frames, "
              f"{found['bytes'] / 1e6:.1f} MB, into {found['folder']}")  # fmt: skip
    return 0


def _table(ledger: dict[str, dict[str, Any]]) -> None:
    """Where the clips of each view go; the rows of a view add up to its total."""
    for view, counts in ledger.items():
        print(f"{view}: {sum(counts.values())}")
        for name, count in counts.items():
            print(f"  {count:>7}  {name}")


def _fail(error: Exception, code: int) -> int:
    _say(f"error: {error}")
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
