"""Text encoders: captions -> states of their valid tokens and one pooled vector.

`bytes` is built in and needs no weights; anything else is the path of a transformers folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch


class TextStates(NamedTuple):
    """states (L, D): one row per valid token, no padding; pooled (P,)."""

    states: torch.Tensor
    pooled: torch.Tensor


class TextEncoder(Protocol):
    """What the cache asks of an encoder. image: the caption is of an image (its template may be another one);
    settings(): everything that changes a byte of what encode returns."""

    width: int
    pooled_width: int

    def encode(self, texts: list[str], image: bool = False) -> list[TextStates]: ...

    def settings(self) -> dict[str, Any]: ...


class TextSpec(NamedTuple):
    """text: `bytes`, or the path or hub name of a transformers folder; pooled: that of a CLIP text model, or None for
    the mean of the states; length: valid tokens at most; layer: of a decoder's hidden states, counted from the end (1
    is the last; HunyuanVideo takes 3); template, image_template: text with `{}` where the caption goes; precision: the
    dtype the networks compute in."""

    text: str = "bytes"
    pooled: str | None = None
    length: int = 256
    layer: int = 3
    template: str | None = None
    image_template: str | None = None
    precision: str = "float32"


class Several:
    """Equal encoders on several devices, which share out what is to be encoded."""

    def __init__(self, encoders: Sequence[TextEncoder]):
        self._encoders = encoders
        self.width, self.pooled_width = encoders[0].width, encoders[0].pooled_width
        self._pool = ThreadPoolExecutor(len(encoders), thread_name_prefix="texts")

    def encode(self, texts: list[str], image: bool = False) -> list[TextStates]:
        each = -(-len(texts) // len(self._encoders))
        parts = [texts[start : start + each] for start in range(0, len(texts), each)] if texts else []
        found = self._pool.map(lambda one, part: one.encode(part, image), self._encoders, parts)
        return [states for part in found for states in part]

    def settings(self) -> dict[str, Any]:
        return self._encoders[0].settings()


def encoder_settings(spec: TextSpec) -> dict[str, Any]:
    """What load_text(...).settings() says, without loading weights. Raises MissingWeights."""
    if spec.text == "bytes":
        from model import bytes_text

        return bytes_text.settings(spec.length)
    from model import transformers_text

    return transformers_text.settings(spec)


def load_text(text: str = "bytes", pooled: str | None = None, length: int = 256, template: str | None = None,
              device: torch.device | str = "cpu", precision: str = "float32", layer: int = 3,
              image_template: str | None = None) -> TextEncoder:  # fmt: skip
    """The encoder of a TextSpec. Raises MissingWeights."""
    return load_spec(TextSpec(text, pooled, length, layer, template, image_template, precision), device)


def load_spec(spec: TextSpec, device: torch.device | str = "cpu") -> TextEncoder:
    """Raises MissingWeights."""
    if spec.text == "bytes":
        from model.bytes_text import BytesText

        return BytesText(spec.length)
    from model.transformers_text import TransformersText

    return TransformersText(spec, device)
