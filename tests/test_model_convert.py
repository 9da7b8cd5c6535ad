"""Names of published weights: strict loading, and round trips that are exact to the bit."""

from __future__ import annotations

import pytest
import torch

from compat import mend_torchvision
from model.comfyui import from_comfyui, to_comfyui
from model.convert import diffusers_config, from_diffusers, size_of, to_diffusers
from model.dit import DiT
from model.sizes import SIZES
from tests.model_reference import SMALL, ours

# The released checkpoint's names and shapes, as its model class makes them: a few of each kind, written down by hand.
RELEASED = {
    "img_in.proj.weight": (3072, 16, 1, 2, 2),
    "txt_in.input_embedder.weight": (3072, 4096),
    "txt_in.t_embedder.mlp.0.weight": (3072, 256),
    "txt_in.t_embedder.mlp.2.bias": (3072,),
    "txt_in.c_embedder.linear_1.weight": (3072, 4096),
    "txt_in.c_embedder.linear_2.weight": (3072, 3072),
    "txt_in.individual_token_refiner.blocks.1.norm1.weight": (3072,),
    "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight": (9216, 3072),
    "txt_in.individual_token_refiner.blocks.1.self_attn_proj.bias": (3072,),
    "txt_in.individual_token_refiner.blocks.1.mlp.fc1.weight": (12288, 3072),
    "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight": (6144, 3072),
    "time_in.mlp.0.weight": (3072, 256),
    "vector_in.in_layer.weight": (3072, 768),
    "vector_in.out_layer.weight": (3072, 3072),
    "guidance_in.mlp.2.weight": (3072, 3072),
    "double_blocks.19.img_mod.linear.weight": (18432, 3072),
    "double_blocks.19.img_attn_qkv.weight": (9216, 3072),
    "double_blocks.19.img_attn_q_norm.weight": (128,),
    "double_blocks.19.img_attn_proj.weight": (3072, 3072),
    "double_blocks.19.img_mlp.fc1.weight": (12288, 3072),
    "double_blocks.19.txt_attn_k_norm.weight": (128,),
    "double_blocks.19.txt_mlp.fc2.weight": (3072, 12288),
    "single_blocks.39.linear1.weight": (21504, 3072),
    "single_blocks.39.linear2.weight": (3072, 15360),
    "single_blocks.39.q_norm.weight": (128,),
    "single_blocks.39.modulation.linear.weight": (9216, 3072),
    "final_layer.linear.weight": (64, 3072),
    "final_layer.adaLN_modulation.1.weight": (6144, 3072),
}


def test_names_and_shapes_are_the_released_ones() -> None:
    with torch.device("meta"):
        state = DiT(**SIZES["hunyuan-13b-guidance"]).state_dict()
    assert {name: tuple(state[name].shape) for name in RELEASED} == RELEASED


@pytest.mark.parametrize("size", ["hunyuan-13b", "hunyuan-13b-guidance", "tiny"])
def test_full_sizes_load_strictly_in_diffusers_and_back(size: str) -> None:
    mend_torchvision()
    from diffusers import HunyuanVideoTransformer3DModel  # heavy: only where it is used

    with torch.device("meta"):
        mine = DiT(**SIZES[size])
        other = HunyuanVideoTransformer3DModel(**diffusers_config(SIZES[size]))
        other.load_state_dict(to_diffusers(mine.state_dict()), strict=True, assign=True)
        mine.load_state_dict(from_diffusers(other.state_dict()), strict=True, assign=True)
    assert size_of(dict(other.config)) == SIZES[size]


@pytest.mark.parametrize("guidance", [False, True])
def test_round_trips_are_equal_to_the_bit(guidance: bool) -> None:
    state = ours(SMALL | {"guidance": guidance}).state_dict()
    for there, back in ((to_diffusers, from_diffusers), (to_comfyui, from_comfyui)):
        again = back(there(state))
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)
    theirs = to_diffusers(state)
    assert all(torch.equal(value, theirs[name]) for name, value in to_diffusers(from_diffusers(theirs)).items())


def test_comfyui_names() -> None:
    state = ours(SMALL | {"guidance": True}).state_dict()
    names = set(to_comfyui(state))
    assert {
        "model.model.time_in.in_layer.weight",
        "model.model.txt_in.t_embedder.out_layer.bias",
        "model.model.txt_in.c_embedder.in_layer.weight",
        "model.model.txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight",
        "model.model.txt_in.individual_token_refiner.blocks.0.mlp.0.weight",
        "model.model.double_blocks.0.img_attn.norm.query_norm.scale",
        "model.model.double_blocks.0.txt_mlp.2.bias",
        "model.model.double_blocks.0.img_mod.lin.weight",
        "model.model.single_blocks.0.norm.key_norm.scale",
        "model.model.single_blocks.0.modulation.lin.weight",
    } <= names


def test_strangers_and_halves_are_named() -> None:
    state = ours(SMALL).state_dict()
    with pytest.raises(ValueError, match=r"extra\.weight"):
        to_diffusers(state | {"extra.weight": torch.zeros(1)})
    theirs = to_diffusers(state)
    del theirs["transformer_blocks.0.attn.to_k.bias"]
    with pytest.raises(ValueError, match=r"to_k\.bias"):
        from_diffusers(theirs)
    with pytest.raises(ValueError, match="img_in"):
        to_diffusers({})
