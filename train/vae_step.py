"""One update of a VAE and of its discriminator.

loss = L1 + 0.1 perceptual + 0.05 adversarial + 1e-6 KL (HunyuanVideo, arXiv 2412.03603, 4.1; the weights are settings).
L1 is the mean over pixels and colours, the KL divergence from a unit normal the mean over latent elements, the
perceptual distance the mean over frames.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.discriminator import discriminator_loss, generator_loss
from model.vae_sizes import set_tiling
from pipelines import VaeLosses, VaePhase, VaeStage
from train.draws import generator, normal
from train.optim import Weights


class Networks(NamedTuple):
    """vae, critic: networks with their masters and optimisers; perceptual: frozen."""

    vae: Weights
    critic: Weights
    perceptual: nn.Module
    device: torch.device


def phase_at(stage: VaeStage, step: int) -> VaePhase:
    """The phase of the update after `step` updates."""
    for phase in stage.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return stage.phases[-1]


def ends_phase(stage: VaeStage, step: int) -> bool:
    """Whether the update after `step` updates is a phase's last."""
    return step + 1 in accumulate(phase.steps for phase in stage.phases)


def tile_of(phase: VaePhase) -> tuple[int, int]:
    """Tiles (frames, px) of about half a clip: seams in the middle of every clip."""
    return max(8, phase.frames // 2 // 8 * 8), max(16, phase.size // 2 // 16 * 16)


def is_tiled(stage: VaeStage, step: int) -> bool:
    return bool(generator(stage.seed, "vae tiling", step).random() < phase_at(stage, step).tiling)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Of N(mean, e^logvar) from N(0, 1): mean over elements of (mean^2 + var - 1 - logvar) / 2."""
    mean, logvar = mean.float(), logvar.float()
    return (mean.pow(2) + logvar.exp() - 1.0 - logvar).mean() / 2


def frames_of(video: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> pictures (B T, 3, H, W)."""
    return video.transpose(1, 2).flatten(0, 1)


def reconstruction_losses(video: Tensor, made: Tensor, perceptual: nn.Module) -> dict[str, Tensor]:
    found = {"l1": (made.float() - video.float()).abs().mean()}
    return found | {"perceptual": perceptual(frames_of(made), frames_of(video)).mean()}


def total(parts: dict[str, Tensor], weights: VaeLosses) -> Tensor:
    """The weighted sum, in float32; a part that is absent counts nothing."""
    named = {"l1": weights.l1, "perceptual": weights.perceptual, "adversarial": weights.adversarial, "kl": weights.kl}
    return torch.stack([named[name] * part.float() for name, part in parts.items()]).sum()


def train_step(nets: Networks, stage: VaeStage, video: Tensor, step: int) -> dict[str, Any]:
    """One update on video (B, 3, T, H, W) in [-1, 1]. Returns the losses; raises FloatingPointError on a NaN."""
    tiled = is_tiled(stage, step)
    set_tiling(nets.vae.model, tile_of(phase_at(stage, step)) if tiled else None)
    made, mean, logvar = _through(nets.vae, video, normal_like(nets.vae, video, stage.seed, step))
    parts = reconstruction_losses(video, made, nets.perceptual)
    parts["kl"] = kl_divergence(mean, logvar)
    fights = stage.losses.adversarial > 0 and step >= stage.losses.adversarial_start
    if fights:
        nets.critic.model.requires_grad_(False)
        parts["adversarial"] = generator_loss(nets.critic.model(made.to(nets.critic.dtype)))
        nets.critic.model.requires_grad_(True)
    loss = total(parts, stage.losses)
    record = {name: float(part.detach()) for name, part in parts.items()}
    _refuse_nan(record | {"loss": float(loss.detach())}, step)
    record |= {"loss": float(loss.detach()), "norm": _update(nets.vae, loss, step), "tiled": int(tiled)}
    if fights:
        record["critic"] = _train_critic(nets.critic, video, made.detach(), step)
    return record


def normal_like(vae: Weights, video: Tensor, seed: int, step: int) -> Tensor:
    """The noise of the posterior's sample, of the latent's shape, from the step alone."""
    batch, _, frames, height, width = video.shape
    channels = int(vae.model.config.latent_channels)  # type: ignore[union-attr]
    shape = (batch, channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    return normal(shape, seed, "vae noise", step).to(video.device)


def _through(vae: Weights, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(what was made of the video, mean, log-variance)."""
    network: Any = vae.model
    posterior = network.encode(video.to(vae.dtype)).latent_dist
    latents = posterior.mean + posterior.std * noise.to(vae.dtype)
    return network.decode(latents).sample, posterior.mean, posterior.logvar


def _train_critic(critic: Weights, video: Tensor, made: Tensor, step: int) -> float:
    scores = critic.model(torch.cat([video.to(critic.dtype), made.to(critic.dtype)]))
    loss = discriminator_loss(*scores.chunk(2))
    _refuse_nan({"critic": float(loss.detach())}, step)
    _update(critic, loss, step)
    return float(loss.detach())


def _update(weights: Weights, loss: Tensor, step: int) -> float:
    loss.backward()
    weights.collect()
    norm = weights.clip()
    weights.update(step)
    return norm


def _refuse_nan(record: dict[str, float], step: int) -> None:
    wrong = [name for name, value in record.items() if value != value]
    if wrong:
        raise FloatingPointError(f"step {step + 1}: {', '.join(wrong)} is not a number; the last checkpoint is kept")
