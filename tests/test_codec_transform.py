"""The built-in codec: shapes, the transform against an independent one, what it keeps, and a golden value."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from model import codec


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of pictures in [-1, 1]."""
    return 10 * math.log10(4 / float(((one - other) ** 2).mean()))


@pytest.mark.parametrize("frames", [1, 5, 9, 17, 33])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (8, 8), (8, 24)])
def test_shapes_of_images_and_of_4n_plus_1_frames(frames: int, size: tuple[int, int]) -> None:
    video = noise(2, 3, frames, *size)
    latents = codec.encode(video)
    assert latents.shape == (2, 16, 1 + (frames - 1) // 4, size[0] // 8, size[1] // 8)
    assert codec.decode(latents).shape == video.shape


@pytest.mark.parametrize("shape", [(1, 3, 2, 16, 16), (1, 3, 4, 16, 16), (1, 3, 1, 12, 16), (1, 1, 1, 16, 16)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="4n\\+1"):
        codec.encode(torch.zeros(shape))


def test_latents_of_wrong_width_are_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        codec.decode(torch.zeros(1, 4, 1, 2, 2))


def test_encoding_what_was_decoded_gives_the_same_latents() -> None:
    latents = noise(1, 16, 4, 5, 7)
    assert torch.allclose(codec.encode(codec.decode(latents)), latents, atol=2e-5)


def test_is_linear() -> None:
    one, other = noise(1, 3, 5, 16, 24), noise(1, 3, 5, 16, 24, seed=1)
    both = codec.encode(2 * one - 3 * other)
    assert torch.allclose(both, 2 * codec.encode(one) - 3 * codec.encode(other), atol=1e-3)


def test_one_block_against_scipy() -> None:
    """8 x 8 px have no neighbours to lap over, so the coefficients are those of a plain cosine transform."""
    video = noise(1, 3, 5, 8, 8)
    axes = np.array([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]]) / np.sqrt([[3], [2], [1.5]])
    planes = np.einsum("kc,cthw->kthw", axes, video[0].numpy())
    first = dctn(planes[:, :1], axes=(2, 3), norm="ortho")
    later = dctn(planes[:, 1:], axes=(1, 2, 3), norm="ortho")
    for group, (spectrum, kept) in enumerate(((first, codec.FIRST), (later, codec.LATER))):
        expected = [spectrum[k.colour, k.time, k.down, k.across] / k.scale for k in kept]
        assert np.allclose(codec.encode(video)[0, :, group, 0, 0].numpy(), expected, atol=1e-5)


def test_what_is_lost_is_orthogonal_to_what_is_kept() -> None:
    """An orthonormal transform splits the energy: video = decoded + lost, and the squares add up."""
    video = noise(1, 3, 9, 32, 40)
    kept = codec.decode(codec.encode(video))
    assert torch.isclose((video**2).sum(), (kept**2).sum() + ((video - kept) ** 2).sum(), rtol=1e-5)


def test_flat_colour_is_kept_exactly() -> None:
    colour = torch.tensor([0.3, -0.7, 0.9]).view(1, 3, 1, 1, 1)
    video = colour.expand(1, 3, 5, 32, 24)
    assert torch.allclose(codec.decode(codec.encode(video)), video, atol=1e-5)


def test_a_still_clip_has_equal_latents_and_no_motion() -> None:
    still = noise(1, 3, 1, 32, 32).expand(1, 3, 9, 32, 32)
    latents = codec.encode(still)
    assert torch.allclose(latents[:, :12, 1], latents[:, :12, 0], atol=1e-5)
    assert latents[:, 12:, 1:].abs().max() < 1e-5
    assert torch.equal(codec.encode(still[:, :, :1]), latents[:, :, :1])


def test_both_groups_share_what_the_first_twelve_channels_mean() -> None:
    for one, other in zip(codec.FIRST[:12], codec.LATER[:12], strict=True):
        assert one[:4] == other[:4]
        assert other.scale == 2 * one.scale
    assert len({k[:4] for k in codec.FIRST}) == len({k[:4] for k in codec.LATER}) == 16


def test_a_photograph_comes_back() -> None:
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("flower.jpg")[:424, :640]
    video = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    latents = codec.encode(video)
    assert psnr(codec.decode(latents).clamp(-1, 1), video) > 30
    assert 0.3 < float(latents.std()) < 3


def test_golden() -> None:
    """Made by this file's encode on a ramp; a change of it is a change of every cached latent: raise codec.VERSION."""
    y, x, t = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), torch.arange(5.0), indexing="ij")
    video = torch.stack([torch.sin(x / 5 + t), torch.cos(y / 7), torch.sin((x + y) / 11 - t / 3)])
    latents = codec.encode(video.permute(0, 3, 1, 2)[None])
    golden = [
        0.2400,
        -0.2733,
        1.1460,
        -0.2485,
        -0.0803,
        -0.4407,
        0.1688,
        0.0032,
        -2.6354,
        0.4804,
        0.7457,
        -1.2883,
        0.3304,
        5.9844,
        1.1314,
        6.0033,
    ]
    assert codec.VERSION == 1
    assert torch.allclose(latents[0, :, 1, 1, 1], torch.tensor(golden), atol=1e-3)
