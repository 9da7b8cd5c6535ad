"""What GPUs can do, from their makers' data sheets: dense operations per second and memory."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """Peaks in operations per second, without sparsity; bfloat16 accumulates in float32. words: what its name holds."""

    bfloat16: float
    float32: float
    memory_bytes: float
    words: tuple[str, ...]


GPUS: dict[str, Gpu] = {
    "b200": Gpu(2250e12, 75e12, 180e9, ("b200",)),
    "h200": Gpu(989e12, 67e12, 141e9, ("h200",)),
    "h100": Gpu(989e12, 67e12, 80e9, ("h100", "hbm3")),
    "h100-pcie": Gpu(756e12, 51e12, 80e9, ("h100", "pcie")),
    "a100": Gpu(312e12, 19.5e12, 80e9, ("a100", "80gb")),
    "a100-40gb": Gpu(312e12, 19.5e12, 40e9, ("a100", "40gb")),
    "l40s": Gpu(362e12, 91.6e12, 48e9, ("l40s",)),
    "5090": Gpu(209.5e12, 104.8e12, 32e9, ("5090",)),
    "4090": Gpu(165.2e12, 82.6e12, 24e9, ("4090",)),
    "3090": Gpu(71e12, 35.6e12, 24e9, ("3090",)),
}


def peak_flops(gpu: Gpu, precision: str) -> float:
    """Operations per second of a stage's precision; float64 and float32 run outside the tensor cores."""
    return gpu.bfloat16 if precision == "bfloat16" else gpu.float32


def known(device_name: str) -> Gpu | None:
    """The GPU of a CUDA device's name ("NVIDIA H100 80GB HBM3"), or None: then no share of its peak is told."""
    name = device_name.lower().replace(" ", "")
    return next((gpu for gpu in GPUS.values() if all(word in name for word in gpu.words)), None)
