"""Training one stage: start or go on, step by step, until it is done or somebody asks to stop."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

from cache.read import LatentCache, open_cache
from commands import Stop, hold
from model.dit import DiT
from pipelines import Recipe, RecipeError, Stage, resolved
from train import batch as batches
from train import checkpoint, conditions, distributed, network, semantic, stages
from train.data import FeedPools, changes, stage_pools
from train.distributed import World, barrier
from train.during import StageSamples
from train.folder import RunFolder
from train.loader import read_ahead
from train.metrics import Metrics, Progress, machine
from train.optim import Weights, learning_rate
from train.phases import Phases
from train.plan import MicroBatch, Plan, share_out
from train.probe import probe
from train.saving import Saver
from train.step import Result, train_step
from train.validation import validate

T_BINS = 4  # the training loss is also told per quarter of t
EXPLODED = 20.0  # times the median of the last losses
REMEMBERED = 100  # losses


class Exploded(RuntimeError):
    """The loss left its band. The message names the samples; the last checkpoint is from before."""


class Options(NamedTuple):
    """workers: threads that read ahead; as_json: progress for machines; fresh: set an earlier run aside first; probe:
    try the dearest bucket before the first step."""

    workers: int = 2
    as_json: bool = False
    fresh: bool = False
    probe: bool = False


class Run(NamedTuple):
    recipe: Recipe
    name: str
    stage: Stage
    world: World
    cache: LatentCache
    feeds: list[FeedPools]
    plan: Plan
    weights: Weights
    phases: Phases
    folder: RunFolder


def train_stage(recipe: Recipe, name: str, world: World, stop: Stop, options: Options) -> None:
    """Train a stage to its end, from its newest checkpoint if there is one.

    Raises RecipeError and CacheError before anything is changed, commands.Interrupted after saving, Exploded and
    NotFinite with the last checkpoint kept.
    """
    stage = stages.stage_of(recipe, name)
    check_world(stage, name, world.size)
    cache = open_cache(recipe)
    if stage.image_to_video:
        semantic.every(stage.image_to_video, cache.settings)
    folder = RunFolder(stages.run_folder(recipe, name))
    with ExitStack() as held:
        if world.first:
            held.enter_context(hold(folder.path, "train"))
            if options.fresh:
                folder.set_aside()
        barrier(world)
        folder.look(world.first)
        progress = Progress(name, 0, stage.steps, options.as_json, sys.stdout)
        run = _open(recipe, name, world, cache, folder)
        start = _go_on(run, progress)
        if start >= stage.steps or run.phases.state.finished:
            _tell(world, progress, f"{name}: already at step {start} of {stage.steps}, nothing to do")
            return
        run.phases.enter(start)
        if world.first:
            folder.write_recipe(resolved(recipe))
        _loop(run, start, stop, options, progress)


def check_world(stage: Stage, name: str, size: int) -> None:
    """Raises RecipeError for a number of ranks that does not divide the micro-batches of a step, or that the parts of
    the weights do not divide."""
    try:
        share_out([1.0] * stage.micro_batches, size)
        distributed.parts_of(stage.shard, size)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from None


def _open(recipe: Recipe, name: str, world: World, cache: LatentCache, folder: RunFolder) -> Run:
    stage = recipe.stages[name]
    feeds = stage_pools(cache, stage, stages.cost_of(recipe))
    try:
        plan = batches.plan_of(stage, feeds)
    except ValueError as error:
        raise RecipeError(f"stages.{name}: {error}") from None
    model, spread = network.of_stage(recipe, name, world, cache.settings, folder.path)
    weights = Weights(model, stage, spread)
    found = checkpoint.latest(folder.path)
    phases = Phases(recipe, name, weights, found.state.get("phase") if found else None)
    return Run(recipe, name, stage, world, cache, feeds, plan, weights, phases, folder)


def _go_on(run: Run, progress: Progress) -> int:
    """Load the newest checkpoint, or the stage's start weights. Returns the number of updates done."""
    found = checkpoint.latest(run.folder.path)
    if found is None:
        weights = None if run.stage.lora else stages.start_weights(run.recipe, run.name)
        if weights is not None:
            weights = conditions.adapted(weights, run.weights.model)
            network.refuse_others(cast(DiT, run.weights.model), weights, f"stages.{run.name}.start")
            run.weights.start_from(weights)
        return 0
    _refuse_changes(run, found)
    run.weights.make_room(checkpoint.names(found, "optimiser"))
    checkpoint.restore(found, run.weights.tensors(), run.world)
    run.weights.refresh()
    if found.step < run.stage.steps:
        _tell(run.world, progress, f"{run.name}: going on from step {found.step} ({found.path})")
    return found.step


