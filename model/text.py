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


def encoder_settings(spec: str, pooled: str | None, length: int, template: str | None) -> dict[str, Any]:
    """What load_text(...).settings() says, without loading weights. Raises MissingWeights."""
    if spec == "bytes":
        from model import bytes_text

        return bytes_text.settings(length)
    from model import transformers_text

    return transformers_text.settings(spec, pooled, length, template)


def load_text(spec: str, pooled: str | None = None, length: int = 256, template: str | None = None,
              device: torch.device | str = "cpu", precision: str = "float32") -> TextEncoder:  # fmt: skip
    """spec: `bytes`, or the path or hub name of a transformers folder; pooled: that of a CLIP text model, or None for
    the mean of the states; length: valid tokens at most; template: text with `{}` where the caption goes.

    Raises MissingWeights.
    """
    if spec == "bytes":
        from model.bytes_text import BytesText

        return BytesText(length)
    from model.transformers_text import TransformersText

    return TransformersText(spec, pooled, length, template, device, precision)
