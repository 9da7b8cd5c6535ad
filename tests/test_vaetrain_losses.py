"""VAE losses against values worked out by hand, LPIPS against the lpips package, SSIM against its definition."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compat import mend_torchvision
from model.discriminator import build_discriminator, discriminator_loss, generator_loss
from model.perceptual import GradientSsim, load_perceptual
from model.similarity import psnr, ssim
from pipelines import VaeLosses
from train.vae_step import frames_of, kl_divergence, reconstruction_losses, total


def test_kl_divergence_by_hand() -> None:
    mean, logvar = torch.tensor([0.0, 2.0]), torch.tensor([0.0, math.log(0.25)])
    # (0 + 1 - 1 - 0) / 2 = 0 and (4 + 0.25 - 1 + ln 4) / 2 = 2.318147...
    assert float(kl_divergence(mean, logvar)) == pytest.approx((3.25 + math.log(4)) / 2 / 2, rel=1e-6)
    assert float(kl_divergence(torch.zeros(3), torch.zeros(3))) == 0.0


def test_kl_divergence_against_torch_distributions() -> None:
    mean, logvar = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.linspace(-3, 2, 50)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).mean()
    assert float(kl_divergence(mean, logvar)) == pytest.approx(float(wanted), rel=1e-5)


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # real: (0 + 0.5 + 2) / 3; fake: (0 + 1 + 2) / 3; halved
    assert float(discriminator_loss(real, fake)) == pytest.approx((2.5 / 3 + 1.0) / 2)
    assert float(generator_loss(fake)) == pytest.approx(2.0 / 3)
    assert float(discriminator_loss(torch.zeros(4), torch.zeros(4))) == 1.0
    assert float(discriminator_loss(torch.ones(4), -torch.ones(4))) == 0.0


def test_total_has_the_papers_weights() -> None:
    parts = {
        "l1": torch.tensor(0.5),
        "perceptual": torch.tensor(2.0),
        "adversarial": torch.tensor(-1.0),
        "kl": torch.tensor(1000.0),
    }
    assert float(total(parts, VaeLosses())) == pytest.approx(0.5 + 0.1 * 2.0 - 0.05 * 1.0 + 1e-6 * 1000.0, rel=1e-6)
    assert float(total({"l1": torch.tensor(0.25)}, VaeLosses())) == 0.25


def test_reconstruction_l1_is_a_mean_over_everything() -> None:
    video = torch.zeros(2, 3, 2, 16, 16)
    made = video.clone()
    made[0] += 0.5
    parts = reconstruction_losses(video, made, GradientSsim())
    assert float(parts["l1"]) == pytest.approx(0.25)


def test_frames_of_keeps_pictures_whole() -> None:
    video = torch.arange(2 * 3 * 4 * 2 * 2).reshape(2, 3, 4, 2, 2)
    assert torch.equal(frames_of(video)[5], video[1, :, 1])


def test_gradient_ssim_of_equal_pictures_and_of_a_constant_offset() -> None:
    a = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    loss = GradientSsim()
    assert torch.allclose(loss(a, a), torch.zeros(2), atol=1e-6)
    assert (loss(a, a * 0.5) > loss(a, a * 0.9)).all()
    assert torch.allclose(loss(a, -a), loss(-a, a), atol=1e-5)
    # Constant pictures have no gradients: what is left is (1 - luminance term) / 2, the same at every scale.
    one, other = torch.full((1, 3, 64, 64), 0.0), torch.full((1, 3, 64, 64), 0.5)
    luminance = (2 * 1.0 * 1.5 + 0.0004) / (1.0 + 2.25 + 0.0004)
    assert float(loss(one, other)) == pytest.approx((1 - luminance) / 2, abs=1e-4)


def test_ssim_against_its_definition_in_float64() -> None:
    chance = torch.Generator().manual_seed(2)
    a = torch.rand(1, 1, 11, 11, generator=chance, dtype=torch.float64)
    b = (a + 0.1 * torch.randn(1, 1, 11, 11, generator=chance, dtype=torch.float64)).clamp(0, 1)
    offset = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offset**2) / (2 * 1.5**2))
    weights = torch.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (weights * a[0, 0]).sum(), (weights * b[0, 0]).sum()
    var_a, var_b = (weights * (a[0, 0] - mean_a) ** 2).sum(), (weights * (b[0, 0] - mean_b) ** 2).sum()
    covar = (weights * (a[0, 0] - mean_a) * (b[0, 0] - mean_b)).sum()
    wanted = (
        (2 * mean_a * mean_b + 1e-4) * (2 * covar + 9e-4) / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    )
    assert float(ssim(a * 2 - 1, b * 2 - 1)) == pytest.approx(float(wanted), abs=1e-6)


def test_psnr_by_hand() -> None:
    a = torch.zeros(1, 3, 4, 4)
    assert psnr(a, a + 0.2) == pytest.approx(20.0, abs=1e-4)  # a tenth of the range
    assert psnr(a, a) == math.inf


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_equals_the_package_on_the_same_random_backbone(network: str, tmp_path: Path) -> None:
    mend_torchvision()
    lpips = pytest.importorskip("lpips", reason="the optional `perceptual` extra is not installed")
    torch.manual_seed(3)
    theirs = lpips.LPIPS(pretrained=False, pnet_rand=True, net=network, verbose=False)
    for one in theirs.lins:
        one.model[-1].weight.data.uniform_(0, 1)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    path = tmp_path / "lpips.safetensors"
    save_file(state, path)
    ours = load_perceptual(str(path))
    a, b = torch.rand(2, 2, 3, 64, 64).mul(2).sub(1).unbind(0)
    with torch.no_grad():
        assert torch.allclose(ours(a, b), theirs(a, b).flatten(), atol=1e-5, rtol=1e-5)
    short = {name: tensor for name, tensor in state.items() if not name.startswith(("lin2", "lins.2"))}
    save_file(short, path)
    with pytest.raises(ValueError, match=r"lins\.2"):
        load_perceptual(str(path))


def test_lpips_weights_that_are_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="no LPIPS weights"):
        load_perceptual("nowhere.safetensors")


@pytest.mark.parametrize("frames", [1, 5])
def test_discriminator_takes_images_and_clips_and_depends_on_its_seed_alone(frames: int) -> None:
    video = torch.zeros(2, 3, frames, 32, 32)
    first, again = build_discriminator(0, 16), build_discriminator(0, 16)
    torch.rand(3)
    scores = first(video)
    assert scores.shape[:2] == (2, 1) and torch.isfinite(scores).all()
    assert torch.equal(scores, again(video))
    assert not torch.equal(scores, build_discriminator(1, 16)(video))
