"""Our transformer against diffusers' class on the same random weights: the independent reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.convert import from_diffusers
from tests.model_reference import SMALL, inputs, ours, reference_output, theirs

CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int], tuple[int, ...]]] = {
    "text-to-video": ({}, (3, 6, 4), (7, 7)),
    "one image": ({}, (1, 4, 8), (5,)),
    "texts of different lengths": ({}, (2, 4, 6), (3, 9, 1)),
    "guidance": ({"guidance": True}, (2, 4, 4), (6, 2)),
    "temporal patch 2": ({"patch": (2, 2, 2)}, (4, 4, 6), (5, 8)),
    "one block of each": ({"double_blocks": 1, "single_blocks": 1, "refiner_blocks": 1}, (2, 6, 2), (4,)),
    "wide": ({"width": 64, "heads": 4, "mlp_ratio": 4.0, "double_blocks": 1}, (2, 8, 8), (6, 5)),
    "32 channels": ({"in_channels": 8}, (2, 4, 4), (5, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_diffusers(case: str) -> None:
    change, shape, lengths = CASES[case]
    size = SMALL | change
    model = ours(size)
    reference = theirs(model, size)
    given = inputs(size, shape, lengths, padded=12)

    mine, other = model(**given), reference_output(reference, given)
    assert other.std() > 0.1, "a reference that answers nothing would prove nothing"
    assert (mine - other).abs().max() <= 1e-5

    target = torch.randn_like(mine)
    ((mine - target) ** 2).mean().backward()
    ((other - target) ** 2).mean().backward()
    grads = from_diffusers({name: weight.grad for name, weight in reference.named_parameters()})
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-2
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad - grads[name]).abs().max() <= 1e-4, name


@pytest.mark.parametrize("t", [0.0, 999.9])
def test_ends_of_time_equal_diffusers(t: float) -> None:
    size = SMALL | {"guidance": True}
    model = ours(size)
    given = inputs(size, (2, 4, 4), (4, 6)) | {"t": torch.full((2,), t)}
    assert (model(**given) - reference_output(theirs(model, size), given)).abs().max() <= 1e-5
