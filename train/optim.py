"""The trained weights and everything that follows them: AdamW, the learning rate of a step, the running average.

Master weights, AdamW's state and the average are at least float32. When the network computes in bfloat16, its own
weights are rounded copies of the masters, and gradients are summed in the masters' type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipelines import Stage

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

    def __init__(self, model: nn.Module, stage: Stage):
        dtype = DTYPES[stage.precision]
        wide = torch.promote_types(dtype, torch.float32)
        self.model, self.stage, self.dtype = model.to(wide), stage, dtype
        self._inner = dict(model.named_parameters())
        self.masters = self._inner
        if dtype != wide:
            self.masters = {name: nn.Parameter(one.detach().clone()) for name, one in self._inner.items()}
            self.model.to(dtype)
            self._inner = dict(self.model.named_parameters())
        self.average = {name: one.detach().clone() for name, one in self.masters.items()}
        self.optimiser = torch.optim.AdamW(_groups(self.masters, stage), lr=stage.lr, betas=stage.betas, eps=1e-8)

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
        """Scale the gradients down to the stage's norm. Returns their norm before."""
        return float(nn.utils.clip_grad_norm_(self.masters.values(), self.stage.clip_norm))

    def update(self, step: int) -> None:
        """One step of AdamW and of the average, after `step` of them."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.stage, step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            masters: list[Tensor] = list(self.masters.values())
            torch._foreach_lerp_(list(self.average.values()), masters, 1.0 - decay(self.stage, step))
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

    def load(self, masters: dict[str, Tensor], average: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Take over a checkpoint. Raises ValueError for weights of another network."""
        _copy(self.masters, masters)
        _copy(self.average, average)
        for key, tensor in state.items():
            kind, name = key.split("/", 1)
            one = self.masters[name]
            place = torch.device("cpu") if kind == "step" else one.device
            self.optimiser.state[one][kind] = tensor.to(place).clone()
        self._refresh(self.masters)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with trained weights and nothing remembered."""
        self.load(weights, weights, {})

    @torch.no_grad()
    def _refresh(self, source: dict[str, nn.Parameter] | dict[str, Tensor]) -> None:
        if self._inner is not self.masters:
            for name, one in self._inner.items():
                one.copy_(source[name])

    def _exchange(self, target: dict[str, nn.Parameter] | dict[str, Tensor]) -> None:
        if self._inner is not self.masters:
            self._refresh(target)
            return
        for name, one in self.masters.items():
            one.data, self.average[name] = self.average[name], one.data


def _groups(masters: dict[str, nn.Parameter], stage: Stage) -> list[dict]:
    """Matrices decay, biases and norms do not."""
    return [
        {"params": [one for one in masters.values() if one.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [one for one in masters.values() if one.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _copy(into: dict[str, nn.Parameter] | dict[str, Tensor], source: dict[str, Tensor]) -> None:
    if set(into) != set(source):
        missing, extra = sorted(set(into) - set(source)), sorted(set(source) - set(into))
        raise ValueError(f"weights of another network: missing {missing[:3]}, not known {extra[:3]}")
    for name, one in into.items():
        if one.shape != source[name].shape:
            raise ValueError(f"weights of another network: {name} must be {tuple(one.shape)}, got "
                             f"{tuple(source[name].shape)}")  # fmt: skip
        one.copy_(source[name])
