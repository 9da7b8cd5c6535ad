"""Image-to-video variants: against diffusers' classes and pipeline, and by what must be zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compat import mend_torchvision
from model.conditioning import (
    VARIANTS,
    concat,
    concat_mask,
    cut_front,
    drop_image,
    extra_frames,
    image_scaling,
    image_tokens,
    pad_front,
    put_image_first,
    text_to_video,
    token_replace,
    widen_input,
)
from tests.model_reference import SMALL, inputs, ours, reference_output, theirs

SHAPES = {"clip": (3, 4, 6), "square": (2, 4, 4), "one frame": (1, 4, 8)}


def image_and_noise(shape: tuple[int, int, int], batch: int = 2, channels: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(batch, channels, 1, *shape[1:], generator=generator)
    return image, torch.randn(batch, channels, *shape, generator=generator)


CLIPS = {name: shape for name, shape in SHAPES.items() if shape[0] > 1}


@pytest.mark.parametrize("shape", CLIPS.values(), ids=CLIPS)
def test_token_replace_equals_diffusers(shape: tuple[int, int, int]) -> None:
    size = SMALL | {"guidance": True}
    model = ours(size)
    given = inputs(size, shape, (4, 7))
    image, noisy = image_and_noise(shape)
    x, t, _ = token_replace(noisy, image, given["t"])
    mine = model(**(given | {"x": x, "t": t}))
    other = reference_output(theirs(model, size, "token_replace"), given | {"x": x})
    assert (mine - other).abs().max() <= 1e-5
    assert (mine - model(**(given | {"x": x}))).abs().max() > 1e-2, "frame 0 must stand at a time of its own"


def test_a_lone_given_frame_stands_at_time_0() -> None:
    """diffusers would have it stand at t, which no frame of it does."""
    image, noisy = image_and_noise((1, 4, 4))
    x, t, counts = token_replace(noisy, image, torch.tensor([0.3, 0.8]))
    assert torch.equal(x, image) and not t.any() and not counts.any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_latent_concat_equals_diffusers(shape: tuple[int, int, int]) -> None:
    size = SMALL | {"in_channels": 9}
    model = ours(size)
    given = inputs(size, shape, (5, 2))
    image, noisy = image_and_noise(shape)
    x, t, _ = concat_mask(noisy, image, given["t"])
    assert x.shape[1] == 9
    assert torch.equal(x[:, 8, 0], torch.ones_like(x[:, 8, 0])) and not x[:, 4:, 1:].any()
    other = reference_output(theirs(model, size, "latent_concat"), given | {"x": x})
    assert (model(**(given | {"x": x, "t": t})) - other).abs().max() <= 1e-5


def test_concat_equals_diffusers_with_twice_the_channels() -> None:
    size = SMALL | {"in_channels": 8}
    model = ours(size)
    given = inputs(size, (3, 4, 4), (5, 2))
    image, noisy = image_and_noise((3, 4, 4))
    x, t, _ = concat(noisy, image, given["t"])
    other = reference_output(theirs(model, size), given | {"x": x})
    assert (model(**(given | {"x": x, "t": t})) - other).abs().max() <= 1e-5


def test_channels_of_the_published_models() -> None:
    widths = {name: variant.in_channels(16) for name, variant in VARIANTS.items()}
    assert widths == {"token_replace": 16, "concat_mask": 33, "concat": 32, "first_frame_copy": 32}


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_of_frame_0_flows_only_where_the_loss_counts_it(name: str) -> None:
    variant = VARIANTS[name]
    size = SMALL | {"in_channels": variant.in_channels(4)}
    given = inputs(size, (3, 4, 4), (3, 3))
    image, noisy = image_and_noise((3, 4, 4))
    target = torch.zeros_like(noisy).requires_grad_()
    x, t, counts = variant.condition(noisy, image, given["t"])
    error = (ours(size)(**(given | {"x": x, "t": t})) - target)[:, :, counts]
    (gradient,) = torch.autograd.grad(error.square().mean(), target)
    assert bool(gradient[:, :, 0].any()) == (name != "token_replace")
    assert gradient[:, :, 1:].any()


@pytest.mark.parametrize("name", ["concat_mask", "concat"])
def test_widened_weights_start_as_the_text_to_video_model(name: str) -> None:
    before = ours(SMALL)
    channels = VARIANTS[name].in_channels(4)
    after = ours(SMALL | {"in_channels": channels}, seed=9)
    after.load_state_dict(widen_input(before.state_dict(), channels), strict=True)
    given = inputs(SMALL, (2, 4, 4), (4, 2))
    image, noisy = image_and_noise((2, 4, 4))
    x, t, _ = VARIANTS[name].condition(noisy, image, given["t"])
    plain = text_to_video(noisy, given["t"])
    difference = after(**(given | {"x": x, "t": t})) - before(**(given | {"x": plain.x, "t": plain.t}))
    assert difference.abs().max() <= 1e-6
    with pytest.raises(ValueError, match="at least the 9"):
        widen_input({"img_in.proj.weight": torch.zeros(1, 9, 1, 1, 1)}, 8)


def test_front_padding_reaches_a_multiple_and_is_cut_again() -> None:
    assert [extra_frames(frames, 2) for frames in (1, 20, 21)] == [1, 0, 1]
    assert [extra_frames(frames, 4) for frames in (21, 22, 24)] == [3, 2, 0]  # T % 4 would be 1, 2, 0
    clip = torch.randn(2, 4, 21, 2, 2)
    padded = pad_front(clip, 2)
    assert padded.shape[2] == 22 and torch.equal(padded[:, :, 0], clip[:, :, 0])
    assert torch.equal(cut_front(padded, 21), clip)
    assert concat(padded, clip[:, :, :1], torch.ones(2)).counts.sum() == 22


@pytest.mark.parametrize("how", ["multiply", "divide"])
def test_first_frame_copy_feeds_what_cogvideox_pipeline_feeds(how: str) -> None:
    pipeline = cogvideox(invert_scale_latents=how == "divide")
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fed: list[Tensor] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: fed.append(kwargs["hidden_states"]), with_kwargs=True
    )
    settings: dict[str, Any] = {"prompt_embeds": torch.zeros(1, 8, 8), "guidance_scale": 1.0, "output_type": "latent"}
    pipeline(image=(image + 1) / 2, height=16, width=16, num_frames=81, num_inference_steps=1,
             generator=torch.Generator().manual_seed(1), **settings)  # fmt: skip

    x = fed[0].transpose(1, 2)
    posterior = pipeline.vae.encode(image.unsqueeze(2)).latent_dist
    scale = pipeline.vae.config.scaling_factor
    stored = posterior.sample(torch.Generator().manual_seed(1)) * scale
    mine = concat(pad_front(x[:, :4, 1:], 2), image_scaling(stored, scale, how), torch.ones(1)).x
    assert x.shape == mine.shape == (1, 8, 22, 2, 2)
    assert (x[:, 4:] - mine[:, 4:]).abs().max() <= 1e-5 and mine[:, 4:, 0].abs().max() > 0.1


def cogvideox(invert_scale_latents: bool) -> Any:
    mend_torchvision()
    from diffusers import (  # heavy: only where it is used
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        invert_scale_latents=invert_scale_latents, scaling_factor=0.7,
    )  # fmt: skip
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4, time_embed_dim=4,
        text_embed_dim=8, num_layers=1, sample_width=2, sample_height=2, sample_frames=81, patch_size=2, patch_size_t=2,
        max_text_seq_length=8, use_rotary_positional_embeddings=True, ofs_embed_dim=4,
    )  # fmt: skip
    pipeline = CogVideoXImageToVideoPipeline(None, None, vae, transformer, CogVideoXDDIMScheduler())  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="multiply"):
        image_scaling(torch.zeros(1), 0.7, "sqrt")


def test_image_tokens_come_first_and_the_mask_stays_a_prefix() -> None:
    states = torch.arange(600.0)[None, :, None].expand(2, -1, 3)
    tokens = image_tokens(states, 4)
    assert tokens.shape == (2, 144, 3) and tokens[0, 0, 0] == 5 and tokens[0, -1, 0] == 577
    assert image_tokens(states, 2).shape[1] == 288
    text, mask = torch.zeros(2, 4, 3), torch.tensor([[True, True, False, False], [True] * 4])
    joined, joined_mask = put_image_first(tokens, text, mask)
    assert joined.shape == (2, 148, 3) and joined_mask is not None
    assert joined_mask.sum(dim=1).tolist() == [146, 148] and not joined_mask[0, 146:].any()
    dropped = drop_image(tokens, torch.full((144, 3), -1.0), torch.tensor([True, False]))
    assert (dropped[0] == -1).all() and torch.equal(dropped[1], tokens[1])
    with pytest.raises(ValueError, match="581"):
        image_tokens(states[:, :400], 4)
