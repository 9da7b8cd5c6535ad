"""Names and layouts of published weights: HunyuanVideo's released checkpoint (ours) <-> diffusers' class.

Ours fuses q, k, v (and the MLP's first layer in single blocks) into one matrix; diffusers keeps them apart, and stores
the last modulation as scale, shift instead of shift, scale. Both directions copy values and compute nothing, so a round
trip is exact to the bit. In the tables, `#` is the number of a block.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

_REFINER = ("txt_in.individual_token_refiner.blocks.#.", "context_embedder.token_refiner.refiner_blocks.#.")
_EMBED = "context_embedder.time_text_embed."

RENAMED: dict[str, str] = {
    "img_in.proj": "x_embedder.proj",
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": _EMBED + "timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": _EMBED + "timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": _EMBED + "text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": _EMBED + "text_embedder.linear_2",
    _REFINER[0] + "norm1": _REFINER[1] + "norm1",
    _REFINER[0] + "norm2": _REFINER[1] + "norm2",
    _REFINER[0] + "self_attn_proj": _REFINER[1] + "attn.to_out.0",
    _REFINER[0] + "mlp.fc1": _REFINER[1] + "ff.net.0.proj",
    _REFINER[0] + "mlp.fc2": _REFINER[1] + "ff.net.2",
    _REFINER[0] + "adaLN_modulation.1": _REFINER[1] + "norm_out.linear",
    "double_blocks.#.img_mod.linear": "transformer_blocks.#.norm1.linear",
    "double_blocks.#.img_attn_q_norm": "transformer_blocks.#.attn.norm_q",
    "double_blocks.#.img_attn_k_norm": "transformer_blocks.#.attn.norm_k",
    "double_blocks.#.img_attn_proj": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.img_mlp.fc1": "transformer_blocks.#.ff.net.0.proj",
    "double_blocks.#.img_mlp.fc2": "transformer_blocks.#.ff.net.2",
    "double_blocks.#.txt_mod.linear": "transformer_blocks.#.norm1_context.linear",
    "double_blocks.#.txt_attn_q_norm": "transformer_blocks.#.attn.norm_added_q",
    "double_blocks.#.txt_attn_k_norm": "transformer_blocks.#.attn.norm_added_k",
    "double_blocks.#.txt_attn_proj": "transformer_blocks.#.attn.to_add_out",
    "double_blocks.#.txt_mlp.fc1": "transformer_blocks.#.ff_context.net.0.proj",
    "double_blocks.#.txt_mlp.fc2": "transformer_blocks.#.ff_context.net.2",
    "single_blocks.#.modulation.linear": "single_transformer_blocks.#.norm.linear",
    "single_blocks.#.q_norm": "single_transformer_blocks.#.attn.norm_q",
    "single_blocks.#.k_norm": "single_transformer_blocks.#.attn.norm_k",
    "single_blocks.#.linear2": "single_transformer_blocks.#.proj_out",
    "final_layer.linear": "proj_out",
}

# One of our matrices is several of theirs, stacked along the first axis: width rows each, the rest to the last.
FUSED: dict[str, tuple[str, ...]] = {
    _REFINER[0] + "self_attn_qkv": tuple(_REFINER[1] + f"attn.to_{one}" for one in "qkv"),
    "double_blocks.#.img_attn_qkv": tuple(f"transformer_blocks.#.attn.to_{one}" for one in "qkv"),
    "double_blocks.#.txt_attn_qkv": tuple(f"transformer_blocks.#.attn.add_{one}_proj" for one in "qkv"),
    "single_blocks.#.linear1": (
        *(f"single_transformer_blocks.#.attn.to_{one}" for one in "qkv"),
        "single_transformer_blocks.#.proj_mlp",
    ),
}

# Two halves in the other order.
SWAPPED: dict[str, str] = {"final_layer.adaLN_modulation.1": "norm_out.linear"}


def to_diffusers(state: State) -> State:
    """Weights under our (the released) names -> under those of HunyuanVideoTransformer3DModel.

    Raises ValueError naming the keys that belong to no HunyuanVideo transformer.
    """
    width = _width(state, "img_in.proj.bias")
    result: State = {}
    for key, value in state.items():
        pattern, number, kind = _parts(key)
        if pattern in RENAMED:
            result[_key(RENAMED[pattern], number, kind)] = value
        elif pattern in SWAPPED:
            result[_key(SWAPPED[pattern], number, kind)] = _swap(value)
        elif pattern in FUSED:
            names = FUSED[pattern]
            sizes = [width] * (len(names) - 1) + [value.shape[0] - width * (len(names) - 1)]
            for name, piece in zip(names, value.split(sizes), strict=True):
                result[_key(name, number, kind)] = piece.clone()
        else:
            raise ValueError(f"{key}: not a name of the released HunyuanVideo transformer")
    return result


def from_diffusers(state: State) -> State:
    """The inverse of `to_diffusers`. Raises ValueError naming keys that are unknown or that miss their neighbours."""
    left, result = dict(state), {}
    for key in state:
        pattern, number, kind = _parts(key)
        if key not in left:
            continue  # taken already, as a piece of a fused matrix
        if pattern in _OURS_RENAMED:
            result[_key(_OURS_RENAMED[pattern], number, kind)] = left.pop(key)
        elif pattern in _OURS_SWAPPED:
            result[_key(_OURS_SWAPPED[pattern], number, kind)] = _swap(left.pop(key))
        elif pattern in _OURS_FUSED:
            ours = _OURS_FUSED[pattern]
            pieces = [_key(name, number, kind) for name in FUSED[ours]]
            if missing := [name for name in pieces if name not in left]:
                raise ValueError(f"{key}: belongs together with {', '.join(missing)}, which are not there")
            result[_key(ours, number, kind)] = torch.cat([left.pop(name) for name in pieces])
        else:
            raise ValueError(f"{key}: not a name of diffusers' HunyuanVideoTransformer3DModel")
    return result


def diffusers_config(size: dict[str, Any], image_condition_type: str | None = None) -> dict[str, Any]:
    """A size (model/sizes.py) -> the arguments of HunyuanVideoTransformer3DModel."""
    patch_t, patch_h, patch_w = size["patch"]
    if patch_h != patch_w:
        raise ValueError(f"diffusers knows square patches only, got {size['patch']}")
    return {
        "in_channels": size["in_channels"],
        "out_channels": size["out_channels"],
        "num_attention_heads": size["heads"],
        "attention_head_dim": size["width"] // size["heads"],
        "num_layers": size["double_blocks"],
        "num_single_layers": size["single_blocks"],
        "num_refiner_layers": size["refiner_blocks"],
        "mlp_ratio": size["mlp_ratio"],
        "patch_size": patch_h,
        "patch_size_t": patch_t,
        "guidance_embeds": size["guidance"],
        "text_embed_dim": size["text_width"],
        "pooled_projection_dim": size["pooled_width"],
        "rope_theta": size["rope_theta"],
        "rope_axes_dim": tuple(size["rope_axes"]),
        "image_condition_type": image_condition_type,
    }


def size_of(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of HunyuanVideoTransformer3DModel (its config.json) -> a size: the inverse of diffusers_config."""
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "width": config["num_attention_heads"] * config["attention_head_dim"],
        "heads": config["num_attention_heads"],
        "double_blocks": config["num_layers"],
        "single_blocks": config["num_single_layers"],
        "refiner_blocks": config["num_refiner_layers"],
        "mlp_ratio": config["mlp_ratio"],
        "rope_axes": tuple(config["rope_axes_dim"]),
        "rope_theta": config["rope_theta"],
        "patch": (config["patch_size_t"], config["patch_size"], config["patch_size"]),
        "text_width": config["text_embed_dim"],
        "pooled_width": config["pooled_projection_dim"],
        "guidance": config["guidance_embeds"],
    }


_OURS_RENAMED = {theirs: ours for ours, theirs in RENAMED.items()}
_OURS_SWAPPED = {theirs: ours for ours, theirs in SWAPPED.items()}
_OURS_FUSED = {piece: ours for ours, pieces in FUSED.items() for piece in pieces}
_BLOCKS = re.compile(r"blocks\.(\d+)\.")


def _parts(key: str) -> tuple[str, str, str]:
    """`single_blocks.7.linear1.bias` -> (`single_blocks.#.linear1`, `7`, `bias`)."""
    module, _, kind = key.rpartition(".")
    found = _BLOCKS.search(module)
    return _BLOCKS.sub("blocks.#.", module, count=1), found[1] if found else "", kind


def _key(pattern: str, number: str, kind: str) -> str:
    return f"{pattern.replace('#', number)}.{kind}"


def _swap(value: Tensor) -> Tensor:
    first, second = value.chunk(2)
    return torch.cat((second, first))


def _width(state: State, key: str) -> int:
    if key not in state:
        raise ValueError(f"{key} is not there: these are not the weights of a HunyuanVideo transformer")
    return state[key].shape[0]
