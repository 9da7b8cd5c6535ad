"""Folders of published weights: where they are, what they hold, what their bytes are."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash


class MissingWeights(FileNotFoundError):
    """Weights that a recipe names are not on this machine. The message says what to put where."""


def find_weights(spec: str, what: str, *subfolders: str) -> Path:
    """The folder with a config.json that a path or the name of a hub model means, or one of its subfolders.

    A hub name is looked up among the models that are already on this machine: nothing is downloaded unasked.
    Raises MissingWeights.
    """
    base = Path(spec).expanduser()
    if not base.is_dir() and (held := _held_by_hub(spec)) is not None:
        base = held
    for folder in (base, *(base / name for name in subfolders)):
        if (folder / "config.json").is_file():
            return folder
    if base.is_dir():
        raise MissingWeights(f"{what} {spec}: the folder has no config.json; give the folder that holds the weights")
    raise MissingWeights(f"{what} {spec}: no such folder; {_remedy(spec)}")


def _remedy(spec: str) -> str:
    if spec.count("/") == 1 and not spec.startswith(("/", ".", "~")):
        return f"put the weights there, or fetch the model of that name: hf download {spec}"
    return "put the weights there, or name a model of the hub that is on this machine (OWNER/NAME)"


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def weights_digest(folder: Path) -> str:
    """32 hex digits of the folder's safetensors files, names and bytes. Raises MissingWeights when there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingWeights(f"{folder}: no .safetensors file (pickled weights are not read)")
    found = ((file.name, str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    parts = [f"{name}:{_digest(path, size, modified)}" for name, path, size, modified in found]
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())


def _held_by_hub(spec: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


@lru_cache(maxsize=256)
def _digest(path: str, size: int, modified: int) -> str:
    """Of every byte: a fine-tuned decoder, or one tensor, must not pass for the same weights. size and modified are
    only the key under which a process remembers it."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL) if hasattr(os, "posix_fadvise") else None
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()
