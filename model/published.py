"""Published weights of the transformer as they lie on a disk: in one file or several, under the released names, those of
diffusers' class, or ComfyUI's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.comfyui import PREFIX, from_comfyui
from model.convert import State, from_diffusers, to_diffusers
from model.weights import MissingWeights

OURS, THEIRS = "model.safetensors", "diffusion_pytorch_model.safetensors"
_WIDTH, _THEIR_WIDTH = "img_in.proj.bias", "x_embedder.proj.bias"  # what to_diffusers tells the width by


def read_published(path: str) -> Mapping[str, Tensor]:
    """The weights in a file, or in a folder or its `transformer` subfolder, under our names. They are mapped: what nobody
    asks for is not read.

    Raises MissingWeights, and ValueError for pickled files and for weights of another kind of network.
    """
    found: State = {}
    for file in _files(Path(path).expanduser()):
        found |= load_file(file)
    if any(name.startswith("single_transformer_blocks.") for name in found):
        return Converted(found)
    return from_comfyui(found) if all(name.startswith(PREFIX) for name in found) else found


class Converted(Mapping[str, Tensor]):
    """Weights of diffusers' class under our names; a matrix that is several of theirs is put together when it is asked for,
    so that a process that keeps a part of each never holds them all."""

    def __init__(self, theirs: State):
        self._theirs = theirs
        empty = {name: torch.empty_like(one, device="meta") for name, one in theirs.items()}
        shapes = from_diffusers(empty)
        self.shapes = {name: tuple(one.shape) for name, one in shapes.items()}
        self._from: dict[str, list[str]] = {}
        for name, one in shapes.items():
            told = to_diffusers({name: one, _WIDTH: shapes[_WIDTH]})
            self._from[name] = [key for key in told if name == _WIDTH or key != _THEIR_WIDTH]

    def __getitem__(self, name: str) -> Tensor:
        return from_diffusers({key: self._theirs[key] for key in self._from[name]})[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._from)

    def __len__(self) -> int:
        return len(self._from)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Without converting any."""
    if isinstance(weights, Converted):
        return weights.shapes
    return {name: tuple(one.shape) for name, one in weights.items()}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [_unpickled(path)]
    for folder in (path, path / "transformer"):
        if (folder / f"{THEIRS}.index.json").is_file():
            index = json.loads((folder / f"{THEIRS}.index.json").read_text(encoding="utf-8"))
            return [folder / name for name in sorted(set(index["weight_map"].values()))]
        for name in (OURS, THEIRS):
            if (folder / name).is_file():
                return [folder / name]
    raise MissingWeights(f"no weights at {path}: it must be a .safetensors file, or hold {OURS} or {THEIRS}, there or in "
                         "`transformer`")  # fmt: skip


def _unpickled(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: pickled weights are not read; take the same as safetensors, for HunyuanVideo those of "
                         "hunyuanvideo-community/HunyuanVideo (transformer)")  # fmt: skip
    return path
