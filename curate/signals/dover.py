"""Quality by a DOVER network from a file (Wu et al., Exploring video quality assessment, 2023): ONNX or TorchScript (.pt).

S-Lab License 1.0, non-commercial: the file is the user's. The network takes one or two float pictures (1, 3, T, 224, 224), RGB
normalised as ImageNet: whole frames shrunk (aesthetic), and, where it has a second input, 7 x 7 patches of them in full detail
(technical). It gives two numbers, aesthetic and technical.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curate.signals.kinds import Scores

FRAMES, SIDE, PATCHES = 32, 224, 7
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of onnxruntime, the better first
MEAN, SPREAD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
# How the published scores become one: centred and scaled per branch, weighted (the authors' fuse_results).
CENTRE, SCALE = np.array([-0.08285, 0.1107]), np.array([0.03774, 0.07355])  # aesthetic, technical
WEIGHT = np.array([0.3896, 0.6104])


def judge(path: str, frames: Sequence[np.ndarray]) -> Scores:
    """RGB uint8 (H, W, 3) of one clip -> quality, aesthetic, technical in [0, 1]; all None without frames."""
    if not frames:
        return dict.fromkeys(("quality", "aesthetic", "technical"))
    raw = network(path)(frames)
    if raw.size != 2:
        raise ValueError(f"{path}: a DOVER network gives two numbers (aesthetic, technical), this one gives {raw.size}")
    branches = (raw - CENTRE) / SCALE
    names = ("quality", "aesthetic", "technical")
    return dict(zip(names, map(_squashed, (float(branches @ WEIGHT), *branches)), strict=True))


def whole(frames: Sequence[np.ndarray], count: int) -> np.ndarray:
    """-> float32 (1, 3, count, SIDE, SIDE): the frames shrunk."""
    return _normal([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in _spread(frames, count)])


def fragments(frames: Sequence[np.ndarray], count: int) -> np.ndarray:
    """-> float32 (1, 3, count, SIDE, SIDE): patches of the frames, unshrunk, laid out as they lie."""
    return _normal([_patchwork(frame) for frame in _spread(frames, count)])


def _patchwork(frame: np.ndarray) -> np.ndarray:
    side = SIDE // PATCHES
    scale = max(1.0, SIDE / min(frame.shape[:2]))
    frame = cv2.resize(frame, None, fx=scale, fy=scale) if scale > 1 else frame
    rows, columns = (np.linspace(0, length - side, PATCHES).astype(int) for length in frame.shape[:2])
    return np.concatenate([np.concatenate([frame[y : y + side, x : x + side] for x in columns], 1) for y in rows])


def _spread(frames: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    return [frames[int(k * len(frames) / count)] for k in range(count)]


def _normal(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return ((np.stack(pictures) - MEAN) / SPREAD).transpose(3, 0, 1, 2)[None].astype(np.float32)


def _squashed(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


@lru_cache(maxsize=1)
def network(path: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """A function from a clip's frames to (aesthetic, technical). Raises FileNotFoundError."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `weights` has to name a DOVER network, ONNX or TorchScript (.pt)"
        )
    return _onnx(path) if path.endswith(".onnx") else _torchscript(path)


def _onnx(path: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    import onnxruntime

    here = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(path, providers=[one for one in PROVIDERS if one in here])
    inputs = session.get_inputs()
    makers = (whole, fragments)[: len(inputs)]

    def run(frames: Sequence[np.ndarray]) -> np.ndarray:
        given = {
            one.name: make(frames, one.shape[2] if isinstance(one.shape[2], int) else FRAMES)
            for one, make in zip(inputs, makers, strict=True)
        }
        return _numbers(session.run(None, given))

    return run


def _torchscript(path: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    script = torch.jit.load(path, map_location=device).eval()
    makers = (whole, fragments)[: len(script.forward.schema.arguments) - 1]  # the first one is the network itself

    def run(frames: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            output: Any = script(*(torch.from_numpy(make(frames, FRAMES)).to(device) for make in makers))
        return _numbers([one.cpu().numpy() for one in (output if isinstance(output, (list, tuple)) else [output])])

    return run


def _numbers(outputs: Sequence[Any]) -> np.ndarray:
    """Means over positions of each output, one number per branch."""
    if len(outputs) == 1:
        return np.asarray(outputs[0], float).ravel()
    return np.array([float(np.mean(one)) for one in outputs])
