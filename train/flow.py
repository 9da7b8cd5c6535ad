"""Flow matching. This file alone knows which way time runs.

t = 0 is data and t = 1 is noise: x_t = (1 - t) data + t noise, the velocity is noise - data, and the network sees
1000 t. It is the convention of the released HunyuanVideo weights (--flow-reverse) and of diffusers; the paper
(arXiv 2412.03603, 4.5.1) writes t the other way round. A shift s moves t towards noise: s t / (1 + (s - 1) t).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from pipelines import Flow

NETWORK_SCALE = 1000.0
# The shift by resolution is 1 at this many tokens (one 256px picture) and grows with their square root (SD3, eq. 23).
REFERENCE_TOKENS = 256

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t scalar tensor in [0, 1]) -> velocity (B, ...)


def mix(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of data and noise (B, ...) at t (B,) in [0, 1]."""
    t = t.reshape(-1, *[1] * (data.ndim - 1))
    return (1 - t) * data + t * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict: d x_t / d t."""
    return noise - data


def data_of(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The data that x_t (B, ...) and its velocity point back to."""
    return x_t - t.reshape(-1, *[1] * (x_t.ndim - 1)) * v


def network_time(t: Tensor) -> Tensor:
    """t in [0, 1] -> the number the network is given, in [0, 1000]."""
    return NETWORK_SCALE * t


def shifted(t: Tensor, shift: float) -> Tensor:
    return shift * t / (1 + (shift - 1) * t)


def shift_of(flow: Flow, tokens: int) -> float:
    """The recipe's shift for a sample of so many video tokens; `resolution` is never below 1."""
    if flow.shift == "resolution":
        return max(1.0, math.sqrt(tokens / REFERENCE_TOKENS))
    return float(flow.shift)


def times(u: Tensor, flow: Flow, tokens: int) -> Tensor:
    """Quantiles u in (0, 1) -> t in (0, 1), float64: the inverse distribution function of the recipe's t.

    A uniform u gives a random t; fixed u give the fixed quantiles that validation uses.
    """
    return shifted(QUANTILES[flow.sampler](u.double(), flow), shift_of(flow, tokens))


def _uniform(u: Tensor, flow: Flow) -> Tensor:
    return u


def _logit_normal(u: Tensor, flow: Flow) -> Tensor:
    return torch.sigmoid(flow.mean + flow.scale * torch.special.ndtri(u))


def _mixed(u: Tensor, flow: Flow) -> Tensor:
    """Half logit-normal, half uniform. The mixture has no closed quantile function, so it is bisected to 1e-15."""
    low, high = torch.zeros_like(u), torch.ones_like(u)
    for _ in range(50):
        middle = (low + high) / 2
        share = (middle + torch.special.ndtr((torch.logit(middle) - flow.mean) / flow.scale)) / 2
        low, high = torch.where(share < u, middle, low), torch.where(share < u, high, middle)
    return (low + high) / 2


QUANTILES: dict[str, Callable[[Tensor, Flow], Tensor]] = {
    "logit_normal": _logit_normal,
    "uniform": _uniform,
    "mixed": _mixed,
}


# ------------------------------------------------------------------------------------------------------------ sampling


def schedule(steps: int, shift: float = 1.0) -> Tensor:
    """The times a sampler visits: steps + 1 of them from 1 (noise) to 0 (data), float64."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def euler(velocity_of: Velocity, noise: Tensor, ts: Tensor) -> Tensor:
    """Noise (B, ...) at ts[0] -> data at ts[-1], one call of the network per step."""
    x = noise
    for t, after in pairwise(ts):
        x = x + velocity_of(x, t) * float(after - t)
    return x


def midpoint(velocity_of: Velocity, noise: Tensor, ts: Tensor) -> Tensor:
    """Second order, two calls per step. Unlike Heun's method it never asks the network for t = 0."""
    x = noise
    for t, after in pairwise(ts):
        half = x + velocity_of(x, t) * float((after - t) / 2)
        x = x + velocity_of(half, (t + after) / 2) * float(after - t)
    return x


SOLVERS: dict[str, Callable[[Velocity, Tensor, Tensor], Tensor]] = {"euler": euler, "midpoint": midpoint}


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance; 1 is the conditional velocity itself."""
    return unconditional + guidance * (conditional - unconditional)
