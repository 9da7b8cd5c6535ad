"""Remedies for faults of others.

A torchvision built for CUDA beside a CPU build of torch: there, `import torchvision` raises "operator
torchvision::nms does not exist", and with it open_clip, diffusers, transformers models, timm, lpips and peft fail to
import. The files that import those libraries call `mend_torchvision()` first.

glibc returns large blocks to the kernel as soon as they are free, and torch asks for new ones in every layer: on a CPU
the kernel then spends more time on clearing pages than a small network on its arithmetic. `keep_freed_memory()`.

A private Ray listens on all interfaces of a Linux machine, whatever address it is given, and without a token anyone who can
reach it can run code there. On Windows and macOS it stays on 127.0.0.1: `keep_ray_on_loopback()` asks for that.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys

_kept_alive: list[object] = []  # a torch Library lives as long as its object


def mend_torchvision() -> None:
    """Import torchvision; if, and only if, its nms operator is missing, declare it and import again.

    A later call of nms still raises torch's clear error: there is no kernel behind the declaration.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # torchvision is not installed: nothing to mend
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _declare_and_import()


def keep_freed_memory(for_all_threads: bool = True) -> bool:
    """Have this process keep the memory that it frees, for the next tensor of that size. Whether libc lets it.

    An encoder of 17 x 256 x 256 px with 8 to 16 channels took 1.0 s instead of 2.8 s (benchmarks.encode), and motion, which makes
    hundreds of arrays of 100 kB for a pair of frames, takes up to a tenth less. Only the main thread's memory is large enough for it:
    with for_all_threads those that begin later share it. Numbers of the settings: malloc.h, M_ARENA_MAX, M_TRIM_THRESHOLD
    and M_MMAP_THRESHOLD.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # musl, macOS, Windows
    if for_all_threads and not mallopt(-8, 1):
        return False
    return bool(mallopt(-3, 2**30)) and bool(mallopt(-1, 2**31 - 1))


def give_back_freed_memory() -> bool:
    """Have this process return to the kernel what it has freed and kept, so that what comes next does not lie on top of
    it: after a training step of the demo that is 60 of 700 MB. Whether libc could."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False  # musl, macOS, Windows


def keep_ray_on_loopback() -> None:
    """To be called before the first `import ray` of a process that starts a Ray of its own; its children inherit it."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _declare_and_import() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
