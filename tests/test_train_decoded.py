"""Losses on decoded pixels: nothing changes without them, chunks add up, memory is that of a chunk, reference values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compat import mend_torchvision
from model import codec
from model.perceptual import GradientSsim
from model.sync import BANDS, STEPS, SyncPair, load_sync, pair_loss, sound_features, sync_loss
from model.temporal import DifferencePyramid, Encoded, load_temporal
from pipelines import Losses, RecipeError
from tests import train_workspace
from tests.test_train_step import batch, weights
from train import flow
from train.decoded import Judges, chunks, decoded_losses, load_judges
from train.losses import velocity_loss
from train.step import predict, sample_losses


def judges(**networks: nn.Module) -> Judges:
    return Judges(codec.Codec("cpu"), *(networks.get(name) for name in ("perceptual", "temporal", "sync")))


def latents(frames: int, samples: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    return tuple(torch.randn(samples, 16, frames, side, side, generator=generator) for _ in range(2))  # type: ignore[return-value]


def test_with_the_first_phase_s_losses_the_total_is_the_velocity_loss_exactly() -> None:
    chosen, data = weights(), batch(3, 0)
    data = data.to(torch.device("cpu"), torch.float64)
    expected = velocity_loss(predict(chosen.model, data), flow.velocity(data.data, data.noise))
    assert load_judges(train_workspace.recipe(Path("/nowhere")), Losses(), torch.device("cpu")) is None
    assert torch.equal(sample_losses(chosen.model, data, Losses(), chosen.judges), expected)


def test_frames_of_an_image_are_out_of_the_velocity_loss() -> None:
    predicted, target = torch.ones(1, 1, 3, 1, 1), torch.zeros(1, 1, 3, 1, 1)
    predicted[:, :, 0] = 100.0
    assert velocity_loss(predicted, target, torch.tensor([False, True, True])).tolist() == [1.0]
    assert velocity_loss(predicted, target, torch.ones(3, dtype=torch.bool)).item() == pytest.approx(10002 / 3)


def test_chunks_cover_a_clip_and_share_a_frame() -> None:
    assert chunks(1, 2) == [(0, 1)] and chunks(2, 4) == [(0, 2)]
    assert chunks(5, 2) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert chunks(6, 3) == [(0, 3), (2, 5), (4, 6)]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_values_and_gradients_are_those_of_decoding_each_chunk_plainly(frames: int) -> None:
    """Autograd through all chunks at once, for each sample, is the reference."""
    estimate, clip = latents(frames)
    losses = Losses(perceptual=0.3, temporal=2.0, decode_frames=3)
    look, moves = GradientSsim(), DifferencePyramid()
    mine = estimate.clone().requires_grad_()
    found = decoded_losses(judges(perceptual=look, temporal=moves), losses, mine, clip, None)
    (found * torch.tensor([1.0, 0.25])).sum().backward()

    plain = estimate.clone().requires_grad_()
    spans = chunks(frames, 3)
    sizes = [1 + 4 * (last - first - 1) for first, last in spans]
    total = torch.zeros(2)
    for (first, last), size in zip(spans, sizes):
        made, wanted = (codec.decode(one[:, :, first:last]) for one in (plain, clip))
        seen = [look(made[b].transpose(0, 1), wanted[b].transpose(0, 1)).mean() for b in range(2)]
        total = total + (0.3 * torch.stack(seen) + 2.0 * moves(made, wanted)) * size / sum(sizes)
    (total * torch.tensor([1.0, 0.25])).sum().backward()
    assert torch.allclose(found, total, atol=1e-6)
    assert mine.grad is not None and plain.grad is not None
    assert torch.allclose(mine.grad, plain.grad, atol=1e-7) and mine.grad.abs().max() > 1e-5
    with torch.no_grad():
        again = decoded_losses(judges(perceptual=look, temporal=moves), losses, estimate, clip, None)
    assert torch.equal(again, found.detach())


def test_an_estimate_that_is_the_clip_costs_nothing() -> None:
    clip, _ = latents(3)
    losses = Losses(perceptual=1.0, temporal=1.0)
    found = decoded_losses(judges(perceptual=GradientSsim(), temporal=DifferencePyramid()), losses, clip, clip, None)
    assert found.abs().max() < 1e-6


def peak_bytes(frames: int, size: int, tmp_path: Path) -> int:
    """The most that was allocated at once while decoding losses and their gradients were made, beyond the start."""
    estimate, clip = latents(frames, samples=1)
    estimate.requires_grad_()
    losses = Losses(perceptual=1.0, temporal=1.0, decode_frames=size)
    networks = judges(perceptual=GradientSsim(), temporal=DifferencePyramid())
    decoded_losses(networks, losses, estimate, clip, None).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        decoded_losses(networks, losses, estimate, clip, None).sum().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    told = sorted((e["ts"], e["args"]["Total Allocated"]) for e in events if e.get("name") == "[memory]")
    return max(total for _, total in told) - told[0][1]


def test_memory_is_bounded_by_the_chunk_not_by_the_clip(tmp_path: Path) -> None:
    short, long = peak_bytes(3, 2, tmp_path), peak_bytes(17, 2, tmp_path)
    whole = peak_bytes(17, 17, tmp_path)
    assert long < 1.2 * short, (short, long)
    assert whole > 4 * long, (whole, long)


def test_temporal_reference_values() -> None:
    still, moving = torch.zeros(1, 3, 3, 4, 4), torch.zeros(1, 3, 3, 4, 4)
    moving[:, :, 1], moving[:, :, 2] = 0.5, 0.25  # changes over 1 frame: 0.5, 0.25; over 2: 0.25
    assert DifferencePyramid()(moving, still).item() == pytest.approx((0.375 + 0.25) / 2)
    assert DifferencePyramid()(moving + 0.7, moving).item() == pytest.approx(0.0, abs=1e-6), (
        "what stands still is not its"
    )
    assert DifferencePyramid()(moving[:, :, :1], still[:, :, :1]).item() == 0.0


class Corners(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips[:, :2, 0, 0, 0]


def test_an_encoder_by_path_judges_directions_of_features(tmp_path: Path) -> None:
    path = str(tmp_path / "corners.pt")
    torch.jit.script(Corners()).save(path)
    a, b = torch.zeros(1, 3, 5, 4, 4), torch.zeros(1, 3, 5, 4, 4)
    a[:, 0], b[:, 1] = 3.0, 0.5  # at right angles: |a - b|^2 = 2
    found = load_temporal(path)
    assert isinstance(found, Encoded) and found(a, b).item() == pytest.approx(2.0)
    assert found(a, 2 * a).item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(FileNotFoundError, match="no video encoder"):
        load_temporal(str(tmp_path / "nothing"))


def test_a_transformers_encoder_by_path(tmp_path: Path) -> None:
    mend_torchvision()
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=1,
                            num_attention_heads=2, intermediate_size=16)  # fmt: skip
    VideoMAEModel(config).save_pretrained(tmp_path, safe_serialization=True)
    encoder, clip = load_temporal(str(tmp_path)), torch.rand(2, 3, 5, 48, 64) * 2 - 1
    other = clip.clone().requires_grad_()
    assert encoder(clip, clip).abs().max() < 1e-6
    encoder(clip.flip(2), other).sum().backward()
    assert other.grad is not None and other.grad.abs().max() > 0


def test_sync_reference_values() -> None:
    found = sync_loss(torch.tensor([1.0, 0.0, -1.0]))
    assert found.tolist() == pytest.approx([0.0, math.log(2), -math.log(1e-4)])
    assert pair_loss(torch.tensor([1.0, -1.0]), torch.tensor([True, False])).item() == pytest.approx(0.0)
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)[None]
    features = sound_features(tone, 16000, 25.0, 10)
    assert features.shape == (1, BANDS, STEPS * 10)
    edges = [60 * (8000 / 60) ** (k / BANDS) for k in range(BANDS + 1)]
    band = next(k for k in range(BANDS) if edges[k] <= 1000 < edges[k + 1])
    assert (features.mean(dim=2).argmax(dim=1) == band).all()
    assert sound_features(torch.zeros(1, 10), 16000, 25.0, 10).max() == pytest.approx(0.0, abs=1e-6)


def pairs(count: int, seed: int, together: Tensor) -> tuple[Tensor, Tensor]:
    """A disc that flashes with the loudness of a tone; where `together` is False, with that of another."""
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(2, count, 5, generator=generator).round()
    shown = torch.where(together[:, None], loud[0], loud[1])
    clips = (shown[:, None, :, None, None] - 0.5).expand(-1, 3, -1, 16, 16).clone()
    wave = torch.sin(torch.arange(5 * 640) * 0.3)[None] * loud[0].repeat_interleave(640, dim=1)
    return clips, sound_features(wave, 16000, 25.0, 5)


def test_the_pair_learns_what_belongs_together_and_its_loss_then_prefers_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    pair = SyncPair(width=8)
    optimiser = torch.optim.Adam(pair.parameters(), lr=5e-3)
    for step in range(100):
        together = torch.arange(32) % 2 == 0
        optimiser.zero_grad()
        pair_loss(pair(*pairs(32, step, together)), together).backward()
        optimiser.step()
    with torch.no_grad():
        right = pair(*pairs(64, 1000, torch.ones(64, dtype=torch.bool)))
        wrong = pair(*pairs(64, 1000, torch.zeros(64, dtype=torch.bool)))
    assert float((right > wrong).float().mean()) > 0.8
    assert sync_loss(right).mean() < sync_loss(wrong).mean() - 0.2
    save_file(SyncPair().state_dict(), tmp_path / "pair.safetensors")
    assert load_sync(str(tmp_path / "pair.safetensors"))(
        torch.zeros(1, 3, 5, 16, 16), torch.zeros(1, BANDS, 20)
    ).shape == (1,)
    with pytest.raises(FileNotFoundError, match="no synchronisation scorer"):
        load_sync(str(tmp_path / "none.pt"))


class Sounding(nn.Module):
    """Says how loud the sound of the chunk was, so that a test can see which part it heard."""

    def forward(self, clips: Tensor, sound: Tensor) -> Tensor:
        assert sound.shape[2] == STEPS * clips.shape[2]
        return sound.mean(dim=(1, 2))


def test_each_chunk_hears_its_own_part_of_the_sound() -> None:
    estimate, clip = latents(3, samples=1)  # 9 frames: chunks see frames 0-4 and 4-8
    sound = torch.zeros(1, BANDS, STEPS * 9)
    sound[:, :, : STEPS * 5] = 1.0
    losses = Losses(sync=1.0, sync_scorer="x")
    found = decoded_losses(judges(sync=Sounding()), losses, estimate, clip, sound)
    second = float(sync_loss(torch.tensor(0.2)))  # a fifth of the second chunk is loud
    assert found.item() == pytest.approx((0.0 + second) / 2, rel=1e-5)
    assert decoded_losses(judges(sync=Sounding()), losses, estimate, clip, None).item() == 0.0


def test_a_silent_clip_costs_nothing_where_only_sound_is_asked_for() -> None:
    estimate, clip = (torch.randn(1, 16, 2, 4, 4).requires_grad_(grad) for grad in (True, False))
    sound = torch.zeros(1, BANDS, STEPS * 5)
    found = decoded_losses(judges(sync=SyncPair()), Losses(sync=1.0), estimate, clip, sound)
    found.sum().backward()
    assert found.item() == 0 and estimate.grad is not None and not estimate.grad.any()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    recipe: Any = train_workspace.recipe(tmp_path)
    for losses in (
        Losses(perceptual=1.0, perceptual_weights="/no/lpips"),
        Losses(temporal=1.0, temporal_encoder="/no/te"),
    ):
        with pytest.raises(RecipeError, match="/no/"):
            load_judges(recipe, losses, torch.device("cpu"))
