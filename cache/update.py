"""Bringing a cache up to date: ledger, plan, latents, text states, counts; in this order, under one lock."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

import commands
from cache import index as tables
from cache.black import write_black
from cache.buckets import Bucket, Size
from cache.crew import Crew
from cache.encode import Job, Networks, make_latents
from cache.encode_text import TextCounts
from cache.fingerprint import cache_folder, latent_settings, text_settings
from cache.ledger import Placed, clips_of, feeding_sets, place, view_table
from cache.make_texts import make_texts
from cache.networks import image_tokens_of, vae_of
from cache.plan import extended, sample_bytes, shards
from cache.speed import write_speed
from cache.state import BucketState, tars
from compat import keep_freed_memory
from media import storage
from model.devices import best_device
from pipelines import Recipe, RecipeError, fingerprint

Say = Callable[[str], None]
Stopping = Callable[[], bool]


class Options(NamedTuple):
    """workers: processes that read pixels (None: one per core, shared out to the encoders of a machine; 0: none); device:
    None is cuda where there is one; own_process: this process is for encoding alone, so settings of the whole process
    may be changed."""

    stage: str | None = None
    workers: int | None = None
    device: str | None = None
    retry_failed: bool = False
    as_json: bool = False
    own_process: bool = False


class Summary(NamedTuple):
    """What a run found and did. buckets: samples each one holds now; seconds: spent on latents."""

    folder: str
    ledger: dict[str, dict[str, int]]
    buckets: dict[str, int]
    encoded: int
    failed: int
    text: TextCounts
    text_tars: int
    seconds: float


def update(recipe: Recipe, options: Options, say: Say, stopping: Stopping = lambda: False,
           crew: Crew | None = None) -> Summary:  # fmt: skip
    """Encode what is missing. say(line) gets what a person should know; after stopping() came true the shard at hand is
    finished and the tables are written. crew: the processes that do it together; this one is the first of them.

    Raises RecipeError, MissingWeights, commands.Busy, FileNotFoundError (no curated tables), CacheError.
    """
    crew = crew or Crew()
    placed = ledgers(recipe, options.stage)
    latents, texts = latent_settings(recipe), text_settings(recipe)
    folder = cache_folder(recipe, latents)
    with commands.hold(folder, "encode"):
        _sweep(folder)
        states = {bucket.name: BucketState(folder, bucket.name, say) for bucket in buckets_of(placed)}
        _describe(folder, latents, texts, {})
        if options.retry_failed:
            say(f"{sum(state.forget_failures() for state in states.values())} failed samples are tried again")
        jobs = _plan(recipe, placed, states, sizes_in_bytes(recipe, placed, latents, texts))
        _write_ledgers(folder, placed, states, merge=options.stage is not None)
        say(f"{folder}: {sum(job.samples for job in jobs)} samples to encode in {len(jobs)} buckets")
        before = {name: state.counts() for name, state in states.items()}
        states, seconds = _latents(recipe, options, jobs, states, stopping, crew, say)
        encoded, failed = _done(folder, options, before, states, seconds)
        _write_ledgers(folder, placed, states, merge=options.stage is not None)
        here = partial(make_texts, recipe, states, options.device, crew, stopping, say)
        texts_made, written = crew.texts(here, list(states))
        counts = {name: len(state.index()) for name, state in states.items()}
        _describe(folder, latents, texts, counts)
        return Summary(folder, ledger_counts(placed), counts, encoded, failed, texts_made, written, seconds)


def assist(recipe: Recipe, options: Options, crew: Crew, stopping: Stopping = lambda: False) -> None:
    """Make this process's share of the shards that the first one planned; tables and texts are the first one's."""
    crew.planned()
    placed, folder = ledgers(recipe, options.stage), cache_folder(recipe, latent_settings(recipe))
    jobs = []
    for bucket in buckets_of(placed):
        state = BucketState(folder, bucket.name, say=None)
        jobs.append(Job(state, bucket, tuple(shards(state.plan, state.made, _in_bucket(placed, bucket)))))
    _make(recipe, options, jobs, stopping, crew)
    crew.finished()


def ledgers(recipe: Recipe, stage: str | None = None) -> dict[str, list[Placed]]:
    """View -> every clip of its sets, with bucket or reason. Raises RecipeError for a view that ends up empty."""
    folder = cache_folder(recipe, latent_settings(recipe))
    found: dict[str, list[Placed]] = {}
    for view, sets in feeding_sets(recipe, stage).items():
        chosen = recipe.views[view]
        held_sizes = [
            Size(bucket.height, bucket.width)
            for bucket in map(Bucket.parse, tables.buckets(folder))
            if (bucket.frames, bucket.fps) == (chosen.frames, chosen.fps if chosen.frames > 1 else None)
        ]
        found[view] = place(clips_of(recipe, sets), chosen, held_sizes)
        _must_hold_clips(view, sets, found[view])
    return found


def ledger_counts(placed: dict[str, list[Placed]]) -> dict[str, dict[str, int]]:
    """View -> {bucket or kind of reason: rows}; they add up to the view's rows."""
    counted = {view: Counter(_kind(one) for one in rows) for view, rows in placed.items()}
    return {view: dict(counts.most_common()) for view, counts in counted.items()}


