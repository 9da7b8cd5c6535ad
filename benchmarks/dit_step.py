"""A training step of our transformer against diffusers' class at the same configuration: tokens/s and peak memory.

    python -m benchmarks.dit_step                  # eager, all shapes
    python -m benchmarks.dit_step --compile        # both compiled, block by block: minutes before the first step
    python -m benchmarks.dit_step --shapes 1280 --rounds 5 --threads 1 --clock cpu

Both models hold the same weights and get the same batches: latents, and captions padded to 256 tokens with a mask, as
HunyuanVideo's pipeline feeds them. A step is forward, loss, backward and AdamW. Each model has a process of its own; their
steps alternate, and the fastest of the rounds counts, so that a busy machine disturbs both alike. Peak memory is the
highest resident size of that process less the one before its model was made.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compat import mend_torchvision
from model.convert import diffusers_config, to_diffusers
from model.dit import DiT, compile_blocks
from model.sizes import SIZES

SIZE: dict[str, Any] = SIZES["small"] | {"double_blocks": 2, "single_blocks": 4}
PADDED = 256

# name: latent (frames, height, width) and the captions' lengths in tokens, one a sample; plans put alike ones together.
SHAPES: dict[str, tuple[tuple[int, int, int], tuple[int, ...]]] = {
    "1024 = 4 x 1x256x256": ((1, 32, 32), (88, 91, 97, 104)),
    "1280 = 17x256x256": ((5, 32, 32), (118,)),
    "2048 = 2 x 1x512x512": ((1, 64, 64), (84, 97)),
    "2304 = 33x256x256": ((9, 32, 32), (142,)),
    "2560 = 2 x 17x256x256": ((5, 32, 32), (103, 118)),
    "4096 = 61x256x256": ((16, 32, 32), (97,)),
    "4096 = 16 x 1x256x256": ((1, 32, 32), (62, 66, 69, 73, 75, 80, 82, 84, 88, 91, 97, 104, 110, 115, 122, 131)),
}

Batch = dict[str, Tensor]
Step = Callable[[Batch], None]


def batch_of(shape: str) -> Batch:
    (frames, height, width), lengths = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    count = len(lengths)
    return {
        "x": torch.randn(count, SIZE["in_channels"], frames, height, width, generator=generator),
        "t": torch.rand(count, generator=generator) * 1000,
        "text": torch.randn(count, PADDED, SIZE["text_width"], generator=generator),
        "text_mask": torch.arange(PADDED) < torch.tensor(lengths)[:, None],
        "pooled": torch.randn(count, SIZE["pooled_width"], generator=generator),
    }


def tokens_of(shape: str) -> int:
    return int(shape.split(" ")[0])


def ours(compiled: bool) -> Step:
    torch.manual_seed(0)
    model = DiT(**SIZE)
    if compiled:
        compile_blocks(model)
    return _step(model, lambda batch: model(**batch))


def diffusers(compiled: bool) -> Step:
    mend_torchvision()
    from diffusers import HunyuanVideoTransformer3DModel  # heavy: only where it is used

    torch.manual_seed(0)
    model: Any = HunyuanVideoTransformer3DModel(**diffusers_config(SIZE))
    model.load_state_dict(to_diffusers(DiT(**SIZE).state_dict()))
    if compiled:
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            block.compile()
    return _step(model, lambda batch: _diffusers_forward(model, batch))


def _diffusers_forward(model: Any, batch: Batch) -> Tensor:
    return model(
        hidden_states=batch["x"],
        timestep=batch["t"],
        encoder_hidden_states=batch["text"],
        encoder_attention_mask=batch["text_mask"],
        pooled_projections=batch["pooled"],
        return_dict=False,
    )[0]


def _step(model: nn.Module, forward: Callable[[Batch], Tensor]) -> Step:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        (forward(batch) - batch["x"]).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

MODELS: dict[str, Callable[[bool], Step]] = {"ours": ours, "diffusers": diffusers}


class Contestant:
    """A process that holds one model and takes a step when it is told to."""

    def __init__(self, name: str, shape: str, given: argparse.Namespace):
        command = [sys.executable, "-m", "benchmarks.dit_step", "--serve", name, "--shapes", shape]
        command += ["--threads", str(given.threads), "--clock", given.clock]
        self.process = subprocess.Popen([*command, *(["--compile"] if given.compile else [])], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def ask(self) -> tuple[float, int]:
        """Seconds of one more step, and the peak so far in bytes."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        seconds, peak = self.process.stdout.readline().split()
        return float(seconds), int(peak)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measured(shape: str, given: argparse.Namespace) -> tuple[dict[str, float], dict[str, int]]:
    """Fastest step in seconds and peak in bytes of each model; one unmeasured round goes before."""
    contestants = {name: Contestant(name, shape, given) for name in MODELS}
    try:
        for one in contestants.values():
            one.ask()
        rounds = [{name: one.ask() for name, one in contestants.items()} for _ in range(given.rounds)]
    finally:
        for one in contestants.values():
            one.close()
    return (
        {name: min(each[name][0] for each in rounds) for name in MODELS},
        {name: rounds[-1][name][1] for name in MODELS},
    )


def serve(name: str, shape: str, given: argparse.Namespace) -> None:
    """A step for each line on standard input; its seconds and the peak on standard output."""
    mend_torchvision()
    import diffusers.models  # noqa: F401  in both processes, so that importing it counts in neither

    before, clock = _resident_bytes(), CLOCKS[given.clock]
    step, batch = MODELS[name](given.compile), batch_of(shape)
    for _ in sys.stdin:
        started = clock()
        step(batch)
        seconds = clock() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(seconds, peak, flush=True)


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=[], help="starts of shape names; all without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu, with one thread, for a busy machine")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--serve", choices=MODELS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shapes = [name for name in SHAPES if not given.shapes or any(name.startswith(start) for start in given.shapes)]
    if given.serve:
        serve(given.serve, shapes[0], given)
        return
    print(
        "| video tokens | ours tokens/s | diffusers tokens/s | ratio | ours peak GB | diffusers peak GB |\n|"
        + 6 * "---|"
    )
    rows = [_row(shape, given) for shape in shapes]
    total = {name: sum(row["tokens"] for row in rows) / sum(row[f"{name}_s"] for row in rows) for name in MODELS}
    print(f"| all | {total['ours']:.0f} | {total['diffusers']:.0f} | {total['ours'] / total['diffusers']:.2f} | | |")
    if given.json:
        how = {"compiled": given.compile, "threads": given.threads}
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(how | {"rows": rows, "tokens_per_s": total}, file)


def _row(shape: str, given: argparse.Namespace) -> dict[str, Any]:
    seconds, peaks = measured(shape, given)
    rates = {name: tokens_of(shape) / seconds[name] for name in MODELS}
    memory = " | ".join(f"{peaks[name] / 1e9:.2f}" for name in MODELS)
    print(
        f"| {shape} | {rates['ours']:.0f} | {rates['diffusers']:.0f} | {seconds['diffusers'] / seconds['ours']:.2f} |"
        f" {memory} |",
        flush=True,
    )
    return {
        "shape": shape, "tokens": tokens_of(shape), "ours_s": seconds["ours"], "diffusers_s": seconds["diffusers"],
        "peak_bytes": peaks,
    }  # fmt: skip


if __name__ == "__main__":
    main()
