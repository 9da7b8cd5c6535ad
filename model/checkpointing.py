"""What a block keeps for the backward pass: everything, its input and the attention's result, or its input alone.

The choice is made inside a block's forward: what is compiled holds it, and the gathering of spread weights, which
hangs on the block itself, does not happen a second time in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Tokens = Tensor | tuple[Tensor, Tensor]  # of one stream, or of video and text apart
Compute = Callable[..., Tokens]

_ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
    if hasattr(torch.ops.aten, name)
}


def _keep_attention(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def _plain(compute: Compute, *inputs: Any) -> Tokens:
    return compute(*inputs)


def _selective(compute: Compute, *inputs: Any) -> Tokens:
    contexts = partial(create_selective_checkpoint_contexts, _keep_attention)
    return checkpoint(compute, *inputs, use_reentrant=False, context_fn=contexts)  # type: ignore[return-value]


def _full(compute: Compute, *inputs: Any) -> Tokens:
    return checkpoint(compute, *inputs, use_reentrant=False)  # type: ignore[return-value]


CHECKPOINTING: dict[str, Callable[..., Tokens]] = {"none": _plain, "selective": _selective, "full": _full}


class Checkpointed(torch.nn.Module):
    """A module whose `compute` may be repeated in the backward pass. checkpointing: a key of CHECKPOINTING."""

    checkpointing = "none"
    compute: Compute

    def forward(self, *inputs: Any) -> Tokens:
        return CHECKPOINTING[self.checkpointing](self.compute, *inputs)
