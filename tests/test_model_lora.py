"""Adapters: they change nothing at first, train alone, merge exactly, and load in diffusers without a stray key."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.dit import DiT
from model.lora import add_lora, lora_layers, lora_state, merge_lora, to_comfyui_lora, to_peft
from tests.model_reference import SMALL, inputs, ours, reference_output, theirs

TARGETS = ("qkv", "proj", "linear1", "linear2", "fc1", "mod")


def adapted(targets: tuple[str, ...] = TARGETS) -> DiT:
    """A model whose adapters are no longer zero."""
    model = ours(SMALL)
    add_lora(model, rank=3, alpha=6.0, targets=targets)
    generator = torch.Generator().manual_seed(5)
    for _, layer in lora_layers(model):
        layer.lora_B.data = 0.1 * torch.randn(layer.lora_B.shape, generator=generator)
    return model


def test_new_adapters_change_nothing_and_are_all_that_trains() -> None:
    model, given = ours(SMALL), inputs(SMALL, (2, 4, 4), (4, 2))
    before = model(**given)
    names = add_lora(model, rank=2, alpha=2.0, targets=("qkv", "proj"))
    assert torch.equal(model(**given), before)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"{name}.{part}" for name in names for part in ("lora_A", "lora_B")} == set(lora_state(model))
    assert ours(SMALL).state_dict().keys() == model.state_dict().keys() - trained


def test_merging_gives_the_same_answers_under_the_released_names() -> None:
    model, given = adapted(), inputs(SMALL, (2, 4, 4), (4, 2))
    expected = model(**given)
    assert (expected - ours(SMALL)(**given)).abs().max() > 1e-2
    merge_lora(model)
    assert (model(**given) - expected).abs().max() <= 1e-5
    assert model.state_dict().keys() == ours(SMALL).state_dict().keys()


def test_diffusers_loads_every_key_and_answers_the_same() -> None:
    pytest.importorskip("peft")
    model, given = adapted(), inputs(SMALL, (2, 4, 4), (4, 2))
    reference: Any = theirs(ours(SMALL), SMALL)
    state = to_peft(model)
    reference.load_lora_adapter(dict(state), prefix="transformer")
    loaded = {name.replace(".default_0", "") for name in reference.state_dict() if "lora_" in name}
    assert {f"transformer.{name}" for name in loaded} == set(state)
    assert (model(**given) - reference_output(reference, given)).abs().max() <= 1e-5


def test_comfyui_keys_hold_the_same_change() -> None:
    model = adapted()
    state = to_comfyui_lora(model)
    for name, layer in lora_layers(model):
        up, down = (state[f"diffusion_model.{name}.lora_{part}.weight"] for part in ("up", "down"))
        factor = state[f"diffusion_model.{name}.alpha"] / down.shape[0]
        assert torch.allclose(factor * up @ down, layer.scale * layer.lora_B @ layer.lora_A)
    assert len(state) == 3 * len(list(lora_layers(model)))


def test_a_target_that_names_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="to_q"):
        add_lora(ours(SMALL), rank=2, alpha=2.0, targets=("qkv", "to_q"))
