"""The two kinds of transformer block, and the last layer.

Module names are those of the released checkpoint. Shapes: B batch, N video tokens, L text tokens, D width, G groups of
video tokens that share one modulation (1, or one for each frame), X whatever a fused layer gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention import RMSNorm, attend
from model.checkpointing import Checkpointed
from model.fused import Stream, joined_heads, linear_joined, linear_split, norm_modulate


class Modulation(nn.Module):
    """Condition (B, G, D) -> `parts` tensors (B, G, D). Starts at zero: a new block is the identity."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, vec_BGD: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(vec_BGD)).chunk(self.parts, dim=-1)


class MLP(nn.Module):
    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def gated(x_BND: Tensor, gate_BGD: Tensor, update_BND: Tensor) -> Tensor:
    """x + gate * update; the N tokens are G equal runs, one gate each."""
    if gate_BGD.shape[1] == 1:
        return torch.addcmul(x_BND, gate_BGD, update_BND)
    runs = (gate_BGD.shape[1], -1)
    return torch.addcmul(x_BND.unflatten(1, runs), gate_BGD[:, :, None], update_BND.unflatten(1, runs)).flatten(1, 2)


class DoubleBlock(Checkpointed):
    """Video and text with weights of their own, meeting in one attention."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.img_mod = Modulation(width, 6)
        self.img_attn_qkv = nn.Linear(width, 3 * width)
        self.img_attn_q_norm = RMSNorm(width // heads)
        self.img_attn_k_norm = RMSNorm(width // heads)
        self.img_attn_proj = nn.Linear(width, width)
        self.img_mlp = MLP(width, mlp_width)

        self.txt_mod = Modulation(width, 6)
        self.txt_attn_qkv = nn.Linear(width, 3 * width)
        self.txt_attn_q_norm = RMSNorm(width // heads)
        self.txt_attn_k_norm = RMSNorm(width // heads)
        self.txt_attn_proj = nn.Linear(width, width)
        self.txt_mlp = MLP(width, mlp_width)

    def compute(
        self, img: Tensor, txt: Tensor, img_vec: Tensor, txt_vec: Tensor, table: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """img (B, N, D), txt (B, L, D), img_vec (B, G, D), txt_vec (B, 1, D), table (N + L, P, 2) -> img, txt."""
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = self.img_mod(img_vec)
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = self.txt_mod(txt_vec)

        img_qkv = self.img_attn_qkv(norm_modulate(img, img_shift1, img_scale1))
        txt_qkv = self.txt_attn_qkv(norm_modulate(txt, txt_shift1, txt_scale1))
        img_stream = Stream(img_qkv, self.img_attn_q_norm, self.img_attn_k_norm)
        txt_stream = Stream(txt_qkv, self.txt_attn_q_norm, self.txt_attn_k_norm)
        q, k, v = joined_heads(table, self.heads, (img_stream, txt_stream))
        img_attn, txt_attn = attend(q, k, v, mask).split((img.shape[1], txt.shape[1]), dim=1)

        img = gated(img, img_gate1, self.img_attn_proj(img_attn))
        img = gated(img, img_gate2, self.img_mlp(norm_modulate(img, img_shift2, img_scale2)))
        txt = gated(txt, txt_gate1, self.txt_attn_proj(txt_attn))
        txt = gated(txt, txt_gate2, self.txt_mlp(norm_modulate(txt, txt_shift2, txt_scale2)))
        return img, txt


class SingleBlock(Checkpointed):
    """Video and text under the same weights, behind one another; attention and MLP side by side in two fused layers."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Modulation(width, 3)
        self.linear1 = nn.Linear(width, 3 * width + mlp_width)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.linear2 = nn.Linear(width + mlp_width, width)

    def compute(
        self, x: Tensor, video: int, img_vec: Tensor, txt_vec: Tensor, table: Tensor, mask: Tensor | None
    ) -> Tensor:
        """x (B, S, D), the first `video` of the S tokens being those of the video, img_vec (B, G, D), txt_vec (B, 1, D),
        table (S, P, 2) -> x."""
        streams = [img_vec] if img_vec is txt_vec else [img_vec, txt_vec]
        parts = [x] if img_vec is txt_vec else x.split((video, x.shape[1] - video), dim=1)
        shifts, scales, gates = zip(*(self.modulation(vec) for vec in streams))
        normed = joined([norm_modulate(*one) for one in zip(parts, shifts, scales)])

        width = x.shape[-1]
        qkv, hidden = linear_split(self.linear1, normed, (3 * width, self.linear1.out_features - 3 * width))
        q, k, v = joined_heads(table, self.heads, [Stream(qkv, self.q_norm, self.k_norm)])
        update = linear_joined(self.linear2, attend(q, k, v, mask), F.gelu(hidden, approximate="tanh"))
        updates = [update] if img_vec is txt_vec else update.split((video, x.shape[1] - video), dim=1)
        return joined([gated(*one) for one in zip(parts, gates, updates)])


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts of a sequence, one behind the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=1)


class FinalLayer(nn.Module):
    """Tokens (B, N, D) -> (B, N, out). The order of its modulation is shift, scale."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vec_B1D: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec_B1D).chunk(2, dim=-1)
        return self.linear(norm_modulate(x, shift, scale))
