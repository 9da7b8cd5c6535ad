"""A micro-batch of the plan -> tensors. Text is padded to the longest caption of the micro-batch, no further."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cache.buckets import Bucket
from cache.read import LatentCache, Sample
from model.text import TextStates
from pipelines import Stage
from train.draws import Draw, draw
from train.plan import MicroBatch


@lru_cache
def tokens_of(bucket: str) -> int:
    """Video tokens of one sample of a bucket."""
    return Bucket.parse(bucket).tokens()


class Batch(NamedTuple):
    """data, noise (B, C, T, H, W); t (B,) in (0, 1); text (B, L, D), mask (B, L) bool, pooled (B, P)."""

    bucket: str
    tokens: int  # of one sample, video only
    names: tuple[str, ...]
    data: Tensor
    noise: Tensor
    t: Tensor
    text: Tensor
    mask: Tensor
    pooled: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On a device; data, noise and t in `dtype`."""
        moved = {name: getattr(self, name).to(device, dtype) for name in ("data", "noise", "t", "text", "pooled")}
        return self._replace(**moved, mask=self.mask.to(device))


def load(cache: LatentCache, stage: Stage, micro: MicroBatch) -> Batch:
    """Read and draw the samples of a micro-batch: a function of the cache, the stage's settings and the plan alone."""
    samples = cache.read(micro.bucket, micro.rows)
    draws = [_draw(stage, micro, i, sample) for i, sample in enumerate(samples)]
    return collate(micro.bucket, samples, draws)


def _draw(stage: Stage, micro: MicroBatch, i: int, sample: Sample) -> Draw:
    name = (stage.seed, micro.feed, micro.epoch, micro.occurrences[i], micro.clips[i], micro.ticks[i])
    tokens = tokens_of(micro.bucket)
    return draw(tuple(sample.latent.shape), len(sample.texts), tokens, stage.flow, stage.text_dropout, *name)


def collate(bucket: str, samples: Sequence[Sample], draws: Sequence[Draw]) -> Batch:
    texts = [_text(sample.texts[one.variant], one.text_dropped) for sample, one in zip(samples, draws)]
    text, mask, pooled = padded(texts)
    return Batch(
        bucket=bucket,
        tokens=tokens_of(bucket),
        names=tuple(f"{sample.clip_id} (start tick {sample.start_tick})" for sample in samples),
        data=torch.stack([sample.latent for sample in samples]).float(),
        noise=torch.stack([one.noise for one in draws]),
        t=torch.tensor([one.t for one in draws], dtype=torch.float64),
        text=text,
        mask=mask,
        pooled=pooled,
    )


def padded(texts: Sequence[TextStates]) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, L, D), mask (B, L) True where there is text, pooled (B, P). L is at least 1."""
    lengths = torch.tensor([len(one.states) for one in texts])
    states = pad_sequence([one.states.float() for one in texts], batch_first=True)
    if states.shape[1] == 0:
        states = states.new_zeros(states.shape[0], 1, states.shape[2])
    mask = torch.arange(states.shape[1])[None] < lengths[:, None]
    return states, mask, torch.stack([one.pooled.float() for one in texts])


def no_text(like: TextStates) -> TextStates:
    """The text of an unconditional sample: no token, and a pooled vector of zeros."""
    return TextStates(like.states[:0], torch.zeros_like(like.pooled))


def _text(text: TextStates, dropped: bool) -> TextStates:
    return no_text(text) if dropped else text
