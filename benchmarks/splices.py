"""Films with known transitions, spliced at random from real single-shot files: hard cuts, fades, dissolves.

A dissolve mixes both moving pictures in rising shares over 4-30 frames; a fade of 4-30 frames sinks into black (or
white), stays there for a frame or two and rises again. Both are labelled by their first and last mixed frame. Each
film is encoded at one of several rates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from media.decode import Video

SIZE = (384, 216)  # px of a film, width x height
MOST_FRAMES = 160  # taken of one source, from a random place
JOINS, FPS = 20, 25
PIECE_FRAMES = (30, 75)  # frames of a piece that are not mixed
GRADUAL_FRAMES = (4, 30)
CRF = (20, 26, 31, 36)
SAME = ("flower.mp4", "flower.webm")  # two files of one picture: never joined


def sources(folder: Path) -> dict[str, list[np.ndarray]]:
    """Name -> RGB frames (216, 384, 3) of every single-shot file that labels.json names."""
    names = json.loads((folder / "labels.json").read_text())["single_shot"]
    return {name: _frames(folder / name) for name in sorted(names)}


def _frames(path: Path) -> list[np.ndarray]:
    with Video(str(path), 2) as video:
        return [cover(frame.rgb(512)) for frame, _ in zip(video, range(3 * MOST_FRAMES), strict=False)]


def cover(rgb: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> (216, 384, 3), scaled to cover and cut in the middle."""
    width, height = SIZE
    scale = max(width / rgb.shape[1], height / rgb.shape[0])
    full = cv2.resize(rgb, (max(width, round(rgb.shape[1] * scale)), max(height, round(rgb.shape[0] * scale))),
                      interpolation=cv2.INTER_AREA)  # fmt: skip
    y, x = (full.shape[0] - height) // 2, (full.shape[1] - width) // 2
    return full[y : y + height, x : x + width].copy()


def splice(parts: dict[str, list[np.ndarray]], path: Path, seed: tuple[int, int]) -> dict[str, Any]:
    """Write one film of JOINS transitions and return its truth: cuts, gradual ranges with their kinds, rate."""
    draw = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    truth: dict[str, Any] = {"cuts": [], "gradual": [], "crf": int(draw.choice(CRF))}
    name, piece = _piece(parts, draw, None)
    for _ in range(JOINS):
        name, following = _piece(parts, draw, name)
        kind = str(draw.choice(["cut", "cut", "dissolve", "fade"]))
        length = int(draw.integers(GRADUAL_FRAMES[0], GRADUAL_FRAMES[1] + 1))
        piece, following = _join(out, piece, following, kind, length, draw, truth)
        piece = following
    out += piece
    _write(path, out, truth["crf"])
    return truth | {"frames": len(out)}


def _piece(parts: dict[str, list[np.ndarray]], draw: np.random.Generator, before: str | None) -> tuple[str, list]:
    """The name and PIECE_FRAMES (and what two transitions use up) consecutive frames of another file."""
    open_names = [name for name in parts if not _alike(name, before)]
    name = str(draw.choice(open_names))
    length = min(len(parts[name]), int(draw.integers(*PIECE_FRAMES)) + 2 * GRADUAL_FRAMES[1])
    first = int(draw.integers(0, len(parts[name]) - length + 1))
    return name, parts[name][first : first + length]


def _alike(name: str, other: str | None) -> bool:
    return other is not None and (name == other or (name.endswith(SAME) and other.endswith(SAME)))


def _join(out: list[np.ndarray], piece: list, following: list, kind: str, length: int, draw: np.random.Generator,
          truth: dict[str, Any]) -> tuple[list, list]:  # fmt: skip
    """Append the piece and the mixed frames to `out`; returns (nothing left of the piece, the rest of the next)."""
    if kind == "cut":
        out += piece[: len(piece) - GRADUAL_FRAMES[1]]
        truth["cuts"].append(len(out))
        return [], following
    mixed = _dissolve(piece, following, length) if kind == "dissolve" else _fade(piece, following, length, draw)
    out += piece[: len(piece) - GRADUAL_FRAMES[1]]
    truth["gradual"].append({"first_frame": len(out), "last_frame": len(out) + len(mixed) - 1, "kind": kind})
    out += mixed
    return [], following[length:]


def _dissolve(piece: list, following: list, length: int) -> list[np.ndarray]:
    tail = piece[len(piece) - GRADUAL_FRAMES[1] :]
    return [_mix(tail[k], following[k], (k + 1) / (length + 1)) for k in range(length)]


def _fade(piece: list, following: list, length: int, draw: np.random.Generator) -> list[np.ndarray]:
    blank = np.full_like(piece[0], 255 if draw.uniform() < 0.25 else 0)
    hold = 1 + int(draw.integers(0, 2))
    down = (length - hold + 1) // 2
    up = length - hold - down
    tail = piece[len(piece) - GRADUAL_FRAMES[1] :]
    sinking = [_mix(tail[k], blank, (k + 1) / (down + 1)) for k in range(down)]
    rising = [_mix(blank, following[down + hold + k], (k + 1) / (up + 1)) for k in range(up)]
    return [*sinking, *([blank] * hold), *rising]


def _mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return cv2.addWeighted(a, 1 - share, b, share, 0)


def _write(path: Path, frames: list[np.ndarray], crf: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(stream.encode(None))


def make(footage: Path, folder: Path, count: int, seed: int) -> None:
    """`count` films of JOINS transitions each, and their splices.json, in a folder."""
    parts, truth = sources(footage), {}
    for k in range(count):
        truth[f"splice_{k:03d}.mp4"] = splice(parts, folder / f"splice_{k:03d}.mp4", (seed, k))
    (folder / "splices.json").write_text(json.dumps({"seed": seed, "files": truth}, indent=1))
