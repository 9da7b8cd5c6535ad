"""Joint attention of video and text tokens.

Shapes: B batch, S tokens (video, then text), L text tokens, H heads, K channels of a head, D = H * K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


class RMSNorm(nn.Module):
    """Divide the last axis by its root mean square, times a learned weight (K,). Statistics in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPS)


def split_heads(qkv_BSX: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fused projection (B, S, 3 D), in the order q, k, v -> three views (B, S, H, K)."""
    q, k, v = qkv_BSX.unflatten(-1, (3, heads, -1)).unbind(2)
    return q, k, v


def attend(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, (B, S, H, K) each -> (B, S, D).

    mask: bool, broadcast to (B, H, S, S), True where a query may look; None lets the fast kernels run.
    """
    q, k, v = (one.transpose(1, 2) for one in (q_BSHK, k_BSHK, v_BSHK))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def crop_text(text_BLD: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Cut padding that no sample of the batch needs; the mask is None where no padding is left.

    mask: bool, True for the first tokens of each row (a prefix). A row without any text is allowed: one padded
    token stays, masked, when the whole batch has no text.
    """
    if mask_BL is None:
        return text_BLD, None
    lengths = mask_BL.sum(dim=1)
    shortest, longest = int(lengths.min()), max(int(lengths.max()), 1)
    text_BLD, mask_BL = text_BLD[:, :longest], mask_BL[:, :longest].bool()
    return text_BLD, None if shortest == longest else mask_BL


def key_mask(text_mask_BL: Tensor | None, video_tokens: int) -> Tensor | None:
    """Mask (B, 1, 1, S) under which padded text is not looked at; None when nothing is padded."""
    return None if text_mask_BL is None else F.pad(text_mask_BL, (video_tokens, 0), value=True)[:, None, None]
