"""diffusers VAE folders with random weights: latents are those of diffusers' own encode of the same pixels, scaled."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.lanes import Lanes, Load
from compat import mend_torchvision
from model.codec import Codec
from model.vae import load_vae, vae_settings
from model.weights import MissingWeights

mend_torchvision()
diffusers = pytest.importorskip("diffusers")

CONFIGS: dict[str, dict[str, Any]] = {
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 16, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    },
    "AutoencoderKLWan": {
        "base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
        "latents_mean": [0.1 * i for i in range(16)], "latents_std": [1.0 + 0.1 * i for i in range(16)],
    },
    "AutoencoderKLCogVideoX": {
        "latent_channels": 16, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "scaling_factor": 0.7, "invert_scale_latents": True, "temporal_compression_ratio": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = getattr(diffusers, request.param)(**CONFIGS[request.param])
    path = tmp_path_factory.mktemp(request.param)
    network.save_pretrained(path)
    return path


def video(frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def theirs(folder: Path, pixels: torch.Tensor, tiling: bool = False) -> Any:
    network = getattr(diffusers, folder.name.rstrip("0")).from_pretrained(folder)
    if tiling:
        network.enable_tiling()
    with torch.no_grad():
        return network.encode(pixels).latent_dist, network.config


@pytest.mark.parametrize("frames", [1, 5, pytest.param(21, marks=pytest.mark.slow)])
def test_latents_are_those_of_diffusers(folder: Path, frames: int) -> None:
    pixels = video(frames)
    mean, logvar = load_vae(str(folder)).encode(pixels)
    found, config = theirs(folder, pixels)
    if "latents_mean" in config and config.latents_mean is not None:
        shift = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        scale = 1 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    else:
        shift, scale = torch.zeros(1), torch.tensor(config.scaling_factor)
    assert mean.shape == (1, 16, 1 + (frames - 1) // 4, 4, 6)
    assert torch.allclose(mean, (found.mean - shift) * scale, atol=1e-5)
    assert logvar is not None and torch.allclose((logvar / 2).exp(), found.std * scale, rtol=1e-3)


def test_decoding_undoes_the_scaling(folder: Path) -> None:
    vae = load_vae(str(folder))
    mean, _ = vae.encode(video(5))
    found, _ = theirs(folder, video(5))
    network = getattr(diffusers, folder.name.rstrip("0")).from_pretrained(folder)
    with torch.no_grad():
        expected = network.decode(found.mean).sample
    assert torch.allclose(vae.decode(mean), expected, atol=1e-4)


def test_settings_are_told_without_loading_and_name_what_changes_bytes(folder: Path) -> None:
    assert load_vae(str(folder)).settings() == vae_settings(str(folder))
    assert vae_settings(str(folder)) != vae_settings(str(folder), tiling=True)
    assert vae_settings(str(folder)) != vae_settings(str(folder), precision="bfloat16")
    assert vae_settings(str(folder))["class"] == folder.name.rstrip("0")


def test_one_changed_weight_changes_the_settings(folder: Path, tmp_path: Path) -> None:
    network = getattr(diffusers, folder.name.rstrip("0")).from_pretrained(folder)
    with torch.no_grad():
        next(iter(network.decoder.parameters())).view(-1)[0] += 1e-3
    network.save_pretrained(tmp_path)
    one, other = vae_settings(str(folder)), vae_settings(str(tmp_path))
    assert {key for key in one if one[key] != other[key]} == {"weights"}


def test_the_silent_tiling_in_time_is_in_the_settings(tmp_path: Path) -> None:
    """HunyuanVideo's class tiles clips of more than 16 frames though nobody asked for it: it changes latents."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKLHunyuanVideo(**CONFIGS["AutoencoderKLHunyuanVideo"])
    network.save_pretrained(tmp_path)
    tiling = vae_settings(str(tmp_path))["tiling"]
    assert tiling["use_framewise_encoding"] is True and tiling["tile_sample_min_num_frames"] == 16
    mean, _ = load_vae(str(tmp_path)).encode(video(33))
    network.use_framewise_encoding = False
    with torch.no_grad():
        whole = network.eval().encode(video(33)).latent_dist.mean * network.config.scaling_factor
    assert not torch.allclose(mean, whole, atol=1e-5)


def test_an_images_latent_is_not_the_first_of_its_clip(tmp_path: Path) -> None:
    """Why condition images are encoded on their own: the norms span time."""
    torch.manual_seed(0)
    diffusers.AutoencoderKLHunyuanVideo(**CONFIGS["AutoencoderKLHunyuanVideo"]).save_pretrained(tmp_path)
    vae = load_vae(str(tmp_path))
    clip = video(9)
    assert not torch.allclose(vae.encode(clip)[0][:, :, :1], vae.encode(clip[:, :, :1])[0], atol=1e-4)


def test_a_pipelines_vae_subfolder_is_found(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").symlink_to(folder)
    assert vae_settings(str(tmp_path)) == vae_settings(str(folder))


def test_missing_weights_are_one_clear_line(tmp_path: Path) -> None:
    for spec in (str(tmp_path / "nowhere"), str(tmp_path), "somebody/some-vae"):
        with pytest.raises(MissingWeights) as error:
            load_vae(spec)
        assert spec in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(MissingWeights, match=r"no \.safetensors"):
        load_vae(str(tmp_path))


def test_the_codec_by_its_name() -> None:
    vae = load_vae("codec")
    assert isinstance(vae, Codec) and vae.settings() == vae_settings("codec")
    mean, logvar = vae.encode(video(5))
    assert mean.shape == (1, 16, 2, 4, 6) and logvar is None


def test_side_by_side_gives_the_same_bytes_of_the_same_weights(folder: Path) -> None:
    """Wan's keeps frames of a clip in itself while it encodes."""
    vae: Any = load_vae(str(folder))
    videos = [video(frames) for frames in (9, 5, 9, 1, 13, 9)]
    wanted = [vae.encode(one)[0] for one in videos]
    held = [one.data_ptr() for one in vae._vae.parameters()]
    assert [one.data_ptr() for one in copy.deepcopy(vae)._vae.parameters()] == held
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with Lanes(vae) as two:
        found = list(two.run(lambda one, video: one.encode(video)[0], [Load(one.numel(), one) for one in videos]))
    torch.set_num_threads(before)
    assert all(torch.equal(mine, one) for mine, one in zip(found, wanted, strict=True))
