"""`python -m cache.diff A [B]`: why two caches have different fingerprints, one line per setting.

With one folder: how it differs from what the recipe asks for now, which is why it is not read. Exit codes: 0, whether
or not they differ; 2 usage, or no cache there.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

import commands
from cache import index as tables
from cache.fingerprint import NoCache, latent_settings, text_settings
from media import storage
from pipelines import Recipe, fingerprint, load


def described(folder: str) -> dict[str, Any]:
    """cache.json of a folder. Raises NoCache."""
    found = tables.read_json(storage.join(folder, "cache.json"))
    if found is None:
        raise NoCache(f"{folder}: no latent cache there (it has no cache.json)")
    return {"latents": found["settings"], "text": found["text"]}


def asked(recipe: Recipe) -> dict[str, Any]:
    """What the recipe asks for, in the same form."""
    texts = text_settings(recipe)
    return {"latents": latent_settings(recipe), "text": {fingerprint(texts): texts}}


def difference(one: Any, other: Any, names: tuple[str, str], place: str = "") -> list[str]:
    """One line per leaf that differs: `latents.vae.tiling: True in A, False in B`. Text encoders of different
    fingerprints are compared where each side has one."""
    if place == "text" and len(one) == len(other) == 1:
        (one,), (other,) = one.values(), other.values()
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        inner = (difference(one.get(key), other.get(key), names, f"{place}.{key}".lstrip(".")) for key in keys)
        return [line for lines in inner for line in lines]
    return [] if one == other else [f"{place}: {_told(one)} in {names[0]}, {_told(other)} in {names[1]}"]


def _told(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, sort_keys=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[str, typer.Argument(help="A latents-* folder.")],
    other: Annotated[str | None, typer.Argument(help="Another one; what the recipe asks for by default.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe in pipelines.yaml, where there is one folder.")] = None,
    config: Annotated[str | None, typer.Option(help="Another pipelines.yaml.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any key of the recipe: key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as one JSON list.")] = False,
) -> None:
    """Say why the fingerprints of two caches differ."""
    theirs = described(other) if other else asked(load(config, recipe, tuple(sets or ())))
    names = (storage.name(folder), storage.name(other) if other else "the recipe")
    if names[0] == names[1]:
        names = (folder, str(other))
    lines = difference(described(folder), theirs, names)
    print(json.dumps(lines) if as_json else "\n".join(lines) or "no difference")


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
