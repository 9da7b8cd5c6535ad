"""The transformer on a GPU: how much of what bare products and the attention kernel reach does a training step keep?

    python -m benchmarks.dit_gpu                        # the slice of full width, all shapes, compiled and not
    python -m benchmarks.dit_gpu --device cpu --size tiny --shapes 256     # only to see that it runs

A step is forward, loss, backward and AdamW in bfloat16 on one sample (pictures: as many as fill 8,448 tokens). Bare
rates are measured in the same process at the same shapes: the four products of a single block, and scaled dot-product
attention, each forward and backward. `of bare` is the time that the step's operations would take at these rates over
the time it takes; MFU counts the operations of model/flops.py (attention included, repeats of checkpointing not) over
--peak-tflops.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.dit import DiT, compile_blocks
from model.flops import forward_flops, training_flops
from model.sizes import SIZES

TEXT = 118
ROUNDS = 5
# name: samples, latent (frames, height, width)
SHAPES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "256 = 1x256x256": (33, (1, 32, 32)),
    "2304 = 33x256x256": (1, (9, 32, 32)),
    "8448 = 129x256x256": (1, (33, 32, 32)),
    "30360 = 129x368x640": (1, (33, 46, 80)),
    "51000 = 97x544x960": (1, (25, 68, 120)),
}


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of the fastest of some calls, after one that does not count."""
    call()
    fastest = float("inf")
    for _ in range(ROUNDS):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_step(model: DiT, given: dict[str, Tensor], fused: bool) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)

    def step() -> None:
        (model(**given) - given["x"]).float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def inputs(size: dict[str, Any], samples: int, shape: tuple[int, int, int], device: torch.device) -> dict[str, Tensor]:
    def normal(*sides: int) -> Tensor:
        return torch.randn(*sides, device=device, dtype=torch.bfloat16)

    return {
        "x": normal(samples, size["in_channels"], *shape), "t": torch.rand(samples, device=device) * 1000,
        "text": normal(samples, TEXT, size["text_width"]), "pooled": normal(samples, size["pooled_width"]),
        "text_mask": torch.ones(samples, TEXT, dtype=torch.bool, device=device),
    }  # fmt: skip


def product_rate(size: dict[str, Any], tokens: int, device: torch.device) -> float:
    """FLOP/s of the products of a single block on so many tokens, forward and both gradients."""
    d, mlp = size["width"], int(size["width"] * size["mlp_ratio"])
    pairs = [(d, 3 * d + mlp), (d + mlp, d)]
    operands = [
        [torch.randn(tokens, a, device=device, dtype=torch.bfloat16).requires_grad_(),
         torch.randn(b, a, device=device, dtype=torch.bfloat16).requires_grad_()] for a, b in pairs
    ]  # fmt: skip
    upstream = [torch.randn(tokens, b, device=device, dtype=torch.bfloat16) for _, b in pairs]

    def call() -> None:
        for (x, weight), gradient in zip(operands, upstream):
            torch.autograd.grad(F.linear(x, weight), (x, weight), gradient)

    return sum(6.0 * tokens * a * b for a, b in pairs) / seconds(call, device)


def attention_rate(size: dict[str, Any], samples: int, tokens: int, device: torch.device) -> float:
    """FLOP/s of attention, counted as model/flops.py does: the backward pass as twice the forward."""
    shape = (samples, size["heads"], tokens, size["width"] // size["heads"])
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    upstream = torch.randn(shape, device=device, dtype=torch.bfloat16)

    def call() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), upstream)

    return 12.0 * samples * tokens**2 * size["width"] / seconds(call, device)


def measure(name: str, compiled: bool, given: argparse.Namespace) -> dict[str, Any]:
    device, size = torch.device(given.device), SIZES[given.size]
    samples, shape = SHAPES[name]
    video = int(name.split(" ")[0])
    with torch.random.fork_rng(devices=[]):
        model = DiT(**size | {"checkpointing": given.checkpointing}).to(device, torch.bfloat16)
    if compiled:
        compile_blocks(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds(training_step(model, inputs(size, samples, shape, device), device.type == "cuda"), device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    del model
    cost = forward_flops(size, video, TEXT, samples)
    products = product_rate(size, samples * (video + TEXT), device)
    attention = attention_rate(size, samples, video + TEXT, device)
    bare = 3 * ((cost.total - cost.attention) / products + cost.attention / attention)
    rate = training_flops(size, video, TEXT, samples) / took
    return {
        "shape": name, "compiled": compiled, "seconds": took, "tokens_per_s": samples * video / took,
        "mfu": rate / (given.peak_tflops * 1e12), "of_bare": bare / took, "product_tflops": products / 1e12,
        "attention_tflops": attention / 1e12, "peak_bytes": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="slice", choices=SIZES)
    parser.add_argument("--shapes", nargs="*", default=[], help="starts of shape names; all without it")
    parser.add_argument("--checkpointing", default="selective", choices=("none", "selective", "full"))
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="of the device in bfloat16; 989 is an H100/H200"
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", help="file to write the figures to")
    given = parser.parse_args()
    shapes = [name for name in SHAPES if not given.shapes or any(name.startswith(start) for start in given.shapes)]
    print("| video tokens | compiled | tokens/s | MFU | of bare | products TFLOP/s | attention TFLOP/s | peak GB |")
    print("|" + 8 * "---|")
    rows = []
    for name in shapes:
        for compiled in (False,) if given.no_compile else (False, True):
            row = measure(name, compiled, given)
            rows.append(row)
            print(f"| {name} | {compiled} | {row['tokens_per_s']:.0f} | {row['mfu']:.3f} | {row['of_bare']:.2f} | "
                  f"{row['product_tflops']:.1f} | {row['attention_tflops']:.1f} | {row['peak_bytes'] / 1e9:.1f} |",
                  flush=True)  # fmt: skip
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"size": given.size, "checkpointing": given.checkpointing, "rows": rows}, file)


if __name__ == "__main__":
    main()
