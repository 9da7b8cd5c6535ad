"""Checkpoints: a folder per kept step, there whole or not at all.

checkpoints/step-00000100/  model.safetensors      master weights under the released names
                            average.safetensors    their moving average
                            optimiser.safetensors  AdamW's state
                            state.json             step, recipe, data, and size and checksum of the others

Locally the folder is written beside its place and renamed; on an object store state.json goes last. A folder without
its state.json, or whose files are not those it names, is no checkpoint: it is set aside, never deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from media import storage

PREFIX = "step-"
Tensors = dict[str, dict[str, Tensor]]


class Checkpoint(NamedTuple):
    """state: what was given to save(); the tensors are read by load()."""

    path: str
    step: int
    state: dict[str, Any]


def save(folder: str, step: int, tensors: Tensors, state: dict[str, Any]) -> str:
    """Write checkpoint `step` into a run's folder; tensors: one dictionary per file. Returns its path."""
    path = storage.join(folder, "checkpoints", f"{PREFIX}{step:08d}")
    beside = None if storage.is_remote(path) else os.path.dirname(path)
    if beside:
        os.makedirs(beside, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{storage.name(path)}.", suffix=".part", dir=beside))
    try:
        for name, held in tensors.items():
            save_file({key: one.detach().contiguous() for key, one in held.items()}, part / f"{name}.safetensors")
        files = {file.name: {"bytes": file.stat().st_size, "crc": _crc(file)} for file in sorted(part.iterdir())}
        document = json.dumps({"step": step, "files": files, **state}, indent=1)
        (part / "state.json").write_text(document + "\n", encoding="utf-8")
        _publish(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def latest(folder: str) -> Checkpoint | None:
    """The newest whole checkpoint of a run; newer broken ones are set aside and named on stderr."""
    root = storage.join(folder, "checkpoints")
    for name in sorted((one for one in storage.folders(root) if one.startswith(PREFIX)), reverse=True):
        path = storage.join(root, name)
        fault = broken(path)
        if fault is None:
            state = json.loads(storage.read_bytes(storage.join(path, "state.json")))
            return Checkpoint(path, int(state["step"]), state)
        print(f"{path}: {fault}; set aside as {_set_aside(path)}", file=sys.stderr)
    return None


def broken(path: str) -> str | None:
    """What is wrong with a checkpoint, or None. Sizes here, checksums when it is loaded."""
    try:
        state = json.loads(storage.read_bytes(storage.join(path, "state.json")))
        for name, wanted in state["files"].items():
            found = storage.stat(storage.join(path, name)).bytes
            if found != wanted["bytes"]:
                return f"{name} must have {wanted['bytes']} bytes, has {found}"
    except FileNotFoundError as error:
        return f"{storage.name(str(error.filename))} is missing"
    except (ValueError, KeyError) as error:
        return f"state.json cannot be read ({error})"
    return None


def load(checkpoint: Checkpoint) -> Tensors:
    """Its tensors, one dictionary per file. Raises ValueError when the bytes are not those that were written."""
    return {name.removesuffix(".safetensors"): _load(checkpoint, name) for name in checkpoint.state["files"]}


def prune(folder: str, keep_last: int, milestones: Collection[int]) -> None:
    """Remove all checkpoints but the newest `keep_last` and the milestones."""
    root = storage.join(folder, "checkpoints")
    names = sorted(one for one in storage.folders(root) if one.startswith(PREFIX) and one[len(PREFIX) :].isdigit())
    for name in names[: -keep_last or None]:
        if int(name.removeprefix(PREFIX)) not in milestones:
            storage.remove(storage.join(root, name))


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    path, wanted = storage.join(checkpoint.path, name), checkpoint.state["files"][name]["crc"]
    if not storage.is_remote(path):
        return _checked(path, path, wanted)
    with tempfile.TemporaryDirectory() as here:
        storage.get(path, os.path.join(here, name))
        return _checked(os.path.join(here, name), path, wanted)


def _checked(local: str, path: str, wanted: int) -> dict[str, Tensor]:
    if _crc(Path(local)) != wanted:
        raise ValueError(f"{path}: not the bytes that were written; move its folder away and the one before is used")
    return load_file(local)


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as source:
        while block := source.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc


def _publish(part: Path, path: str) -> None:
    if storage.is_remote(path):
        for name in sorted((file.name for file in part.iterdir()), key=lambda name: name == "state.json"):
            storage.put(str(part / name), storage.join(path, name))
        return
    for file in (*part.iterdir(), part):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    if os.path.exists(path):  # a run that went back to an earlier step comes by here again
        shutil.rmtree(path)
    os.chmod(part, 0o755)
    os.rename(part, path)


def _set_aside(path: str) -> str:
    aside = storage.join(os.path.dirname(path), f"broken-{storage.name(path)}")
    if storage.is_remote(path):
        return f"{path} itself (object stores rename nothing)"
    while os.path.exists(aside):
        aside += "x"
    os.rename(path, aside)
    return aside
