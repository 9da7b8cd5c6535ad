"""Which device a process computes on."""

from __future__ import annotations

import os

import torch


class NoDevice(FileNotFoundError):
    """The device that was asked for is not on this machine. The message says what is."""


def best_device(asked: str | None = None) -> torch.device:
    """The one asked for, else cuda where there is one; of several GPUs the one that torchrun gave this process.

    Raises NoDevice.
    """
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise NoDevice(f"--device {asked}: no such device; give cpu or cuda") from None
    if device.type != "cuda":
        return device
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    count = torch.cuda.device_count()
    if index >= count:
        built = "" if torch.backends.cuda.is_built() else " (this PyTorch is built without CUDA)"
        raise NoDevice(
            f"--device cuda: GPU {index} is not there, PyTorch sees {count}{built}; --device cpu goes anywhere"
        )
    return torch.device("cuda", index)


def lack_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that is not there, in a line; None for any other error."""
    words = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in words.lower():
        return words.splitlines()[0] if words else "out of memory"
    return None
