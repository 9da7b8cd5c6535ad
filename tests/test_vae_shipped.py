"""The VAE that is shipped: `cache.vae: small`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

import pipelines
from model.similarity import psnr
from model.vae import SHIPPED, load_vae, vae_settings

SIZE = 128


@pytest.fixture(scope="module")
def pan() -> torch.Tensor:
    """(1, 3, 9, SIZE, SIZE) in [-1, 1]: a window that moves over a photograph, 2 px a frame."""
    photo = load_sample_image("china.jpg")[::2, ::2]
    frames = [photo[40 : 40 + SIZE, 20 + 2 * t : 20 + 2 * t + SIZE] for t in range(9)]
    return torch.from_numpy(np.stack(frames).astype(np.float32) / 127.5 - 1.0).permute(3, 0, 1, 2)[None]


def test_it_keeps_what_is_seen_and_its_latents_are_of_unit_size(pan: torch.Tensor) -> None:
    vae = load_vae("small")
    latents, logvar = vae.encode(pan)
    assert latents.shape == (1, 16, 3, SIZE // 8, SIZE // 8) and logvar is not None
    assert 0.4 < float(latents.std()) < 2.5 and abs(float(latents.mean())) < 0.5
    made = vae.decode(latents).clamp(-1.0, 1.0)
    grey = pan.mean(dim=(2, 3, 4), keepdim=True).expand_as(pan)
    assert psnr(made, pan) > psnr(grey, pan) + 5.0
    image = vae.decode(vae.encode(pan[:, :, :1])[0])
    assert image.shape == pan[:, :, :1].shape and psnr(image.clamp(-1.0, 1.0), pan[:, :, :1]) > psnr(grey, pan) + 5.0


def test_its_recipe_is_in_the_repository() -> None:
    told = json.loads((SHIPPED["small"] / "training.json").read_text())
    stage = pipelines.load(None, "demo").vae_stages["vae-small"]
    written = json.loads(json.dumps(stage.model_dump(mode="json")))
    assert {key: told["stage"][key] for key in written} == written and told["step"] == stage.steps
    log = [json.loads(line) for line in (SHIPPED["small"] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "validation" in line][-1] == stage.steps


def test_it_is_small_and_has_a_fingerprint() -> None:
    files = list(SHIPPED["small"].iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6
    found = vae_settings("small")
    assert found["class"] == "AutoencoderKLHunyuanVideo" and found["channels"] == 16 and len(found["weights"]) == 32
