"""Text states -> latents -> pixels: what the sample command and the samples during training share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from model.text import TextStates
from model.vae import Vae
from train import flow
from train.batch import behind, no_text, padded
from train.conditions import Given, fed, placed, shortened, told
from train.draws import normal


@torch.no_grad()
def latents(
    model: nn.Module, texts: Sequence[TextStates], noise: Tensor, steps: int, guidance: float, shift: float,
    solver: str = "euler", given: Given | None = None,
) -> Tensor:  # fmt: skip
    """Noise (B, C, T, H, W) -> latents of that shape, float32, one per text.

    guidance 1 asks the network once per step, any other value twice: with the text and without. A network that embeds
    guidance was trained to answer at once: it is told the value. given: an image per
    text; noise then has the frames that the variant pads in front, which are dropped from what is returned. Without
    the text a black picture is seen, where tokens of the image stand among the text's.
    """
    device, count = noise.device, len(texts)
    text, mask, pooled = (one.to(device) for one in padded(texts))
    empty, empty_mask, empty_pooled = (one.to(device) for one in padded([no_text(one) for one in texts]))
    if given and given.seen:
        text, mask = behind(given.seen.tokens, text, mask)
        empty, empty_mask = behind(given.seen.black.expand_as(given.seen.tokens), empty, empty_mask)

    def velocity_of(x: Tensor, t: Tensor) -> Tensor:
        fed_x, times, counts = fed(x, t.to(device, torch.float32).expand(count), given, cast(int, model.in_channels))
        time = flow.network_time(times)
        embedded = told(model, guidance, fed_x)
        v = model(fed_x, time, text, mask, pooled, embedded).float()
        if guidance != 1.0 and embedded is None:
            v = flow.guided(v, model(fed_x, time, empty, empty_mask, empty_pooled, None).float(), guidance)
        return v * counts.view(1, 1, -1, 1, 1)  # what is given stays as it is

    start = placed(noise.float(), given) if given else noise.float()
    return shortened(flow.SOLVERS[solver](velocity_of, start, flow.schedule(steps, shift)), given)


def noise_of(seed: int, number: int, shape: tuple[int, ...]) -> Tensor:
    """The noise (C, T, H, W) that prompt `number` starts from: equal seeds, equal noise, whatever the batch."""
    return normal(shape, seed, "sample", number)


def pixels(vae: Vae, decoded_from: Tensor) -> list[np.ndarray]:
    """Latents (B, C, T, H, W) -> videos uint8 (T, H, W, 3), decoded one at a time to save memory."""
    return [to_uint8(vae.decode(one[None])[0]) for one in decoded_from]


def to_uint8(video: Tensor) -> np.ndarray:
    """(3, T, H, W) in [-1, 1] -> (T, H, W, 3) in [0, 255]."""
    frames = [((one.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for one in video.unbind(1)]
    return torch.stack(frames).permute(0, 2, 3, 1).cpu().numpy()
