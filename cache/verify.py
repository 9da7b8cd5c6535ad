"""`python -m cache.verify`: is every sample there, whole, finite, of its bucket's shape, and of the right magnitude?

Each fault is one line that names the sample and says what to do. `--set-aside` renames broken tars, so that the next
`python -m cache.encode_latents` makes them again. Exit codes: 0 whole, 1 faults, 2 usage or recipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import torch
import typer
import xxhash

import commands
from cache import index as tables
from cache.buckets import Bucket
from cache.fingerprint import CacheError
from cache.members import unpack
from cache.read import LatentCache, open_cache
from cache.shards import set_aside
from media import storage
from pipelines import Recipe, RecipeError, load

RMS = (
    0.02,
    20.0,
)  # of a sample's latent, scaled to about 1: outside it is black footage at best, a wrong scale at worst
REQUESTS, ROWS_AT_ONCE = 32, 1024
REMAKE = "set the tar aside (--set-aside) and run `python -m cache.encode_latents`"
REINDEX = "remove index.parquet and run `python -m cache.encode_latents`"


class Fault(NamedTuple):
    """what is wrong with which sample; tar: the file to be made again, None where the tables are at fault."""

    bucket: str
    key: str
    what: str
    tar: str | None = None

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}: {self.what}"


def verify(cache: LatentCache) -> Iterator[Fault]:
    """Every fault of a cache, bucket by bucket."""
    for bucket in cache.buckets:
        plan = tables.read_table(tables.plan_path(cache.folder, bucket), tables.PLAN)
        failed = tables.read_table(tables.failed_path(cache.folder, bucket), tables.FAILED)
        index = tables.read_table(tables.index_path(cache.folder, bucket), tables.INDEX)
        texts = tables.read_table(tables.text_index_path(cache.folder, bucket, cache.text), tables.TEXT_INDEX)
        yield from _tables_agree(bucket, plan, failed, index, texts)
        shape = Bucket.parse(bucket).latent_shape(cache.channels)
        names = {*map(tables.shard_name, index["shard"].unique().to_pylist()), *texts["tar"].unique().to_pylist()}
        missing = {name for name in names if not storage.exists(storage.join(cache.folder, bucket, name))}
        yield from _each(cache, partial(_latent, cache, bucket, shape=shape, missing=missing), index)
        yield from _each(cache, partial(_text, cache, bucket, missing=missing), texts)


def _each(cache: LatentCache, check: Callable[[dict[str, Any]], Iterator[Fault]], rows: pa.Table) -> Iterator[Fault]:
    """In the order of the rows; a store is asked for many at once, which wait for one latency together."""
    with ThreadPoolExecutor(REQUESTS if cache.remote else 1, thread_name_prefix="verify") as pool:
        for some in rows.to_batches(max_chunksize=ROWS_AT_ONCE):
            for faults in pool.map(lambda row: list(check(row)), some.to_pylist()):
                yield from faults


def _tables_agree(bucket: str, plan: pa.Table, failed: pa.Table, index: pa.Table, texts: pa.Table) -> Iterator[Fault]:
    planned, made = plan["key"].to_pylist(), index["key"].to_pylist()
    newest = {(row["clip_id"], row["start_tick"]): row["key"] for row in plan.to_pylist()}  # a later sample supersedes
    missing = set(newest.values()) - set(made) - set(failed["key"].to_pylist())
    for key in sorted(missing):
        yield Fault(bucket, key, "planned, but not in the index: run `python -m cache.encode_latents`")
    for key in sorted(set(made) - set(planned)):
        yield Fault(bucket, key, f"in the index, but not in the plan: the index is of another cache; {REINDEX}")
    for key in sorted(set(made) ^ set(texts["key"].to_pylist())):
        yield Fault(bucket, key, "has latents or text states, not both: run `python -m cache.encode_latents`")


def _latent(
    cache: LatentCache, bucket: str, row: dict[str, Any], shape: tuple[int, ...], missing: set[str]
) -> Iterator[Fault]:
    tar = tables.shard_name(row["shard"])
    tensors = _tensors(cache, bucket, row, tar, missing)
    if isinstance(tensors, Fault):
        yield tensors
        return
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        yield Fault(bucket, row["key"], f"{' and '.join(broken)} holds NaN or infinity: {REMAKE}", tar)
        return
    latent = tensors.get("latent")
    if latent is None or tuple(latent.shape) != shape:
        got = None if latent is None else tuple(latent.shape)
        yield Fault(bucket, row["key"], f"latent of shape {got}, the bucket has {shape}: {REMAKE}", tar)
    elif not RMS[0] <= (rms := float(latent.float().square().mean().sqrt())) <= RMS[1]:
        yield Fault(bucket, row["key"], f"latent of magnitude {rms:.3g}, about 1 is usual: look at its clip")


def _text(cache: LatentCache, bucket: str, row: dict[str, Any], missing: set[str]) -> Iterator[Fault]:
    tensors = _tensors(cache, bucket, row, row["tar"], missing)
    if isinstance(tensors, Fault):
        yield tensors
    elif tensors["states"].shape[1] != cache.text_width or tensors["pooled"].shape[1] != cache.pooled_width:
        yield Fault(bucket, row["key"], f"text states of another width than the encoder's: {REMAKE}", row["tar"])
    elif not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        yield Fault(bucket, row["key"], f"text states hold NaN or infinity: {REMAKE}", row["tar"])


def _tensors(
    cache: LatentCache, bucket: str, row: dict[str, Any], tar: str, missing: set[str]
) -> dict[str, torch.Tensor] | Fault:
    path = storage.join(cache.folder, bucket, tar)
    if tar in missing:
        return Fault(bucket, row["key"], f"its tar {tar} is missing: run `python -m cache.encode_latents`")
    data = bytearray(storage.read_range(path, row["offset"], row["bytes"]))
    if len(data) != row["bytes"]:
        return Fault(bucket, row["key"], f"{tar} ends before it: {REMAKE}", tar)
    if xxhash.xxh3_64_intdigest(data) != row["xxh3"]:
        return Fault(bucket, row["key"], f"its bytes in {tar} are not those that were written: {REMAKE}", tar)
    try:
        return unpack(memoryview(data), row["key"])[0]
    except CacheError as error:
        return Fault(bucket, row["key"], f"{error}: {REMAKE}", tar)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[str | None, typer.Argument(help="A latents-* folder; the recipe's by default.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe in pipelines.yaml.")] = None,
    config: Annotated[str | None, typer.Option(help="Another pipelines.yaml.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Where the cache is.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any key of the recipe: key=value.")] = None,
    aside: Annotated[bool, typer.Option("--set-aside", help="Rename broken tars, to be made again.")] = False,
    pictures: Annotated[str | None, typer.Option(help="PNG of samples decoded again, source | decoded.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many samples --pictures shows.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> int:
    """Check a latent cache, sample by sample."""
    cache = LatentCache(folder) if folder else _of(load(config, recipe, tuple(sets or ()), workspace=workspace))
    faults = list(verify(cache))
    samples = sum(len(cache_index(cache, bucket)) for bucket in cache.buckets)
    psnr = _pictures(cache, pictures, count) if pictures else None
    if as_json:
        found = {"folder": cache.folder, "samples": samples, "faults": [str(one) for one in faults], "psnr": psnr}
        print(json.dumps(found))
    else:
        for line in [*faults, *(f"{value:6.2f} dB  {name}" for name, value in (psnr or {}).items())]:
            print(line)
        print(f"{samples} samples in {len(cache.buckets)} buckets of {cache.folder}: {len(faults) or 'no'} faults")
    if aside:
        _set_aside(cache, faults)
    return 1 if faults else 0


def _of(chosen: Recipe) -> LatentCache:
    """Raises RecipeError where the cache cannot be read at all."""
    try:
        return open_cache(chosen)
    except CacheError as error:
        raise RecipeError(str(error)) from None


def _pictures(cache: LatentCache, path: str, count: int) -> dict[str, float]:
    """Write the contact sheet; PSNR in dB of each sample on it."""
    from cache.pictures import decoded_back
    from media.write import grid, write_png

    if cache.recipe is None:
        raise RecipeError("--pictures needs the recipe (its footage and VAE), not a folder")
    pairs = list(decoded_back(cache.recipe, cache, count))
    if pairs:
        write_png(path, grid([pair.rgb for pair in pairs]))
    return {pair.name: round(pair.psnr, 2) for pair in pairs}


def _set_aside(cache: LatentCache, faults: list[Fault]) -> None:
    for bucket, tar in sorted({(one.bucket, one.tar) for one in faults if one.tar}):
        if storage.exists(path := storage.join(cache.folder, bucket, str(tar))):
            set_aside(path, lambda line: print(line, file=sys.stderr))


def cache_index(cache: LatentCache, bucket: str) -> pa.Table:
    """The index as it lies there, whatever its text states are like."""
    return tables.read_table(tables.index_path(cache.folder, bucket), tables.INDEX)


if __name__ == "__main__":
    commands.main(lambda: app(standalone_mode=False))
