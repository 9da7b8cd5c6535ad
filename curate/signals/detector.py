"""Boxes from a detector network of the YOLOX kind (ONNX), by path: nothing is shipped, nothing is downloaded.

Input (1, 3, S, S) BGR in [0, 255], the picture in the upper left corner on grey 114; output (1, N, 5 + classes) per cell of the
grids of strides 8, 16, 32: offsets of the centre, log sizes, how likely a thing, how likely each class (Ge et al., YOLOX, 2021).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from curate.signals.crops import Box

STRIDES = (8, 16, 32)
SURE, SAME = 0.4, 0.5  # score of a box that counts, overlap of two that are one


class Detection(NamedTuple):
    box: Box  # shares of the frame
    score: float
    label: int


def detect(path: str, rgb: np.ndarray) -> list[Detection]:
    """RGB uint8 (H, W, 3) -> what the network at `path` finds. Raises FileNotFoundError, ValueError for another kind of network."""
    network, side = session(path)
    scale = min(side / rgb.shape[0], side / rgb.shape[1])
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    canvas = np.full((side, side, 3), 114, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(rgb, size)[..., ::-1]
    planes = canvas.transpose(2, 0, 1)[None].astype(np.float32)
    output = network.run(None, {network.get_inputs()[0].name: planes})[0]
    return decode(np.asarray(output, np.float32), side, size)


def decode(output: np.ndarray, side: int, size: tuple[int, int]) -> list[Detection]:
    """Output (1, N, 5 + classes) -> detections; size: width, height of the picture inside the square of `side` px."""
    cells = [side // stride for stride in STRIDES]
    if output.ndim != 3 or output.shape[1] != sum(n * n for n in cells) or output.shape[2] < 6:
        raise ValueError(
            f"a YOLOX detector of {side} px gives (1, {sum(n * n for n in cells)}, 6 or more), got {output.shape}"
        )
    grid = np.concatenate([np.stack(np.meshgrid(range(n), range(n)), -1).reshape(-1, 2) for n in cells])
    step = np.concatenate([np.full((n * n, 1), stride) for n, stride in zip(cells, STRIDES)])
    centre, reach = (output[0, :, :2] + grid) * step, np.exp(np.minimum(output[0, :, 2:4], 20)) * step
    scores = output[0, :, 4:5] * output[0, :, 5:]
    label, best = scores.argmax(axis=1), scores.max(axis=1)
    corners = np.concatenate([centre - reach / 2, reach], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(corners.tolist(), best.tolist(), label.tolist(), SURE, SAME)
    width, height = size
    found = []
    for k in np.asarray(kept, int).ravel():
        x, y, wide, tall = corners[k]
        box = np.clip([x / width, y / height, (x + wide) / width, (y + tall) / height], 0, 1)
        found.append(
            Detection((float(box[0]), float(box[1]), float(box[2]), float(box[3])), float(best[k]), int(label[k]))
        )
    return found


@lru_cache(maxsize=4)
def session(path: str) -> tuple[Any, int]:
    """The network and the side of its square input."""
    import onnxruntime

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; `weights` has to name an ONNX detector of the YOLOX kind")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, cv2.getNumThreads())
    network = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = network.get_inputs()[0].shape
    if len(shape) != 4 or not isinstance(shape[2], int) or shape[2] != shape[3]:
        raise ValueError(f"{path}: a YOLOX detector takes a square of fixed size, this one takes {shape}")
    return network, shape[2]
