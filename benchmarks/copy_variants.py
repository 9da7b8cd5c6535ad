"""Copies of real footage with known originals: each single-shot file, its first seconds, and six variants of it.

The variants are those of the generated films: coded again, half the size, a tenth off the sides, brighter, with a logo, trimmed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from examples import effects
from media.decode import Video

LONG_SIDE, FRAMES, FPS = 640, 100, 25
TWIN = "flower.webm"  # shows what flower.mp4 does
CRF, CRF_VARIANT, CRF_AGAIN = 18, 25, 32


def half(rgb: np.ndarray) -> np.ndarray:
    return cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def cropped(rgb: np.ndarray) -> np.ndarray:
    top, left = rgb.shape[0] // 20, rgb.shape[1] // 20
    return rgb[top : rgb.shape[0] - top, left : rgb.shape[1] - left]


def brighter(rgb: np.ndarray) -> np.ndarray:
    return effects.expose(rgb, effects.Look(gain=1.1, lift=14.0))


def marked(rgb: np.ndarray) -> np.ndarray:
    return effects.add_logo(rgb, effects.Logo("bottom left", 1.0, "cross", "teal", 0.15))[0]


VARIANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "again": lambda rgb: rgb, "half": half, "cropped": cropped, "bright": brighter, "logo": marked, "part": lambda rgb: rgb,
}  # fmt: skip


def make(footage: Path, folder: Path) -> Path:
    """Write the films and their truth.json, as the generated footage has it; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    every = json.loads((footage / "labels.json").read_text())["single_shot"]
    names = [name for name in every if not name.endswith(TWIN)]
    truth: dict[str, Any] = {"files": {}, "duplicates": [], "related": []}
    for number, name in enumerate(sorted(names)):
        frames = _frames(footage / name)
        stem = f"{number:02d}-{Path(name).stem}-{Path(name).suffix[1:]}"
        _write(folder / f"{stem}.mp4", frames, CRF)
        for what, change in VARIANTS.items():
            kept = frames[len(frames) // 5 : -len(frames) // 10] if what == "part" else frames
            _write(
                folder / f"{stem}-{what}.mp4",
                [change(rgb) for rgb in kept],
                CRF_AGAIN if what == "again" else CRF_VARIANT,
            )
        files = [f"{stem}.mp4", *(f"{stem}-{what}.mp4" for what in VARIANTS)]
        truth["files"] |= {file: {"expect": "ok", "shots": None} for file in files}
        truth["duplicates"].append({"original": files[0], "files": files, "of": name})
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return folder


def _frames(path: Path) -> list[np.ndarray]:
    with Video(str(path), 2) as video:
        return [frame.rgb(LONG_SIDE) for frame, _ in zip(video, range(FRAMES), strict=False)]


def _write(path: Path, frames: list[np.ndarray], crf: int) -> None:
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for rgb in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), "rgb24"))
            )
        container.mux(stream.encode(None))