def sizes_in_bytes(recipe: Recipe, placed: dict[str, list[Placed]], latents: dict[str, Any],
                   texts: dict[str, Any]) -> dict[str, int]:  # fmt: skip
    """Bucket -> about the bytes of a sample of it."""
    channels, width = latents["vae"]["channels"], texts["encoder"]["width"]
    return {bucket.name: sample_bytes(bucket, channels, width, recipe.cache) for bucket in buckets_of(placed)}


def buckets_of(placed: dict[str, list[Placed]]) -> list[Bucket]:
    found = {one.bucket for rows in placed.values() for one in rows if one.bucket}
    return sorted(found, key=lambda bucket: bucket.name)


def _sweep(folder: str) -> None:
    """Remove the unfinished files of a writer that was killed: under the lock nobody else writes here."""
    for entry in storage.find(folder, ".part"):
        if storage.name(entry.path).startswith("."):
            storage.remove(entry.path)


def _in_bucket(placed: dict[str, list[Placed]], bucket: Bucket) -> Iterable[Placed]:
    return (one for rows in placed.values() for one in rows if one.bucket == bucket)


def _plan(recipe: Recipe, placed: dict[str, list[Placed]], states: dict[str, BucketState],
          size: dict[str, int]) -> list[Job]:  # fmt: skip
    """Write every bucket's plan and give what is not made of it. size: about the bytes of a sample of each bucket."""
    jobs = []
    for bucket in buckets_of(placed):
        state, wanted = states[bucket.name], list(_in_bucket(placed, bucket))
        plan = extended(state.plan, state.made, wanted, max(1, recipe.cache.shard_bytes // size[bucket.name]))
        if not plan.equals(state.plan):
            state.write_plan(plan)
        jobs.append(Job(state, bucket, tuple(shards(plan, state.made, wanted))))
    return jobs


def _latents(recipe: Recipe, options: Options, jobs: list[Job], states: dict[str, BucketState], stopping: Stopping,
             crew: Crew, say: Say) -> tuple[dict[str, BucketState], float]:  # fmt: skip
    """Make what is missing, with the crew. What is there now, and the seconds it took."""
    for job in jobs:
        job.state.save()  # what a killed run left without an index
    started = time.monotonic()
    crew.planned()
    _make(recipe, options, jobs, stopping, crew)
    crew.finished(_watched(jobs, options))
    if not crew.alone:  # others wrote tars that no table knows yet
        states = {name: BucketState(state.folder, name, say) for name, state in states.items()}
        for state in states.values():
            state.save()
        if not stopping():
            _all_there(jobs, states)
    return states, time.monotonic() - started


def _watched(jobs: list[Job], options: Options) -> Callable[[], None]:
    """Tells what of the jobs lies there by now, each time it is called: progress of those who make it elsewhere."""
    progress = commands.Progress("latents", sum(job.samples for job in jobs), options.as_json)

    def look() -> None:
        held = [(shard, there) for job in jobs for there in [tars(job.state.bucket_folder)] for shard in job.shards]
        progress.add(sum(len(shard.items) for shard, there in held if shard.number in there) - progress.done)

    return look


def _all_there(jobs: list[Job], states: dict[str, BucketState]) -> None:
    """Raises RuntimeError for shards that everybody is done with and that are not here."""
    lost = [
        job.state.shard_path(shard.number)
        for job in jobs
        for shard in job.shards
        if shard.number not in states[job.bucket.name].made
    ]
    if lost:
        raise RuntimeError(
            f"{len(lost)} shards were made by others and are not here, the first is {lost[0]}: put the workspace where all "
            "machines reach it (a shared disk, s3://), and run this again"
        )


def _make(recipe: Recipe, options: Options, jobs: list[Job], stopping: Stopping, crew: Crew) -> None:
    """Make the shards that fall to this process; the VAE is loaded only when there are any."""
    mine = [
        job._replace(shards=tuple(shard for shard in job.shards if crew.takes(at + shard.number)))
        for at, job in enumerate(jobs)
    ]
    total = sum(job.samples for job in mine)
    if not total or stopping():
        return
    device = best_device(options.device)
    networks = Networks(vae_of(recipe, device), image_tokens_of(recipe, device))
    if networks.seer is not None:
        write_black(jobs[0].state.folder, networks.seer, recipe.cache.dtype)
    progress = commands.Progress("latents", total, options.as_json)
    workers = options.workers if options.workers is not None else max(1, (os.cpu_count() or 1) // crew.beside)
    if options.own_process and device.type == "cpu" and workers:
        keep_freed_memory()
    make_latents(
        recipe, mine, networks, workers, lambda bucket, count: progress.add(count, bucket=bucket.name), stopping
    )
    progress.close()


def _done(folder: str, options: Options, before: dict[str, tuple[int, int]], states: dict[str, BucketState],
          seconds: float) -> tuple[int, int]:  # fmt: skip
    """Samples made and failed since `before`; the speed is kept for estimates."""
    made = {name: state.counts()[0] - before[name][0] for name, state in states.items()}
    failed = sum(state.counts()[1] - before[name][1] for name, state in states.items())
    if any(made.values()):
        write_speed(folder, best_device(options.device).type, made, seconds)
    return sum(made.values()), failed


def _write_ledgers(folder: str, placed: dict[str, list[Placed]], states: dict[str, BucketState], merge: bool) -> None:
    """The ledger of each view. merge: rows of clips that this run did not look at (another stage's) stay."""
    failed = {key: why for state in states.values() for key, why in state.failed().items()}
    for view, rows in placed.items():
        table, path = view_table(rows, failed), tables.view_path(folder, view)
        before = tables.read_table(path, tables.VIEW)
        if merge:
            others = before.filter(pc.invert(pc.is_in(before["clip_id"], table["clip_id"].combine_chunks())))
            table = pa.concat_tables([table, others]).sort_by([("clip_id", "ascending"), ("start_tick", "ascending")])
        if not table.equals(before):
            tables.write_table(path, table)


def _describe(folder: str, latents: dict[str, Any], texts: dict[str, Any], counts: dict[str, int]) -> None:
    """cache.json: what made this cache. Text encoders and counts of buckets that were there before are kept."""
    path = storage.join(folder, "cache.json")
    before = tables.read_json(path) or {"text": {}, "samples": {}}
    now = {
        "fingerprint": fingerprint(latents),
        "settings": latents,
        "text": {**before["text"], fingerprint(texts): texts},
        "samples": {**before["samples"], **counts},
    }
    if now != before:
        tables.write_json(path, now)


def _must_hold_clips(view: str, sets: list[str], placed: list[Placed]) -> None:
    if any(one.bucket for one in placed):
        return
    why = ", ".join(f"{count} {kind}" for kind, count in Counter(map(_kind, placed)).most_common(3))
    raise RecipeError(
        f"views.{view}: no clip of {' and '.join(sets)} fits it ({why or 'the sets keep no clip'}); "
        "loosen the sets or change the view"
    )


def _kind(one: Placed) -> str:
    """The bucket, or the words of the reason before its numbers."""
    return one.bucket.name if one.bucket else (one.reason or "").split(":")[0]
