"""The image tokens of a black picture: what stands for a picture that training leaves out (black.safetensors)."""

from __future__ import annotations

import numpy as np
import torch

from cache.fingerprint import CacheError
from cache.members import pack, unpack
from media import storage
from model.image_tokens import ImageTokens


def write_black(folder: str, seer: ImageTokens, dtype: str) -> None:
    """Once per cache: they depend on what its fingerprint covers alone."""
    path = storage.join(folder, "black.safetensors")
    if not storage.exists(path):
        tokens = seer.encode(np.zeros((1, 64, 64, 3), np.uint8))[0]
        storage.write_bytes(path, pack({"image_tokens": tokens.to(getattr(torch, dtype))}))


def read_black(folder: str) -> torch.Tensor:
    """(tokens, D) in the stored dtype, as the condition `image_tokens` of a sample. Raises CacheError."""
    path = storage.join(folder, "black.safetensors")
    if not storage.exists(path):
        raise CacheError(f"{path}: not there; it is made with the condition image_tokens (cache.conditions)")
    return unpack(memoryview(bytearray(storage.read_bytes(path))), path)[0]["image_tokens"]
