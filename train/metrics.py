"""What a run tells: metrics.jsonl (one JSON object per line), TensorBoard events, and one line of progress.

Lines are {"step": s, ...} after s updates. A resumed run first cuts the file back to its checkpoint's step: the
sequence has no step twice and reads like that of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from typing import Any, TextIO

import torch

from commands import peak_resident_bytes
from train.distributed import World
from train.gpus import known, peak_flops

LINES_EVERY_S = 10.0  # where the output is no terminal
RATE_OVER = 20  # steps


def cut_back(path: str, step: int) -> None:
    """Leave in a metrics file only the whole lines up to `step`; for a run that starts anew, at 0, none."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        kept = [line for line in file if step and line.endswith("\n") and json.loads(line)["step"] <= step]
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.part", path)


def read(path: str) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last one is left out."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class Metrics:
    """Writes into a local folder from `step` on. Numbers of a record become TensorBoard scalars."""

    def __init__(self, folder: str, step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "metrics.jsonl")
        cut_back(path, step)
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = SummaryWriter(os.path.join(folder, "tensorboard"), purge_step=step + 1)

    def write(self, step: int, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        for name, value in _flat(record):
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, rgb: Any) -> None:
        """rgb: uint8 (H, W, 3)."""
        self._board.add_image(name, rgb, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._board.close()


def machine(world: World, precision: str, flop_s: float) -> dict[str, float]:
    """memory_gb: the most that this rank's device (or process) has held; mfu: the share of all ranks' peak that
    `flop_s` useful operations per second are, where the device's peak is known (train/gpus.py)."""
    if world.device.type != "cuda":
        return {"memory_gb": round(peak_resident_bytes() / 1e9, 4)}
    told = {"memory_gb": round(torch.cuda.max_memory_allocated(world.device) / 1e9, 4)}
    gpu = known(torch.cuda.get_device_name(world.device))
    return told if gpu is None else told | {"mfu": round(flop_s / world.size / peak_flops(gpu, precision), 4)}


def _flat(record: dict[str, Any], above: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{key}/")
        elif isinstance(value, (int, float)):
            found.append((f"{above}{key}", float(value)))
    return found


class Progress:
    """One line: stage, step / steps, loss, tokens/s, time left. On a terminal it is rewritten in place."""

    def __init__(self, stage: str, step: int, steps: int, as_json: bool = False, out: TextIO = sys.stdout):
        self.stage, self.steps, self.as_json, self._out = stage, steps, as_json, out
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=RATE_OVER + 1)
        self._loss: float | None = None
        self._told = 0.0

    def update(self, step: int, record: dict[str, Any]) -> None:
        self._recent.append((time.monotonic(), self._recent[-1][1] + record["tokens"]))
        self._loss = record["loss"] if self._loss is None else 0.95 * self._loss + 0.05 * record["loss"]
        if self.as_json:
            print(json.dumps({"stage": self.stage, "step": step, "steps": self.steps, **record}), file=self._out,
                  flush=True)  # fmt: skip
        elif self._out.isatty():
            print(f"\r{self.line(step)}\033[K", end="\n" if step == self.steps else "", file=self._out, flush=True)
        elif step == self.steps or time.monotonic() - self._told > LINES_EVERY_S:
            self._told = time.monotonic()
            print(self.line(step), file=self._out, flush=True)

    def tell(self, text: str) -> None:
        """A line of its own. With --json it goes to stderr."""
        start = "\r\033[K" if self._out.isatty() and not self.as_json else ""
        print(f"{start}{text}", file=sys.stderr if self.as_json else self._out, flush=True)

    def line(self, step: int) -> str:
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        seconds = max(end - start, 1e-9)
        left = (self.steps - step) * seconds / max(1, len(self._recent) - 1)
        return (
            f"{self.stage}  {step}/{self.steps}  loss {self._loss:.4f}  {(after - before) / seconds:,.0f} tokens/s  "
            f"{clock(left)} left"
        )


def clock(seconds: float) -> str:
    """125.0 -> '2 min 05 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