def _refuse_changes(run: Run, found: checkpoint.Checkpoint) -> None:
    """Raises RecipeError when the recipe or the data are no longer those of the checkpoint, with the difference."""
    before, now = found.state["fixed"], stages.fixed(run.recipe, run.name)
    lines = [f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    lines += changes(found.state["data"], {feed.name: feed.summary for feed in run.feeds})
    if lines:
        raise RecipeError(
            f"{found.path} was trained on something else:\n  " + "\n  ".join(lines) + "\n"
            "go back to it, or start anew with --fresh (the old run is set aside, not deleted)"
        )


def _loop(run: Run, start: int, stop: Stop, options: Options, progress: Progress) -> None:
    stage, world = run.stage, run.world
    plan_step = lru_cache(maxsize=256)(run.plan.step)

    def mine(step: int) -> list[MicroBatch]:
        return [plan_step(step)[i] for i in _share(plan_step(step), world)]

    metrics = Metrics(run.folder.local, start) if world.first else None
    samples = StageSamples(recipe=run.recipe, stage=stage, cache=run.cache, feeds=run.feeds, device=world.device)
    if metrics or run.weights.spread:
        samples.prepare()
    load = partial(batches.load, run.cache, stage)
    steps = read_ahead(load, mine, start, stage.steps, options.workers, run.cache)
    losses: deque[float] = deque(maxlen=REMEMBERED)
    saved = start if start else None
    if options.probe:
        _tell(world, progress, f"{run.name}: {probe(run.weights, run.cache, run.feeds, world)}")
    if start == 0:
        _validate(run, 0, metrics, progress)
    with closing(steps), Saver(run.folder.path, world, stage.keep_last, stage.milestones) as saver:
        for step in range(start, stage.steps):
            began = time.monotonic()
            loaded = next(steps)
            waited = time.monotonic() - began
            micro = plan_step(step)
            run.phases.join(step)
            result = train_step(run.weights, micro, _share(micro, world), loaded, world, step, stop.number is not None)
            done = step + 1
            record = _record(run.weights.stage, micro, result, step, time.monotonic() - began, waited, world)
            _refuse_explosion(losses, record["loss"], micro, done)
            if metrics:
                metrics.write(done, record)
                progress.update(done, record)
            run.phases.saw_loss(record["loss"])
            _look(run, done, done == stage.steps and not result.stop, metrics, progress, samples)
            switched = _switch(run, done, metrics, progress, losses)
            last = done == stage.steps or result.stop or run.phases.state.finished is not None
            if last or switched or done % stage.checkpoint_every == 0 or done in stage.milestones:
                _save(run, done, saver)
                saved = done
            if last:
                break
    if metrics:
        metrics.close()
        run.folder.publish()
    stop.check()
    _tell(world, progress, f"{run.name}: step {saved} of {stage.steps}, saved in {run.folder.path}")


def _switch(run: Run, step: int, metrics: Metrics | None, progress: Progress, losses: deque[float]) -> bool:
    """Goes to the next phase when this one is over. The losses before say nothing of those after."""
    told = run.phases.switch(step)
    if told is None:
        return False
    losses.clear()
    if metrics:
        metrics.write(step, {"phase": run.phases.now.name, "told": told})
        progress.tell(f"{run.name}  {step}/{run.stage.steps}  {told}")
    return True


def _share(micro: Sequence[MicroBatch], world: World) -> list[int]:
    return share_out([one.cost for one in micro], world.size)[world.rank]


def _record(
    stage: Stage, micro: Sequence[MicroBatch], result: Result, step: int, seconds: float, waited: float, world: World
) -> dict[str, Any]:
    """One line of metrics.jsonl: mean loss, per bucket, per quarter of t, and what the step cost."""
    by_bucket, by_t = defaultdict(list), defaultdict(list)
    buckets = [one.bucket for one in micro for _ in one.rows]
    for bucket, loss, t in zip(buckets, result.losses.tolist(), result.ts.tolist()):
        by_bucket[bucket].append(loss)
        by_t[f"t{min(int(t * T_BINS), T_BINS - 1)}"].append(loss)
    flops = sum(one.cost for one in micro)
    tokens = sum(batches.tokens_of(one.bucket) * len(one.rows) for one in micro)
    return {
        "loss": float(result.losses.mean()), "lr": learning_rate(stage, step), "norm": result.norm,
        "samples": len(buckets), "tokens": tokens, "seconds": round(seconds, 4), "waited": round(waited, 4),
        "tflop_s": round(flops / seconds / 1e12, 4), **machine(world, stage.precision, flops / seconds),
        "bucket": {key: statistics.fmean(one) for key, one in sorted(by_bucket.items())},
        "time": {key: statistics.fmean(one) for key, one in sorted(by_t.items())},
    }  # fmt: skip


def _refuse_explosion(losses: deque[float], loss: float, micro: Sequence[MicroBatch], step: int) -> None:
    if len(losses) >= losses.maxlen // 2 and loss > EXPLODED * statistics.median(losses):  # type: ignore[operator]
        names = ", ".join(f"{clip} of {one.bucket}" for one in micro for clip in one.clips)
        raise Exploded(f"step {step}: loss {loss:.4g} is more than {EXPLODED:g} times the median of the last "
                       f"{len(losses)}; its samples: {names}")  # fmt: skip
    losses.append(loss)


def _look(run: Run, step: int, last: bool, metrics: Metrics | None, progress: Progress, samples: StageSamples) -> None:
    """Validation losses and samples, at the steps at which the stage asks for them."""
    stage = run.stage
    if last or step % stage.validate_every == 0:
        _validate(run, step, metrics, progress)
    if stage.sample_every and (last or step % stage.sample_every == 0) and (metrics or run.weights.spread):
        with run.weights.averaged():  # spread weights are gathered by all, so all draw and the first one writes
            for path in samples.write(run.weights.model, step, run.folder.local if metrics else None):
                progress.tell(f"{run.name}  {step}/{stage.steps}  samples: {path}")
    barrier(run.world)


def _validate(run: Run, step: int, metrics: Metrics | None, progress: Progress) -> None:
    raw = validate(run.weights, run.cache, run.feeds, run.world)
    with run.weights.averaged():
        average = validate(run.weights, run.cache, run.feeds, run.world)
    if raw and step > run.phases.state.began and step % run.stage.validate_every == 0:
        run.phases.saw_validation(raw["loss"])
    if metrics and raw:
        metrics.write(step, {"validation": raw, "validation_average": average})
        progress.tell(f"{run.name}  {step}/{run.stage.steps}  validation {raw['loss']:.4f}, average of the weights "
                      f"{average['loss']:.4f}")  # fmt: skip


def _save(run: Run, step: int, saver: Saver) -> None:
    """Begin to save; the metrics go first, so that on a store a checkpoint's own are never missing."""
    if run.world.first:
        run.folder.publish()
    state = {
        "stage": run.name,
        "fixed": stages.fixed(run.recipe, run.name),
        "data": {feed.name: feed.summary for feed in run.feeds},
        "cache": run.cache.settings,
        "phase": run.phases.state._asdict(),
        "recipe": resolved(run.recipe),
    }
    saver.milestones = (*run.stage.milestones, run.phases.state.began)  # where the phase began is kept
    saver.save(step, run.weights.tensors(), state)


def _tell(world: World, progress: Progress, text: str) -> None:
    if world.first:
        progress.tell(text)
