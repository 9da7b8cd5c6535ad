"""Stages that train low-rank adapters (`lora:`): the network they are put on, frozen, lies once in the run's folder.

base-<crc32>.safetensors is written before the first step; checkpoints hold the adapters alone. So a run goes on exactly
whatever becomes of the stage it started from, and an export needs nothing but the run's folder.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from media import storage
from model.lora import add_lora, lora_starts
from pipelines import Lora, RecipeError
from train import fetched

State = dict[str, Tensor]
PREFIX, SUFFIX = "base-", ".safetensors"


def put_on(model: nn.Module, lora: Lora, seed: int) -> None:
    """Adapters with the start values that the seed gives; all else is frozen. Raises RecipeError for unknown targets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            add_lora(model, lora.rank, lora.alpha, lora.targets)
        except ValueError as error:
            raise RecipeError(str(error)) from None


def begin(model: nn.Module, seed: int, put: Callable[[str, Tensor], None]) -> None:
    """What put_on gives adapters, to the bit, handed to `put` one by one: for a network that has no numbers yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, one in lora_starts(model):
            put(name, one)


def merged(base: State, adapters: State, lora: Lora) -> State:
    """Weights with the adapters' changes added, under the released names."""
    result = dict(base)
    for key, a in adapters.items():
        name, _, part = key.rpartition(".")
        if part == "lora_A":
            weight = result[f"{name}.weight"]
            change = lora.alpha / lora.rank * (adapters[f"{name}.lora_B"].to(weight) @ a.to(weight))
            result[f"{name}.weight"] = weight + change
    return result


def keep_base(folder: str, state: State) -> None:
    """Write the frozen weights into a run's folder, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="dailies-base-") as here:
        part = Path(here) / "base"
        save_file({name: one.detach().contiguous() for name, one in state.items()}, part)
        storage.put(str(part), storage.join(folder, f"{PREFIX}{_crc(part):08x}{SUFFIX}"))


def kept_base(folder: str) -> str | None:
    """Where a run's frozen weights lie, None before they were written; they are not read for it."""
    return next((one.path for one in storage.find(folder) if _is_base(storage.name(one.path))), None)


def base_of(folder: str) -> State | None:
    """The frozen weights of a run, None before they were written. Raises ValueError when they are not those written."""
    found = kept_base(folder)
    if found is None:
        return None
    if not storage.is_remote(found):
        return _checked(found, found)
    with fetched.together([found]) as here:
        return _checked(fetched.once(found, os.path.join(here, "base")), found)


def _checked(local: str, path: str) -> State:
    if f"{_crc(Path(local)):08x}" != storage.name(path)[len(PREFIX) : -len(SUFFIX)]:
        raise ValueError(f"{path}: not the bytes that were written; start the stage anew with --fresh")
    return load_file(local)


def _is_base(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as source:
        while block := source.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return crc
