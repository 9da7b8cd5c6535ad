"""A small curated workspace with real footage in it: tiny videos and pictures, and the tables `curate` would write."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

import commands
from curate.tables import SCHEMAS, Tables, typed, write_part
from media.write import write_mp4, write_png
from pipelines import Recipe, check, resolved

FPS = 24.0
DEFAULTS: dict[str, Any] = {
    "name": "test",
    "sets": {"images": {"media": "image"}, "videos": {"media": "video"}},
    "views": {
        "picture": {"size": 64, "aspects": ["3:2", "1:1"]},
        "clip": {"size": 64, "frames": 9, "fps": FPS, "aspects": ["3:2", "1:1"]},
    },
    "cache": {"caption_variants": 2, "shard_bytes": 60_000},
    "stages": {
        "both": {
            "feeds": [{"set": "images", "view": "picture"}, {"set": "videos", "view": "clip"}],
            "tokens": 64, "steps": 1, "lr": 1.0e-3,
        },
        "pictures": {"feeds": [{"set": "images", "view": "picture"}], "tokens": 64, "steps": 1, "lr": 1.0e-3},
    },
    "curate": {"signals": {}},
}  # fmt: skip


def recipe(folder: Path, **more: Any) -> Recipe:
    """The recipe of a workspace under `folder`; more: whole keys of DEFAULTS, replaced."""
    return check(DEFAULTS | {"footage": [], "workspace": str(folder / "work")} | more)


def config(chosen: Recipe, path: Path) -> Path:
    """A pipelines.yaml with this recipe alone."""
    data = resolved(chosen)
    name = data.pop("name")
    path.write_text(yaml.safe_dump({"default": name, "recipes": {name: _without_nulls(data)}}))
    return path


def clip(i: int, media: str, path: str, frames: int, width: int, height: int, **more: Any) -> dict[str, Any]:
    """One row of `clips`: the whole file. Ids are spread like hashes, so order in time is not order by id."""
    seconds = 0.0 if media == "image" else frames / FPS
    number = (i * 0x9E3779B97F4A7C15) % 2**64
    return {
        "clip_id": f"{number:016x}", "video_id": f"{i:016x}", "path": path, "media": media, "shot": 0, "span": 0,
        "shot_start_s": 0.0, "shot_end_s": seconds, "tb_num": 1, "tb_den": 12288, "start_s": 0.0, "end_s": seconds,
        "start_tick": 0, "frames": frames, "width": width, "height": height, "fps": FPS, "status": "ok",
    } | more  # fmt: skip


def footage(folder: Path, videos: int = 6, images: int = 4, frames: int = 14) -> list[dict[str, Any]]:
    """Write tiny files, every third one square, and give their rows of `clips`."""
    rows = []
    for i in range(videos + images):
        side = (64, 64) if i % 3 == 2 else (64, 96)
        if i < videos:
            path = str(folder / f"video{i}.mp4")
            write_mp4(path, drawn(i, frames, *side), FPS)
            rows.append(clip(i + 1, "video", path, frames, side[1], side[0]))
        else:
            path = str(folder / f"image{i}.png")
            write_png(path, drawn(i, 1, *side)[0])
            rows.append(clip(i + 1, "image", path, 1, side[1], side[0]))
    return rows


def drawn(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 (T, H, W, 3): smooth colours that drift."""
    generator = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [
        np.sin(x / generator.uniform(6, 20) + y / generator.uniform(6, 20) + t * generator.uniform(-0.3, 0.3) + phase)
        for phase in generator.uniform(0, 6, 3)
    ]
    return np.round(127.5 + 90 * np.stack(waves, -1)).astype(np.uint8)


def fill(chosen: Recipe, clips: Sequence[dict[str, Any]], captions: dict[str, list[str]] | None = None,
         dropped: Sequence[str] = ()) -> Recipe:  # fmt: skip
    """Write clips, captions and the ledgers of all sets. dropped: clip ids that the sets don't keep."""
    source = Tables(chosen)
    write_part(source.part("clips", 0), typed(list(clips), SCHEMAS["clips"]))
    texts = captions or {row["clip_id"]: [f"clip {row['video_id'][-2:]} in colour", "colour"] for row in clips}
    rows = [{"clip_id": key, "caption": "{}", "source": "sidecar", "texts": texts[key]} for key in sorted(texts)]
    write_part(source.part("captions", 0), typed(rows, SCHEMAS["captions"]))
    for name in chosen.sets:
        media = chosen.media(name)
        kept = {row["clip_id"]: row["media"] == media and row["clip_id"] not in dropped for row in clips}
        ledger = [
            {"clip_id": key, "kept": keep, "reason": None if keep else f"not {media}", "weight": float(keep), "split": "train"}
            for key, keep in kept.items()
        ]  # fmt: skip
        write_part(source.ledger_path(name), pa.Table.from_pylist(ledger, schema=SCHEMAS["ledger"]))
    return chosen


def leave(app: Any, *arguments: str) -> int:
    """The exit code of a command, run in this process; the signal handlers it installs are taken away again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        commands.run(lambda: app(list(arguments), standalone_mode=False))
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shard_bytes(folder: str | Path) -> dict[str, bytes]:
    """Every tar below a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.tar"))}


def _without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    return data
