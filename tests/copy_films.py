"""Films for the tests of copies: moves over photographs and patterns, their variants, and tables as a scan makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

import pipelines
from curate import embed
from curate.hashes import frame_hash
from curate.pictures import encode_jpeg

Film = list[tuple[float, np.ndarray]]  # (time in s, RGB uint8 (H, W, 3))
Change = Callable[[np.ndarray], np.ndarray]

MOVES = ("left", "right", "up", "down", "in", "out", "still")


def photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def pattern(seed: int) -> np.ndarray:
    """A picture of coloured shapes and soft noise, RGB uint8 (480, 720, 3), another one for every seed."""
    draw = np.random.default_rng([7, seed])
    rough = draw.uniform(0, 255, (6, 9, 3)).astype(np.float32)
    picture = cv2.resize(rough, (720, 480), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        centre = (int(draw.integers(720)), int(draw.integers(480)))
        colour = tuple(int(value) for value in draw.integers(0, 255, 3))
        cv2.circle(picture, centre, int(draw.integers(8, 60)), colour, -1)
    return np.clip(picture + draw.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def film(picture: np.ndarray, move: str, seconds: float = 3.0, fps: float = 8.0) -> Film:
    """A window of 60 % of the picture that moves over it."""
    height, width = picture.shape[:2]
    frames = []
    for index in range(int(seconds * fps)):
        at = index / (seconds * fps)
        x = {"left": 0.4 * (1 - at), "right": 0.4 * at}.get(move, 0.2)
        y = {"up": 0.4 * (1 - at), "down": 0.4 * at}.get(move, 0.2)
        size = {"in": 0.6 - 0.25 * at, "out": 0.35 + 0.25 * at}.get(move, 0.6)
        top, left = int(y * height), int(x * width)
        cut = picture[top : top + int(size * height), left : left + int(size * width)]
        frames.append((index / fps, cv2.resize(cut, (320, 200), interpolation=cv2.INTER_AREA)))
    return frames


def jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    from curate.pictures import decode_jpeg

    return decode_jpeg(encode_jpeg(rgb, quality))


def cropped(rgb: np.ndarray, each_side: float) -> np.ndarray:
    height, width = rgb.shape[:2]
    top, left = round(height * each_side), round(width * each_side)
    return rgb[top : height - top, left : width - left]


def with_logo(rgb: np.ndarray) -> np.ndarray:
    marked = rgb.copy()
    height, width = marked.shape[:2]
    cv2.circle(marked, (int(width * 0.88), int(height * 0.12)), int(height * 0.07), (250, 220, 30), -1)
    return marked


CHANGES: dict[str, Change] = {
    "reencoded": lambda rgb: jpeg(rgb, 20),
    "half size": lambda rgb: jpeg(cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 60),
    "cropped": lambda rgb: jpeg(cropped(rgb, 0.05), 60),
    "brighter": lambda rgb: jpeg(np.clip(rgb * 1.1 + 12, 0, 255).astype(np.uint8), 60),
    "darker": lambda rgb: jpeg((rgb * 0.75).astype(np.uint8), 60),
    "logo": lambda rgb: jpeg(with_logo(rgb), 60),
    "letterboxed": lambda rgb: jpeg(cv2.copyMakeBorder(rgb, 30, 30, 0, 0, cv2.BORDER_CONSTANT), 60),
}


def changed(frames: Film, change: Change) -> Film:
    return [(time, change(rgb)) for time, rgb in frames]


def trimmed(frames: Film, start: float = 0.2, end: float = 0.9) -> Film:
    return [(time, jpeg(rgb, 60)) for time, rgb in frames[int(len(frames) * start) : int(len(frames) * end)]]


def nearest(frames: Film, time: float) -> np.ndarray:
    return min(frames, key=lambda frame: abs(frame[0] - time))[1]


def tables(films: dict[str, Film], media: str = "video") -> dict[str, pa.Table]:
    """clip_id -> film, as the tables clips, hashes, proxies, embeddings of a scan."""
    clips, hashes, proxies = [], [], []
    for clip_id, frames in films.items():
        start, end = frames[0][0], frames[-1][0]
        height, width = frames[0][1].shape[:2]
        clips.append({"clip_id": clip_id, "media": media, "status": "ok", "width": width, "height": height})
        times = np.arange(start, end + 1e-6, 0.25).tolist()
        grey = [cv2.cvtColor(nearest(frames, time), cv2.COLOR_RGB2GRAY) for time in times]
        hashes.append({"clip_id": clip_id, "times_s": times, "hashes": [frame_hash(luma) for luma in grey]})
        shown = [start + (end - start) * k / 8 for k in range(8)] if end > start else [start]
        jpegs = [encode_jpeg(nearest(frames, time), 90) for time in shown]
        proxies.append({"clip_id": clip_id, "times_s": shown, "jpegs": jpegs})
    made = {
        "clips": pa.Table.from_pylist(clips),
        "hashes": pa.Table.from_pylist(
            hashes,
            pa.schema(
                [("clip_id", pa.string()), ("times_s", pa.list_(pa.float64())), ("hashes", pa.list_(pa.uint64()))]
            ),
        ),
        "proxies": pa.Table.from_pylist(proxies),
    }
    return made | {"embeddings": embed.embed(made["proxies"], pipelines.Embed())}


def decoded(path: Path, long_side: int = 320) -> Film:
    """All frames of a file, shrunk. Decoded here, so that the tests of copies do not lean on the scan."""
    import av

    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            scale = min(1.0, long_side / max(frame.width, frame.height))
            size = (int(frame.width * scale) // 2 * 2, int(frame.height * scale) // 2 * 2)
            rgb = frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
            frames.append((float(frame.time or 0.0), rgb))
    return frames
