"""Text states of one variant of each sample under each other, padded with zeros to the longest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from cache.blocks import rooms_for
from cache.fingerprint import CacheError
from cache.rows import REPAIR, Column, Plan

NO_TEXT = (0, 0, 0)  # a cut of no state

Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # states (B, L, D), mask (B, L), pooled (B, P)
Chosen = Sequence[int | None]  # of each sample a caption variant, or no text
Variants = Chosen | Callable[[list[int]], Chosen]  # or what chooses, told how many each sample has


class Made(NamedTuple):
    """Padded states of the chosen variants, with the plan of each sample."""

    plans: Sequence[Plan]
    chosen: Chosen
    padded: Padded


class Place(NamedTuple):
    """Where padded states of a batch go, and the bytes of it; of each sample its cut and its length, tokens. token, width,
    row: bytes of a token's state, of a pooled vector, of a sample's padded states."""

    variants: Chosen
    cuts: list[tuple[int, int, int]]
    lengths: list[int]
    tokens: memoryview
    vectors: memoryview
    token: int
    width: int
    row: int
    zeros: memoryview
    padded: Padded

    @classmethod
    def of(cls, plans: Sequence[Plan], variants: Chosen, column: Column, rows: Sequence[int] | np.ndarray) -> Place:
        """Raises CacheError naming one unlike the others."""
        like = plans[0].like
        for i, plan in enumerate(plans):
            if plan.like is not like and plan.like != like:
                raise CacheError(f"{column.name(int(rows[i]))}: its states are not like the others'; {REPAIR}")
        cuts = [NO_TEXT if one is None else plan.cuts[one] for plan, one in zip(plans, variants, strict=True)]
        lengths = [stop - start for start, stop, _ in cuts]
        longest = max(1, *lengths)
        (states, tokens), (pooled, vectors) = rooms_for(
            (((len(cuts), longest, like.width), like.dtype), ((len(cuts), like.pooled_width), like.pooled_dtype))
        )
        token, width = like.width * like.dtype.itemsize, like.pooled_width * like.pooled_dtype.itemsize
        row, mask = longest * token, torch.from_numpy(np.arange(longest) < np.array(lengths)[:, None])
        zeros = _zeros(max(row, width).bit_length())
        return cls(variants, cuts, lengths, tokens, vectors, token, width, row, zeros, (states, mask, pooled))

    def filled(self, plans: Sequence[Plan], maps: Sequence[memoryview], starts: Sequence[int]) -> Padded:
        """Out of maps that hold the samples, from these numbers on."""
        _, _, _, tokens, vectors, token, width, row, zeros, _ = self
        at = put = 0
        for data, first, plan, (begin, _, slot), length in zip(maps, starts, plans, self.cuts, self.lengths):
            begin, vector, size = (
                first + plan.states + begin * token,
                first + plan.pooled + slot * width,
                length * token,
            )
            tokens[at : (end := at + size)] = data[begin : begin + size]
            tokens[end : (at := at + row)] = zeros[: row - size]
            vectors[put : (put := put + width)] = data[vector : vector + width]
        return self.done()

    def done(self) -> Padded:
        """When all is in its place: no text has a pooled vector of zeros."""
        if None in self.variants:
            for i in (i for i, variant in enumerate(self.variants) if variant is None):
                self.vectors[i * self.width : (i + 1) * self.width] = self.zeros[: self.width]
        return self.padded


def chosen_of(variants: Variants, plans: Sequence[Plan]) -> Chosen:
    return list(variants([len(plan.cuts) for plan in plans]) if callable(variants) else variants)


@lru_cache
def _zeros(bits: int) -> memoryview:
    """As many as a number of so many bits can count: few sizes, so that they stay in the processor's cache."""
    return memoryview(bytes(1 << bits))
