"""What a training step needs of a device's memory, by part, without making a network.

Weights, gradients, AdamW's state and the average are counted. What forward and backward hold is found by playing them
through on tensors that have shapes and no contents (FakeTensorMode), with every storage followed from birth to death:
the numbers are those of the code that will run, and stay right when a block changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.devices import lack_of_memory
from model.dit import DiT
from model.flops import parameters
from model.lora import add_lora
from pipelines import Lora, Stage
from train.optim import DTYPES

POINTS = (1024, 4096)  # tokens at which a step is played; between and beyond them its memory is a straight line
DATA_COPIES = 4  # of the video in float32 or wider: data, noise, their mixture, the target
GATHERED = 2  # whole blocks that a rank of a sharded network holds: the one at work and the next


class TooLarge(RuntimeError):
    """A micro-batch that the device's memory does not hold. The message names its bucket and what helps."""


class Memory(NamedTuple):
    """Bytes on one device at the worst moment of a step, by part."""

    weights: float  # masters, and the rounded copies that compute
    gradients: float
    optimiser: float
    average: float
    gathered: float  # whole blocks of a sharded network
    activations: float  # kept by the forward pass for the backward pass
    workspace: float  # what backward holds beside them: a repeated block, attention's gradients, gradients being added
    data: float

    @property
    def total(self) -> float:
        return sum(self)


class Job(NamedTuple):
    """What decides the memory of a step beside its bucket: a size as sorted pairs, and keys of the stage. held: whether
    gradients of several micro-batches are added up before they are summed over the processes of a spread network."""

    size: tuple[tuple[str, Any], ...]
    checkpointing: str
    precision: str
    lora: Lora | None = None
    shards: int = 1
    held: bool = False


def job_of(
    size: dict[str, Any], checkpointing: str, precision: str, lora: Lora | None = None, shards: int = 1,
    held: bool = False,
) -> Job:  # fmt: skip
    return Job(tuple(sorted(size.items())), checkpointing, precision, lora, shards, held)


def memory(job: Job, batch: int, tokens: int, text: int) -> Memory:
    """Of a step on `batch` samples of `tokens` video and `text` text tokens each, on each of the job's devices."""
    size, narrow = dict(job.size), DTYPES[job.precision].itemsize
    wide = max(narrow, 4)
    copies = narrow if narrow < wide and job.shards == 1 else 0  # spread weights are rounded as they are gathered
    every, trained = parameters(size), _trained(job)
    low, high = (_played(job, point) for point in POINTS)
    at = (batch * (tokens + text) - POINTS[0]) / (POINTS[1] - POINTS[0])
    kept, peak = (a + at * (b - a) for a, b in zip(low, high))
    pixels = size["patch"][0] * size["patch"][1] * size["patch"][2] * size["in_channels"]
    return Memory(
        weights=(every * copies + trained * wide if copies else every * wide) / job.shards,
        gradients=trained * (wide + copies) / (1 if job.held else job.shards),  # held ones are whole, on every process
        optimiser=2 * trained * wide / job.shards,
        average=trained * wide / job.shards,
        gathered=0.0 if job.shards == 1 else GATHERED * _largest_block(size) * (narrow + wide),
        activations=kept,
        workspace=peak - kept,
        data=batch * tokens * pixels * wide * DATA_COPIES + batch * text * size["text_width"] * 4,
    )


def told_of(bucket: str, samples: int, tokens: int) -> str:
    return f"{bucket} ({samples} samples of {tokens} tokens)"


def help_of(stage: Stage) -> str:
    """What needs less memory than the stage does now."""
    less = ["fewer `tokens`"]
    less += ["`checkpointing: full`"] if stage.checkpointing != "full" else []
    less += ["`reduce: micro_batch`"] if stage.shard != "none" and stage.reduce == "step" else []
    return f"{', '.join(less)} or more GPUs with `shard: full`"


@contextmanager
def fitting(bucket: str, stage: Stage) -> Iterator[None]:
    """Inside, memory that is not there is told as TooLarge. bucket: as told_of tells it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (why := lack_of_memory(error)) is None:
            raise
        raise TooLarge(f"bucket {bucket} does not fit into memory ({why}); {help_of(stage)} help") from None


# ------------------------------------------------------------------------------------------------------ playing a step


@lru_cache(maxsize=64)
def _played(job: Job, tokens: int) -> tuple[float, float]:
    """Bytes beyond weights and gradients after the forward pass, and at the worst moment, of a sample of `tokens`."""
    size, dtype = dict(job.size), DTYPES[job.precision]
    step_t, step_h, step_w = size["patch"]
    text = tokens // 8
    shape = (1, size["in_channels"], step_t, step_h * 8, step_w * (tokens - text) // 8)
    with FakeTensorMode(), _default(dtype):
        model = _model(job)
        for one in model.parameters():
            one.grad = torch.zeros_like(one) if one.requires_grad else None
        x, t, guidance = torch.zeros(shape), torch.zeros(1), torch.zeros(1) if size["guidance"] else None
        states, pooled = torch.zeros(1, text, size["text_width"]), torch.zeros(1, size["pooled_width"])
        live = Live([*model.parameters(), *(one.grad for one in model.parameters()), x, states, pooled])
        with live:
            loss = model(x, t, states, None, pooled, guidance).square().mean()
            kept = live.now
            loss.backward()
    return float(kept), float(live.peak)


class Live(TorchDispatchMode):
    """Follows the storages that operations make. now, peak: bytes held beyond those known at the start."""

    def __init__(self, known: list[Tensor | None]):
        super().__init__()
        self.now = self.peak = 0
        self._held: set[int] = set()
        for one in known:
            if one is not None:
                self._held.add(one.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self._see(one.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._held:
            return
        self._held.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.now -= size


def _model(job: Job) -> DiT:
    model = DiT(**dict(job.size), checkpointing=job.checkpointing)
    if job.lora:
        add_lora(model, job.lora.rank, job.lora.alpha, job.lora.targets)
    return model


@lru_cache(maxsize=16)
def _trained(job: Job) -> int:
    """Parameters that get gradients."""
    if job.lora is None:
        return parameters(dict(job.size))
    with torch.device("meta"):
        return sum(one.numel() for one in _model(job).parameters() if one.requires_grad)


def _largest_block(size: dict[str, Any]) -> int:
    """Parameters of a double block."""
    return parameters(size | {"double_blocks": 1}) - parameters(size | {"double_blocks": 0})


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
