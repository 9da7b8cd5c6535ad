"""diffusers' HunyuanVideoTransformer3DModel beside ours, with the same random weights. Used by tests/test_model_*.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compat import mend_torchvision
from model.convert import diffusers_config, to_diffusers
from model.dit import DiT

SMALL: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "width": 32, "heads": 2, "double_blocks": 2, "single_blocks": 2,
    "refiner_blocks": 2, "mlp_ratio": 2.0, "rope_axes": (4, 6, 6), "rope_theta": 256.0, "patch": (1, 2, 2),
    "text_width": 24, "pooled_width": 20, "guidance": False,
}  # fmt: skip


def ours(size: dict[str, Any], seed: int = 0) -> DiT:
    """Our model with every weight random, modulations and output layer too: at their start, zero, all models agree."""
    model = DiT(**size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.15 * torch.randn(weight.shape, generator=generator))
    return model


def theirs(model: DiT, size: dict[str, Any], image_condition_type: str | None = None) -> Any:
    """diffusers' class, loaded strictly with the weights of ours."""
    mend_torchvision()
    from diffusers import HunyuanVideoTransformer3DModel  # heavy: only where it is used

    reference = HunyuanVideoTransformer3DModel(**diffusers_config(size, image_condition_type))
    reference.load_state_dict(to_diffusers(model.state_dict()), strict=True)
    return reference


def inputs(size: dict[str, Any], shape: tuple[int, int, int], lengths: tuple[int, ...], seed: int = 1,
           padded: int | None = None) -> dict[str, Tensor | None]:  # fmt: skip
    """Arguments of our forward for len(lengths) samples: latents of `shape`, texts of those lengths, padded alike."""
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(lengths), padded or max(lengths)
    return {
        "x": torch.randn(batch, size["in_channels"], *shape, generator=generator),
        "t": torch.rand(batch, generator=generator) * 1000,
        "text": torch.randn(batch, longest, size["text_width"], generator=generator),
        "text_mask": torch.arange(longest) < torch.tensor(lengths)[:, None],
        "pooled": torch.randn(batch, size["pooled_width"], generator=generator),
        "guidance": torch.full((batch,), 6000.0) if size["guidance"] else None,
    }


def reference_output(reference: Any, given: dict[str, Tensor | None], t: Tensor | None = None) -> Tensor:
    """diffusers' answer to arguments of our forward."""
    return reference(
        hidden_states=given["x"],
        timestep=given["t"] if t is None else t,
        encoder_hidden_states=given["text"],
        encoder_attention_mask=given["text_mask"],
        pooled_projections=given["pooled"],
        guidance=given["guidance"],
        return_dict=False,
    )[0]
