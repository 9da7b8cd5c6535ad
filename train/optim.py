"""The trained weights and everything that follows them: AdamW, the learning rate of a step, the running average.

Master weights, AdamW's state and the average are at least float32. When the network computes in bfloat16, its own
weights are rounded copies of the masters, and gradients are summed in the masters' type. When the weights are spread
over processes (train/distributed.py), all of these are, and the rounded copies are made as they are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipelines import Stage
from train.decoded import Judges
from train.distributed import defer, local, spread_like, whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def learning_rate(stage: Stage, step: int) -> float:
    """Of the update that follows `step` updates: a linear warm-up, then the schedule down to 0 at the last step."""
    if step < stage.warmup_steps:
        return stage.lr * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.lr * SCHEDULES[stage.schedule](min(1.0, done))


def decay(stage: Stage, step: int) -> float:
    """Of the average, at the update that follows `step` updates: shorter at the start, or the average of a short run
    would consist of weights from before it learnt anything."""
    return min(stage.ema, (1 + step) / (10 + step))


SCHEDULES = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


class Weights:
    """A network and its masters, by parameter name; `average` is their exponential moving average."""

    def __init__(self, model: nn.Module, stage: Stage, spread: bool = False):
        """spread: the model comes from distributed.spread, its parameters are parts of the masters."""
        dtype = DTYPES[stage.precision]
        wide = torch.promote_types(dtype, torch.float32)
        self.model, self.stage, self.dtype, self.spread = model if spread else model.to(wide), stage, dtype, spread
        self._inner = _trained(model)
        self.judges: Judges | None = None  # what the phase at hand looks at pixels with
        self.masters = self._inner
        if dtype != wide and not spread:
            self.masters = {name: nn.Parameter(one.detach().clone()) for name, one in self._inner.items()}
            self.model.to(dtype)
            self._inner = _trained(self.model)
        self.average = {name: one.detach().clone() for name, one in self.masters.items()}
        self.optimiser = torch.optim.AdamW(_groups(self.masters, stage), lr=stage.lr, betas=stage.betas, eps=1e-8,
                                           fused=True)  # fmt: skip

    def expect(self, last: bool) -> None:
        """Before each micro-batch of a step. Spread gradients are summed over processes after the last one only, or,
        if the stage reduces by micro_batch, after each within its group of processes: more traffic, less memory."""
        if self.spread:
            defer(self.model, last or self.stage.reduce == "micro_batch", last)

    def collect(self) -> None:
        """Add the gradients of a micro-batch to those of the masters."""
        if self._inner is self.masters:
            return
        for name, one in self._inner.items():
            if one.grad is not None:
                wide = one.grad.to(self.masters[name].dtype)
                held = self.masters[name].grad
                self.masters[name].grad = wide if held is None else held.add_(wide)
                one.grad = None

    def gradients(self) -> list[Tensor]:
        return [one.grad for one in self.masters.values() if one.grad is not None]

    def clip(self) -> float:
        """Scale the gradients down to the stage's norm, over all processes. Returns their norm before."""
        return float(whole(nn.utils.clip_grad_norm_(self.masters.values(), self.stage.clip_norm)))

    def update(self, step: int) -> None:
        """One step of AdamW and of the average, after `step` of them."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.stage, step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            averages, masters = ([local(one) for one in held.values()] for held in (self.average, self.masters))
            torch._foreach_lerp_(averages, masters, 1.0 - decay(self.stage, step))
        self._refresh(self.masters)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network computes with the average. Without a second copy: the two change places."""
        self._exchange(self.average)
        try:
            yield
        finally:
            self._exchange(self.masters)

    def state(self) -> dict[str, Tensor]:
        """AdamW's state as named tensors: exp_avg/<parameter>, exp_avg_sq/<parameter>, step/<parameter>."""
        held = self.optimiser.state
        return {f"{key}/{name}": held[one][key] for name, one in self.masters.items() for key in held.get(one, {})}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that a checkpoint holds, spread as it is; the tensors share their memory with these weights."""
        masters = {name: one.detach() for name, one in self.masters.items()}
        return {"model": masters, "average": self.average, "optimiser": self.state()}

    def make_room(self, state: Collection[str]) -> None:
        """AdamW's state under the names of state(), zero, for a checkpoint to be read into."""
        for kind, name in (key.split("/", 1) for key in state):
            if name not in self.masters:
                raise ValueError(f"weights of another network: '{name}' is not known")
            one = self.masters[name].detach()
            step = torch.zeros((), dtype=torch.float32, device=one.device)
            self.optimiser.state[self.masters[name]][kind] = step if kind == "step" else torch.zeros_like(one)

    def refresh(self) -> None:
        """After the masters were written to: the network computes with them."""
        self._refresh(self.masters)

    def load(self, masters: Mapping[str, Tensor], average: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Take over whole tensors. Raises ValueError for weights of another network."""
        _copy(self.masters, masters)
        _copy(self.average, average)
        self.make_room(set(state))
        _copy(self.state(), state)
        self.refresh()

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with trained weights and nothing remembered."""
        self.load(weights, weights, {})

    @torch.no_grad()
    def _refresh(self, source: dict[str, nn.Parameter] | dict[str, Tensor]) -> None:
        if self._inner is not self.masters:
            for name, one in self._inner.items():
                one.copy_(source[name])

    @torch.no_grad()
    def _exchange(self, target: dict[str, nn.Parameter] | dict[str, Tensor]) -> None:
        if self._inner is not self.masters:
            self._refresh(target)
            return
        for name, one in self.masters.items():  # in place: what gathers spread weights knows them by their memory
            mine, other = local(one), local(self.average[name])
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Frozen parameters have no master, no state and no average, and are in no checkpoint."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def _groups(masters: dict[str, nn.Parameter], stage: Stage) -> list[dict]:
    """Matrices decay, biases and norms do not."""
    return [
        {"params": [one for one in masters.values() if one.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [one for one in masters.values() if one.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _copy(into: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    if set(into) != set(source):
        missing, extra = sorted(set(into) - set(source)), sorted(set(source) - set(into))
        raise ValueError(f"weights of another network: missing {missing[:3]}, not known {extra[:3]}")
    for name, one in into.items():
        given = source[name]
        if one.shape != given.shape:
            raise ValueError(f"weights of another network: {name} must be {tuple(one.shape)}, got {tuple(given.shape)}")
        one.copy_(spread_like(given, one))
