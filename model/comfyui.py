"""ComfyUI's names for HunyuanVideo weights <-> ours. Values are the same; only names differ."""

from __future__ import annotations

import re

from torch import Tensor

PREFIX = "model.model."

# (ours, ComfyUI's) parts of a name, replaced in this order, and in the opposite one on the way back: `mlp.0.` is an
# embedder's layer in our names and a block's in theirs.
_PAIRS = (
    ("_in.mlp.0.", "_in.in_layer."),
    ("_in.mlp.2.", "_in.out_layer."),
    ("t_embedder.mlp.0.", "t_embedder.in_layer."),
    ("t_embedder.mlp.2.", "t_embedder.out_layer."),
    ("c_embedder.linear_1.", "c_embedder.in_layer."),
    ("c_embedder.linear_2.", "c_embedder.out_layer."),
    ("_mod.linear.", "_mod.lin."),
    ("modulation.linear.", "modulation.lin."),
    ("_attn_qkv.", "_attn.qkv."),
    ("_attn_proj.", "_attn.proj."),
    (".q_norm.weight", ".norm.query_norm.scale"),
    (".k_norm.weight", ".norm.key_norm.scale"),
    ("_attn_q_norm.weight", "_attn.norm.query_norm.scale"),
    ("_attn_k_norm.weight", "_attn.norm.key_norm.scale"),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
)


def to_comfyui(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our (the released) names -> under ComfyUI's, prefix included."""
    return {PREFIX + _replace(key, _PAIRS): value for key, value in state.items()}


def from_comfyui(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_comfyui`. Raises ValueError for a key without ComfyUI's prefix."""
    if strangers := [key for key in state if not key.startswith(PREFIX)]:
        raise ValueError(f"{strangers[0]}: a ComfyUI weight starts with {PREFIX}")
    pairs = tuple((theirs, mine) for mine, theirs in reversed(_PAIRS))
    vector_in = re.compile(r"^vector_in\.")  # has in_layer and out_layer under both names
    return {
        name if vector_in.match(name) else _replace(name, pairs): value
        for name, value in ((key.removeprefix(PREFIX), value) for key, value in state.items())
    }


def _replace(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name
