"""Text encoders: captions -> states of their valid tokens and one pooled vector.

`bytes` is built in and needs no weights; anything else is the path of a transformers folder.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch


class TextStates(NamedTuple):
    """states (L, D): one row per valid token, no padding; pooled (P,)."""

    states: torch.Tensor
    pooled: torch.Tensor


class TextEncoder(Protocol):
    """What the cache asks of an encoder. settings(): everything that changes a byte of what encode returns."""

    width: int
    pooled_width: int

    def encode(self, texts: list[str]) -> list[TextStates]: ...

    def settings(self) -> dict[str, Any]: ...
