"""The network that is trained: what is causal in it, what tiling changes, what an export keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.vae import load_vae
from model.vae_sizes import VAE_SIZES, build_vae, set_tiling
from train import vae_export
from train.vae_check import judge


def awake(seed: int = 0) -> Any:
    """A nano VAE whose residual branches have been woken up: as built they are zero, and tests on zeros say nothing."""
    vae = build_vae("nano", seed).eval()
    chance = torch.Generator().manual_seed(seed)
    for parameter in vae.parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=chance) / parameter[0].numel() ** 0.5)
    return vae


def without_norms(vae: Any) -> Any:
    """Group norms span time, which makes the values of the released network acausal; here they are taken out."""
    for name, module in list(vae.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parent = vae.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    return vae


@torch.no_grad()
def test_convolutions_and_attention_are_causal_with_the_norms_frozen() -> None:
    vae = without_norms(awake())
    video = torch.randn(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(1))
    other = video.clone()
    other[:, :, 5:] += 1.0
    before, after = (vae.encode(one).latent_dist.mean for one in (video, other))
    assert torch.allclose(before[:, :, :2], after[:, :, :2], atol=1e-5)  # latent 1 holds frames 1 to 4
    assert not torch.allclose(before[:, :, 2], after[:, :, 2], atol=1e-3)
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    changed = latents.clone()
    changed[:, :, 2] += 1.0
    before, after = (vae.decode(one).sample for one in (latents, changed))
    assert torch.allclose(before[:, :, :5], after[:, :, :5], atol=1e-5)
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:], atol=1e-3)
    # The first frame alone gives the first latent.
    assert torch.allclose(
        vae.encode(video[:, :, :1]).latent_dist.mean[:, :, 0], vae.encode(video).latent_dist.mean[:, :, 0], atol=1e-5
    )


@torch.no_grad()
def test_its_norms_are_not_causal() -> None:
    """Why frame 0 of a clip's latent is never taken for the latent of its first frame."""
    vae = awake()
    video = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    other = video.clone()
    other[:, :, 4] += 3.0
    first = [vae.encode(one).latent_dist.mean[:, :, 0] for one in (video, other)]
    assert not torch.allclose(*first, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_shapes(frames: int) -> None:
    vae = build_vae("nano", 0)
    video = torch.zeros(1, 3, frames, 32, 48)
    latents = vae.encode(video).latent_dist.mean
    assert latents.shape == (1, 16, (frames - 1) // 4 + 1, 4, 6)
    assert vae.decode(latents).sample.shape == video.shape


@torch.no_grad()
def test_tiling_off_is_one_piece_even_for_long_clips_and_on_is_not() -> None:
    vae = awake()
    video = torch.rand(1, 3, 21, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    whole = vae.encode(video).latent_dist.mean
    assert torch.equal(whole, vae.quant_conv(vae.encoder(video))[:, :16])
    set_tiling(vae, (8, 32))
    tiled = vae.encode(video).latent_dist.mean
    assert tiled.shape == whole.shape and not torch.allclose(tiled, whole, atol=1e-3)
    assert vae.decode(tiled).sample.shape == video.shape
    set_tiling(vae, None)
    assert torch.equal(whole, vae.encode(video).latent_dist.mean)
    with pytest.raises(ValueError, match="multiple of 8 frames"):
        set_tiling(vae, (12, 32))


@torch.no_grad()
def test_tiles_without_norms_and_attention_blend_to_the_whole_inside() -> None:
    """Limit case: a network that sees one frame and one latent pixel around gives the same in tiles."""
    vae = build_vae("nano", 0)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.weight.shape[-1] == 3:
            centre = module.weight[:, :, 2, 1, 1].clone()
            module.weight.zero_()
            module.weight[:, :, 2, 1, 1] = centre
    without_norms(vae)
    video = torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    whole = vae.decode(vae.encode(video).latent_dist.mean).sample
    set_tiling(vae, (16, 32))
    assert torch.allclose(whole, vae.decode(vae.encode(video).latent_dist.mean).sample, atol=1e-4)


@pytest.mark.parametrize("size", ["nano", "small"])
def test_start_weights_come_from_the_seed_alone(size: str) -> None:
    one, other = build_vae(size, 1), build_vae(size, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert not torch.equal(one.encoder.conv_in.conv.weight, build_vae(size, 2).encoder.conv_in.conv.weight)


def test_every_size_has_groups_that_divide_its_widths() -> None:
    for size in VAE_SIZES.values():
        assert all(width % size["norm_num_groups"] == 0 for width in size["block_out_channels"])


@torch.no_grad()
def test_moved_latents_have_mean_zero_and_decode_to_the_same() -> None:
    vae = awake()
    video = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    before = vae.decode(vae.encode(video).latent_dist.mean).sample
    shift, _ = vae_export.latent_moments(vae, [video])
    vae_export.move_latents(vae, shift)
    moved, _ = vae_export.latent_moments(vae, [video])
    assert moved.abs().max() < 1e-5 * max(1.0, float(shift.abs().max()))
    assert torch.allclose(before, vae.decode(vae.encode(video).latent_dist.mean).sample, atol=1e-4)


@torch.no_grad()
def test_an_exported_folder_loads_strictly_and_its_latents_have_unit_variance(tmp_path: Path) -> None:
    vae = awake()
    videos = [torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in range(3)]
    folder = tmp_path / "vae"
    vae_export.export(vae, videos[:1], str(folder), {"step": 1})
    factor = vae_export.export(vae, videos, str(folder), {"step": 2})  # takes the first one's place
    assert json.loads((folder / "training.json").read_text())["step"] == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["vae"]
    from diffusers import AutoencoderKLHunyuanVideo

    theirs, told = AutoencoderKLHunyuanVideo.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert theirs.config.scaling_factor == pytest.approx(factor)
    ours = load_vae(str(folder))
    scaled = torch.cat([ours.encode(video)[0] for video in videos])
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(scaled.pow(2).mean()) == pytest.approx(1.0, abs=1e-3)
    set_tiling(theirs, None)
    made = vae.decode(vae.encode(videos[0]).latent_dist.mean).sample
    assert torch.allclose(ours.decode(ours.encode(videos[0])[0]), made, atol=1e-3)
    assert torch.allclose(theirs(videos[0]).sample, made, atol=1e-3)


def test_judging_gives_the_figures_of_what_is_decoded() -> None:
    vae = awake()
    clips = [
        torch.from_numpy(np.random.default_rng(k).integers(0, 256, (3, 5, 32, 32), dtype=np.uint8)) for k in range(2)
    ]
    found = judge(vae, clips, (8, 16), torch.device("cpu"))
    assert found.clips == 2 and len(found.rows) == 2 and found.rows[0].shape == (32, 96, 3)
    assert 0 < found.psnr < 30 and found.ssim < 0.5 and found.psnr_tiled != found.psnr
    assert np.array_equal(found.rows[0][:, :32], clips[0][:, -1].permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="no held-out clips"):
        judge(vae, [], (8, 16), torch.device("cpu"))
