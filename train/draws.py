"""What chance decides about a sample: its time, noise, caption variant and whether its text is dropped.

Each is drawn by a generator seeded with the name of the draw (stage seed, feed, epoch, occurrence, clip, start tick)
and of what it decides, and with nothing else. Order, workers, ranks, resuming, and draws added later change none.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines import Flow
from train import flow


class Draw(NamedTuple):
    """t in (0, 1); noise: unit normal of the latent's shape, float32; variant: index of the caption."""

    t: float
    variant: int
    text_dropped: bool
    noise: Tensor


def generator(*name: str | int) -> np.random.Generator:
    """A generator of its own for every name."""
    digest = hashlib.blake2b("/".join(map(str, name)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def normal(shape: tuple[int, ...], *name: str | int) -> Tensor:
    return torch.from_numpy(generator(*name).standard_normal(shape, dtype=np.float32))


def caption(variants: int, text_dropout: float, *name: str | int) -> tuple[int, bool]:
    """Which of its captions a sample is given, and whether its text is dropped."""
    variant = int(generator(*name, "variant").integers(variants))
    return variant, bool(generator(*name, "dropout").random() < text_dropout)


def draw(shape: tuple[int, ...], variants: int, tokens: int, rule: Flow, text_dropout: float, *name: str | int) -> Draw:
    """The draw of one sample. tokens: of its bucket, which the shift may depend on."""
    u = torch.tensor(generator(*name, "t").random(), dtype=torch.float64).clamp(2**-53, 1 - 2**-53)
    variant, dropped = caption(variants, text_dropout, *name)
    return Draw(
        t=float(flow.times(u, rule, tokens)),
        variant=variant,
        text_dropped=dropped,
        noise=normal(shape, *name, "noise"),
    )
