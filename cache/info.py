"""`python -m cache.info [FOLDER]`: what a cache holds. (`python -m cache.diff A B`: why two fingerprints differ.)"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

import commands
from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import NoCache, cache_folder, latent_settings
from media import storage
from pipelines import Recipe, load


def info(folder: str) -> dict[str, Any]:
    """Per bucket samples, tokens, bytes and hours. Raises NoCache where there is no cache."""
    described = _described(folder)
    found: dict[str, dict[str, Any]] = {}
    for name in tables.buckets(folder):
        index = tables.read_table(tables.index_path(folder, name), tables.INDEX)
        bucket, files = Bucket.parse(name), storage.find(storage.join(folder, name), ".tar")
        found[name] = {
            "samples": len(index),
            "tokens": bucket.tokens(),
            "hours": round(len(index) * bucket.frames / bucket.fps / 3600, 3) if bucket.fps else 0.0,
            "latent_bytes": sum(entry.bytes for entry in files if ".text-" not in entry.path),
            "text_bytes": sum(entry.bytes for entry in files if ".text-" in entry.path),
        }
    return {
        "folder": folder,
        "fingerprint": described["fingerprint"],
        "text": list(described["text"]),
        "buckets": found,
    }


def _described(folder: str) -> dict[str, Any]:
    found = tables.read_json(storage.join(folder, "cache.json"))
    if found is None:
        raise NoCache(f"{folder}: no latent cache there")
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[str | None, typer.Argument(help="A latents-* folder; the recipe's by default.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe in pipelines.yaml.")] = None,
    config: Annotated[str | None, typer.Option(help="Another pipelines.yaml.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Where the cache is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Say what a cache holds: buckets, samples, tokens, hours, bytes."""
    found = info(folder if folder else _of_recipe(load(config, recipe, (), workspace=workspace)))
    print(json.dumps(found) if as_json else _table(found))


def _of_recipe(chosen: Recipe) -> str:
    return cache_folder(chosen, latent_settings(chosen))


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['folder']}  (text: {', '.join(found['text'])})"]
    lines.append(f"{'bucket':<24}{'samples':>9}{'tokens':>8}{'hours':>9}{'latents MB':>12}{'text MB':>9}")
    for name, one in found["buckets"].items():
        lines.append(f"{name:<24}{one['samples']:>9}{one['tokens']:>8}{one['hours']:>9.2f}"
                     f"{one['latent_bytes'] / 1e6:>12.1f}{one['text_bytes'] / 1e6:>9.1f}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
