"""One step: gradients of this rank's micro-batches, summed over the ranks, and an update.

Every sample of a step counts the same, whichever micro-batch and rank computed it: the gradient is that of the mean
over all samples of the step, as if one process had seen them at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pipelines import Losses
from train import flow
from train.batch import Batch
from train.conditions import fed, shortened, told
from train.decoded import Judges, decoded_losses
from train.distributed import World, add_up
from train.losses import velocity_loss
from train.memory import fitting, told_of
from train.optim import Weights
from train.plan import MicroBatch


class NotFinite(RuntimeError):
    """A loss or a gradient that is no number. The message names the samples."""


class Result(NamedTuple):
    """losses, ts (samples of the step,) float64 on the CPU, in the plan's order; stop: some rank was asked to stop."""

    losses: Tensor
    ts: Tensor
    norm: float
    stop: bool


def predict(model: nn.Module, batch: Batch) -> Tensor:
    """The velocity (B, C, T, H, W) that the network sees in a batch."""
    return _seen(model, batch, flow.mix(batch.data, batch.noise, batch.t))[0]


def sample_losses(model: nn.Module, batch: Batch, losses: Losses, judges: Judges | None = None) -> Tensor:
    """The weighted loss of each sample (B,). judges: what looks at pixels; None where no loss does."""
    x_t = flow.mix(batch.data, batch.noise, batch.t)
    v, counts = _seen(model, batch, x_t)
    total = losses.velocity * velocity_loss(v, flow.velocity(batch.data, batch.noise), counts)
    if judges is None:
        return total
    estimate = flow.data_of(x_t, v.to(x_t.dtype), batch.t)
    estimate = torch.where(counts.view(1, 1, -1, 1, 1), estimate, batch.data)
    estimate, clip = (shortened(one, batch.given) for one in (estimate, batch.data))
    return total + decoded_losses(judges, losses, estimate, clip, batch.sound)


def _seen(model: nn.Module, batch: Batch, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity, and which frames (T,) count."""
    x, t, counts = fed(x_t, batch.t, batch.given, cast(int, model.in_channels))
    guidance = told(model, batch.guidance, x)
    return model(x, flow.network_time(t), batch.text, batch.mask, batch.pooled, guidance), counts


def train_step(
    weights: Weights, micro: Sequence[MicroBatch], mine: Sequence[int], batches: Sequence[Batch], world: World,
    step: int, stop: bool = False,
) -> Result:  # fmt: skip
    """Update after `step` updates. mine: which of the step's micro-batches `batches` are, at least one.

    Every rank goes through the network equally often, because spread weights are gathered by all at once: one with
    fewer micro-batches repeats its last, and counts it for nothing. Raises NotFinite, TooLarge before anything is changed.
    """
    sizes = [len(one.rows) for one in micro]
    total, starts = sum(sizes), [sum(sizes[:i]) for i in range(len(sizes))]
    seen = torch.zeros(2, total, dtype=torch.float64)
    rounds = -(-len(micro) // world.size)
    weight = (world.size if weights.spread else 1) / total  # FSDP averages over ranks: undone
    for turn in range(rounds):
        index, batch = mine[min(turn, len(mine) - 1)], batches[min(turn, len(mine) - 1)]
        weights.expect(last=turn == rounds - 1)
        with fitting(told_of(batch.bucket, len(batch.names), batch.tokens), weights.stage):
            batch = batch.to(world.device, torch.promote_types(weights.dtype, torch.float32))
            loss = sample_losses(weights.model, batch, weights.stage.losses, weights.judges)
            (loss.sum() * (weight if turn < len(mine) else 0.0)).backward()
            weights.collect()
        if turn < len(mine):
            place = slice(starts[index], starts[index] + sizes[index])
            seen[0, place], seen[1, place] = loss.detach().double().cpu(), batch.t.double().cpu()
    asked = torch.tensor([float(stop)], dtype=torch.float64)
    shared = [one.to(world.device) for one in (seen, asked)]
    add_up(world, shared)
    losses, ts = shared[0].cpu()
    _refuse(losses, micro)
    if not weights.spread:
        add_up(world, weights.gradients())
    norm = weights.clip()
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient is not finite; the step's samples: {', '.join(_names(micro))}")
    weights.update(step)
    return Result(losses, ts, norm, bool(shared[1].item()))


def _refuse(losses: Tensor, micro: Sequence[MicroBatch]) -> None:
    if bool(torch.isfinite(losses).all()):
        return
    names = _names(micro)
    bad = [names[i] for i in torch.nonzero(~torch.isfinite(losses)).flatten().tolist()]
    raise NotFinite(f"the loss is not finite for {len(bad)} of {len(names)} samples: {', '.join(bad[:8])}")


def _names(micro: Sequence[MicroBatch]) -> list[str]:
    return [f"{clip} of {one.bucket}" for one in micro for clip in one.clips]
