"""The start that hands its input on: what comes out, for which networks, and that training begins lower with it."""

from __future__ import annotations

import pytest
import torch

from model.sizes import SIZES
from pipelines import Image2Video, RecipeError
from train.flow import mix, network_time, velocity
from train.network import begin
from train.stages import Widths, build

WIDTHS = Widths(16, 128, 128)


def fed(model: torch.nn.Module, x: torch.Tensor, t: float, seed: int = 0) -> torch.Tensor:
    """The velocity of a network with a text that it has never seen."""
    drawn = torch.Generator().manual_seed(seed)
    text, pooled = torch.randn(len(x), 7, 128, generator=drawn), torch.randn(len(x), 128, generator=drawn)
    return model(x, network_time(torch.full((len(x),), t)), text, None, pooled)


def root_mean_square(x: torch.Tensor) -> torch.Tensor:
    """Of each 2 x 2 patch with all its channels, at every px of it."""
    squares = torch.nn.functional.avg_pool3d(x.square().mean(1, keepdim=True), (1, 2, 2))
    return squares.sqrt().repeat_interleave(2, 3).repeat_interleave(2, 4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def test_the_velocity_is_the_input_at_every_time_and_text() -> None:
    model = build(SIZES["tiny"], WIDTHS, 3, start="identity")
    x = noise(2, 16, 2, 6, 8)
    for t in (0.0, 0.4, 1.0):
        torch.testing.assert_close(fed(model, x, t), x / root_mean_square(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fed(model, 7 * x, 0.5), fed(model, x, 0.5, seed=1), atol=1e-4, rtol=1e-4)


def test_the_loss_of_pure_noise_begins_at_the_data_s_own_variance() -> None:
    data, drawn = 0.8 * noise(4, 16, 1, 16, 16).roll(1, 0), noise(4, 16, 1, 16, 16)
    target = velocity(data, drawn)
    losses = {}
    for start in ("scratch", "identity"):
        model = build(SIZES["tiny"], WIDTHS, 0, start=start)
        x = mix(data, drawn, torch.ones(4))
        losses[start] = float((fed(model, x, 1.0) - target).square().mean().detach())
    assert losses["scratch"] == pytest.approx(1.64, abs=0.05)
    assert losses["identity"] == pytest.approx(0.64, abs=0.05)


def test_seeds_decide_and_all_else_stays_as_it_was() -> None:
    one, same, other = (build(SIZES["tiny"], WIDTHS, seed, start="identity") for seed in (1, 1, 2))
    plain = build(SIZES["tiny"], WIDTHS, 1)
    changed = [name for name, held in one.state_dict().items() if not torch.equal(held, plain.state_dict()[name])]
    assert changed == ["img_in.proj.weight", "final_layer.linear.weight"]
    for name in changed:
        assert torch.equal(one.state_dict()[name], same.state_dict()[name])
        assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_further_input_channels_have_no_part() -> None:
    model = build(SIZES["tiny"], WIDTHS, 0, images=Image2Video(variant="concat_mask"), start="identity")
    x = noise(1, 33, 1, 4, 4)
    changed = x.clone()
    changed[:, 16:] += 1
    assert torch.equal(fed(model, x, 0.5), fed(model, changed, 0.5))


def test_a_width_that_holds_no_patch_is_told() -> None:
    narrow = SIZES["tiny"] | {"width": 64, "rope_axes": (8, 12, 12)}
    with pytest.raises(RecipeError, match="greater than a patch of 64 numbers"):
        build(narrow, WIDTHS, 0, start="identity")


@pytest.mark.parametrize("more", [{}, {"guidance": True, "ofs": True, "in_channels": 33}])
@pytest.mark.parametrize("start", [None, "identity"])
def test_weights_drawn_one_by_one_are_those_of_the_constructor(start: str | None, more: dict) -> None:
    whole = build(SIZES["tiny"] | more, WIDTHS, 3, start=start).state_dict()
    drawn = {name: torch.full_like(one, torch.nan) for name, one in whole.items()}
    before = torch.get_rng_state()
    begin(build(SIZES["tiny"] | more, WIDTHS, 3, meta=True), 3, start, drawn)
    assert all(torch.equal(drawn[name], one) for name, one in whole.items())
    assert torch.equal(before, torch.get_rng_state())  # nobody else's numbers are used up
