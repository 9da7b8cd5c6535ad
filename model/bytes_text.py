"""Built-in text states: one per word, made from its bytes by hashing. No weights, no vocabulary, any language.

The stand-in for a language model on machines without one. It knows no meaning, but captions that share words share
states, words that share byte triples have similar ones, and the order is in them: enough for a small network to tell
captions apart and to attend to single words.

Of the 128 numbers of a state 64 are signs drawn from a hash of the word, 48 the sum of signs of its byte triples, 16
sines of its position. The pooled vector sums the signs of words (80) and of neighbouring pairs of words (48).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from model.text import TextStates

WIDTH = 128
POOLED_WIDTH = 128
VERSION = 1
_WORD, _TRIPLES, _POSITION = 64, 48, 16
_BAG, _PAIRS = 80, 48
_TOKEN = re.compile(r"\w+|[^\w\s]", re.UNICODE)


class BytesText:
    """length: how many words count; the rest of a longer text is cut off."""

    width = WIDTH
    pooled_width = POOLED_WIDTH

    def __init__(self, length: int = 256):
        self.length = length

    def encode(self, texts: list[str], image: bool = False) -> list[TextStates]:
        """states (L, 128), L = words <= length; pooled (128,), both float32 of about unit variance. An empty text has
        one state, that of the empty word, so that attention always has something to look at."""
        return [_encode(text, self.length) for text in texts]

    def settings(self) -> dict[str, Any]:
        return settings(self.length)


def settings(length: int) -> dict[str, Any]:
    return {"class": "bytes", "version": VERSION, "length": length, "width": WIDTH, "pooled_width": POOLED_WIDTH}


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return _TOKEN.findall(text.lower())


def _encode(text: str, length: int) -> TextStates:
    found = words(text)[:length] or [""]
    states = torch.stack([torch.cat([_word(word), _place(at)]) for at, word in enumerate(found)])
    pairs = [f"{one} {two}" for one, two in zip(["", *found], [*found, ""])]
    pooled = torch.cat([_sum("bag", found, _BAG), _sum("pair", pairs, _PAIRS)])
    return TextStates(states, pooled)


@lru_cache(maxsize=65536)
def _word(word: str) -> torch.Tensor:
    raw = f"<{word}>".encode()
    triples = [raw[at : at + 3].hex() for at in range(max(1, len(raw) - 2))]
    return torch.cat([_signs("word", word, _WORD), _sum("triple", triples, _TRIPLES)])


def _sum(kind: str, parts: Sequence[str], width: int) -> torch.Tensor:
    """Sum of the parts' signs over sqrt(parts): unit variance whatever their number."""
    return torch.stack([_signs(kind, part, width) for part in parts]).sum(0) / math.sqrt(len(parts))


@lru_cache(maxsize=65536)
def _signs(kind: str, part: str, width: int) -> torch.Tensor:
    """(width,) of -1 and 1, the bits of a hash: different parts are nearly orthogonal."""
    digest = hashlib.blake2b(part.encode(), digest_size=width // 8, person=kind.encode()).digest()
    bits = [digest[at // 8] >> (at % 8) & 1 for at in range(width)]
    return torch.tensor(bits, dtype=torch.float32) * 2 - 1


@lru_cache(maxsize=4096)
def _place(at: int) -> torch.Tensor:
    """Sines and cosines of the position with periods from 4 to 1,000 words, of unit variance."""
    periods = 4.0 * 250.0 ** (torch.arange(_POSITION // 2, dtype=torch.float64) / (_POSITION // 2 - 1))
    angle = 2 * math.pi * at / periods
    return (math.sqrt(2) * torch.cat([angle.sin(), angle.cos()])).float()
