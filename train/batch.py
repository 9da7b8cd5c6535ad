"""A micro-batch of the plan -> tensors. Text is padded to the longest caption of the micro-batch, no further."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cache.batches import Batch as Stacked
from cache.buckets import Bucket
from cache.read import LatentCache
from model.conditioning import put_image_first
from model.text import TextStates
from pipelines import Image2Video, Stage
from train import conditions
from train.conditions import Given
from train.data import FeedPools
from train.draws import Draw, caption, draw
from train.plan import Ints, MicroBatch, Plan, TextOf


@lru_cache
def tokens_of(bucket: str) -> int:
    """Video tokens of one sample of a bucket."""
    return Bucket.parse(bucket).tokens()


class Batch(NamedTuple):
    """data, noise (B, C, T, H, W); t (B,) in (0, 1); text (B, L, D), mask (B, L) bool, pooled (B, P). given: the images
    of image to video; where its variant pads clips in front, data and noise are padded."""

    bucket: str
    tokens: int  # of one sample, video only
    names: tuple[str, ...]
    data: Tensor
    noise: Tensor
    t: Tensor
    text: Tensor
    mask: Tensor
    pooled: Tensor
    given: Given | None = None
    sound: Tensor | None = None  # (B, bands, steps), where the cache holds it
    guidance: float = 1.0  # what a network that embeds it is told

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On a device; data, noise and t in `dtype`."""
        moved = {name: getattr(self, name).to(device, dtype) for name in ("data", "noise", "t", "text", "pooled")}
        given = self.given.to(device, dtype) if self.given else None
        sound = None if self.sound is None else self.sound.to(device)
        return self._replace(**moved, mask=self.mask.to(device), given=given, sound=sound)


def load(cache: LatentCache, stage: Stage, micro: MicroBatch) -> Batch:
    """Read and draw the samples of a micro-batch: a function of the cache, the stage's settings and the plan alone."""
    names = [_name(stage, micro, i) for i in range(len(micro.rows))]

    def texts(counts: list[int]) -> list[int | None]:
        drawn = (caption(count, stage.text_dropout, *name) for count, name in zip(counts, names, strict=True))
        return [None if dropped else variant for variant, dropped in drawn]

    found = cache.gather(micro.bucket, micro.rows, texts)
    rule = conditions.asks(stage, micro.bucket, *names[0])
    shape, tokens = _noise_shape(found, rule), tokens_of(micro.bucket)
    draws = [
        draw(shape, count, tokens, stage.flow, stage.text_dropout, *name)
        for count, name in zip(found.texts.counts(), names)
    ]
    given = None if rule is None else conditions.training_given(rule, cache, found.samples(), names)
    return collate(found, draws, given)._replace(guidance=stage.embedded_guidance)


def _name(stage: Stage, micro: MicroBatch, i: int) -> tuple[str | int, ...]:
    return (stage.seed, micro.feed, micro.epoch, micro.occurrences[i], micro.clips[i], micro.ticks[i])


def plan_of(stage: Stage, feeds: Sequence[FeedPools]) -> Plan:
    """The order in which a stage trains on its feeds, samples of similar texts side by side. Raises ValueError."""
    pools, shares = [feed.train for feed in feeds], [feed.share for feed in stage.feeds]
    return Plan(pools, shares, stage.micro_batches, stage.seed, stage.mix, text_of=text_of(stage))


def text_of(stage: Stage) -> TextOf:
    """How many tokens the text has that `load` will give to a draw."""

    def tokens(feed: int, epoch: int, occurrence: int, clip: str, tick: int, lengths: Ints) -> int:
        variant, dropped = caption(len(lengths), stage.text_dropout, stage.seed, feed, epoch, occurrence, clip, tick)
        return 0 if dropped else int(lengths[variant])

    return tokens


def _noise_shape(found: Stacked, rule: Image2Video | None) -> tuple[int, ...]:
    channels, frames, *sides = found.latent.shape[1:]
    return (channels, frames + conditions.padding(rule, frames), *sides)


def collate(found: Stacked, draws: Sequence[Draw], given: Given | None = None) -> Batch:
    """Samples of one bucket, gathered with the texts of their draws, whose noise has the shape of the padded clip."""
    text, mask, pooled = found.texts.padded()
    text = text.float()
    if given and given.seen:
        text, mask = behind(given.seen.tokens, text, mask)
        given = given._replace(seen=None)  # they are among the text now
    sound = found.conditions.get("sound")
    return Batch(
        bucket=found.bucket,
        tokens=tokens_of(found.bucket),
        names=tuple(f"{clip} (start tick {tick})" for clip, tick in zip(found.clip_ids, found.start_ticks)),
        data=conditions.lengthened(found.latent.float(), given.padded if given else 0),
        noise=torch.stack([one.noise for one in draws]),
        t=torch.tensor([one.t for one in draws], dtype=torch.float64),
        text=text,
        mask=mask,
        pooled=pooled.float(),
        given=given,
        sound=None if sound is None else sound.float(),
    )


def padded(texts: Sequence[TextStates]) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, L, D), mask (B, L) True where there is text, pooled (B, P). L is at least 1."""
    lengths = torch.tensor([len(one.states) for one in texts])
    states = pad_sequence([one.states.float() for one in texts], batch_first=True)
    if states.shape[1] == 0:
        states = states.new_zeros(states.shape[0], 1, states.shape[2])
    mask = torch.arange(states.shape[1])[None] < lengths[:, None]
    return states, mask, torch.stack([one.pooled.float() for one in texts])


def behind(image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Text (B, L, D) and its mask behind an image's tokens (B, M, D)."""
    joined, joined_mask = put_image_first(image, text, mask)
    assert joined_mask is not None
    return joined, joined_mask


def no_text(like: TextStates) -> TextStates:
    """The text of an unconditional sample: no token, and a pooled vector of zeros."""
    return TextStates(like.states[:0], torch.zeros_like(like.pooled))
