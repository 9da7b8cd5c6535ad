"""The image tower of an open_clip model over the frames of a clip: the only network of the global steps.

`embed.model` is a name of open_clip with `embed.pretrained` a tag of it or the path of a weights file, or the path of a
folder with `open_clip_config.json` and the weights beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import compat
import pipelines
from recipe_file import suggest

TOWER_VERSION = 2
FRAMES_AT_ONCE = 32
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Tower:
    """Frames of a clip -> their mean direction in the model's image space."""

    def __init__(self, model: Any, prepare: Any, device: torch.device) -> None:
        self.model, self.prepare, self.device = model, prepare, device

    def __call__(self, frames: list[np.ndarray]) -> np.ndarray:
        """T >= 1 frames RGB uint8 (H, W, 3) -> float32 (D,), unit length: each frame's unit vector, averaged."""
        from PIL import Image

        if not frames:
            raise ValueError("a clip must have at least one proxy frame to be embedded, got none")
        pixels = torch.stack([self.prepare(Image.fromarray(frame)) for frame in frames])
        with torch.inference_mode(), _one_thread():
            parts = [self.model.encode_image(part.to(self.device)).float() for part in pixels.split(FRAMES_AT_ONCE)]
            directions = torch.nn.functional.normalize(torch.cat(parts), dim=-1)
        return torch.nn.functional.normalize(directions.mean(0), dim=0).cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A product that several threads of a CPU share rounds by how many they are, and on Ray a worker has fewer of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gpus() -> int:
    """GPUs of this machine that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def load_tower(settings: pipelines.Embed) -> Tower:
    """Loaded once per process for the same settings. Raises RecipeError naming what must be put where."""
    return _loaded(settings.model, settings.pretrained)


@lru_cache(maxsize=1)
def _loaded(model: str, pretrained: str | None) -> Tower:
    compat.mend_torchvision()
    import open_clip

    settings = pipelines.Embed(model=model, pretrained=pretrained)
    weights = weights_file(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = os.path.isdir(settings.model)
    name = f"local-dir:{os.path.abspath(settings.model)}" if folder else settings.model
    try:
        tag = None if folder else _tag_or_path(settings, weights)
        loaded: Any = open_clip.create_model_from_pretrained(name, pretrained=tag, device=device)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise pipelines.RecipeError(f"embed.model {settings.model}: cannot load {weights}: {error}") from None
    return Tower(loaded[0].eval(), loaded[1], device)


def weights_file(settings: pipelines.Embed) -> Path:
    """Where the weights lie; a tag is fetched if it is not there yet. Raises RecipeError."""
    if os.path.isdir(settings.model):
        for name in FOLDER_WEIGHTS:
            if (path := Path(settings.model) / name).is_file():
                return path
        raise pipelines.RecipeError(f"embed.model {settings.model}: the folder must hold {' or '.join(FOLDER_WEIGHTS)}")
    if settings.pretrained is None:
        raise pipelines.RecipeError(
            f"embed.model {settings.model}: give `embed.pretrained`, a tag of open_clip or the path of its weights"
        )
    return Path(settings.pretrained) if os.path.isfile(settings.pretrained) else _fetched(settings)


def weights_hash(settings: pipelines.Embed) -> str:
    """xxh3 (16 hex digits) of the weights file."""
    path = weights_file(settings)
    found = path.stat()
    return _hash(str(path), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file; size and mtime_ns only tell the memory that the file has changed."""
    import xxhash

    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _tag_or_path(settings: pipelines.Embed, weights: Path) -> str:
    return str(weights) if os.path.isfile(settings.pretrained or "") else str(settings.pretrained)


def _fetched(settings: pipelines.Embed) -> Path:
    compat.mend_torchvision()
    import open_clip
    from open_clip import pretrained as hub

    name, tag = settings.model.replace("/", "-"), str(settings.pretrained)
    if name not in open_clip.list_models():
        raise pipelines.RecipeError(
            f"embed.model {settings.model}: no such folder, and open_clip knows no model of that name"
            f"{suggest(name, open_clip.list_models())}"
        )
    known = hub.get_pretrained_cfg(name, tag)
    if not known:
        raise pipelines.RecipeError(
            f"embed.pretrained {tag}: no such file; put the weights there, give a tag of {name} "
            f"({', '.join(hub.list_pretrained_tags_by_model(name)) or 'it has none'}), or take what needs no weights: "
            "embed: {model: descriptor, pretrained: null}"
        )
    try:
        return Path(hub.download_pretrained(known))
    except Exception as error:  # noqa: BLE001  the hub's client raises whatever its transport does
        raise pipelines.RecipeError(
            f"embed.pretrained {tag}: the weights of {name} are not on this machine and cannot be fetched "
            f"({type(error).__name__}); put the file here and give its path as embed.pretrained"
        ) from None
